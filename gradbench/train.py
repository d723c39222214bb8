"""THE loop: one stack of cells from first step to last.

K cells, P parameters of a player, U different seeds. Everything a cell needs has a leading axis K; models and
regularizers are written for one network, and ``vmap`` adds the axis. Values reach the host once per chunk of steps.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from gradbench.checkpoint import Checkpoint
from gradbench.cores import cores
from gradbench.data import Data
from gradbench.divergence import has_finite
from gradbench.graphs import calls_of
from gradbench.grid import Cell
from gradbench.stack import CHUNK, Setup, State, begin, draw_chunk, has_thinned, prepare, without_diverged
from gradbench.step import Calls
from gradbench.telemetry import Telemetry, gradient_histograms

Report = Callable[[int, list[float]], None]
"""``report(step, losses)``: called once per chunk; a loss is NaN for a cell that has diverged."""


@dataclass
class Outcome:
    """What training a stack gave. Axis K in the order of the cells.

    Attributes:
        curves: series [steps, K], NaN after a cell has diverged.
        evaluations: step -> metric -> [K].
        arrays: per cell, what figures need beyond numbers, from the last step; none for a cell that diverged.
        diverged_at: [K], the step at which a cell diverged; 0 where it did not.
        step_seconds: of one step and one cell: the stack's median over chunks, divided by the cells trained.
        seconds: of the whole stack, evaluations included.
    """

    curves: dict[str, np.ndarray]
    evaluations: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    arrays: list[dict[str, np.ndarray]] = field(default_factory=list)
    diverged_at: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    step_seconds: float = 0.0
    seconds: float = 0.0


def train(
    cells: Sequence[Cell],
    data: Data,
    device: torch.device,
    report: Report = lambda _s, _l: None,
    checkpoint: Checkpoint | None = None,
) -> Outcome:
    """Train one stack.

    Args:
        cells: share their step program: equal configs but for strengths, learning rates and seeds, and for the
            regularizer where none has a penalty.
        data: what they train on.
        device: where.
        report: is told the step and each cell's loss, once per chunk.
        checkpoint: is gone on from where there is one, and saved to when it is due.
    """
    started = time.perf_counter()
    saved = checkpoint.load(device) if checkpoint is not None else None
    setup = prepare(cells, data, device, saved["places"] if saved else None)
    calls, state, telemetry = calls_of(setup), begin(setup), Telemetry(setup)
    outcome, chunk_seconds, draws = Outcome(telemetry.curves), [], None
    if saved:
        restore(saved, state, telemetry, outcome)

    while state.step < setup.steps and telemetry.anyone_alive:
        tick = time.perf_counter()
        # from the state alone, so that a run that was killed leaves out the same cells
        if has_thinned(setup, state):
            setup, state = without_diverged(setup, state, data)
            calls, draws = calls_of(setup), None
            telemetry.follow(setup)
        if draws is None:
            draws = draw_chunk(setup, state.step)
        ahead = min(until(CHUNK, state.step), until(setup.eval_every, state.step), setup.steps - state.step)
        before = state.step
        for _ in range(ahead):
            calls.advance(state, draws, telemetry)
            if has_thinned(setup, state):
                break
        if state.step % CHUNK == 0 and state.step < setup.steps:  # while a GPU is still busy
            draws = draw_chunk(setup, state.step)
        report(state.step, telemetry.flush(state))
        chunk_seconds.append((time.perf_counter() - tick) / (state.step - before) / len(setup.places))
        over = not telemetry.anyone_alive and not outcome.evaluations  # what is measured is known from one
        if state.step % setup.eval_every == 0 or state.step == setup.steps or over:
            outcome.evaluations[state.step], outcome.arrays = evaluate(calls, state)
        unfinished = state.step < setup.steps and telemetry.anyone_alive
        if checkpoint is not None and unfinished and checkpoint.due():
            checkpoint.save(content(setup, state, telemetry, outcome))

    outcome.diverged_at = telemetry.diverged_at
    if state.step == setup.steps:
        judge_end(setup, state, outcome)
    # a cell may have diverged since the last evaluation
    outcome.arrays = [
        {} if diverged else arrays
        for diverged, arrays in zip(outcome.diverged_at, outcome.arrays, strict=False)
    ]
    outcome.step_seconds = float(np.median(chunk_seconds))
    outcome.seconds = time.perf_counter() - started
    return outcome


def until(period: int, step: int) -> int:
    """Return the number of steps from ``step`` to the next multiple of ``period``, at least one."""
    return period - step % period


def content(setup: Setup, state: State, telemetry: Telemetry, outcome: Outcome) -> dict[str, Any]:
    """Return all that a checkpoint must hold. Random numbers are drawn by step, so no generator has a state."""
    evaluations = {
        step: {name: torch.from_numpy(values) for name, values in metrics.items()}
        for step, metrics in outcome.evaluations.items()
    }
    return {
        "places": setup.places,
        "state": state.content(),
        "curves": telemetry.content(state),
        "evaluations": evaluations,
    }


def restore(saved: dict[str, Any], state: State, telemetry: Telemetry, outcome: Outcome) -> None:
    """Take over what :func:`content` gave."""
    state.restore(saved["state"])
    telemetry.restore(saved["curves"], state)
    outcome.evaluations = {
        step: {name: tensor.cpu().numpy() for name, tensor in metrics.items()}
        for step, metrics in saved["evaluations"].items()
    }


def evaluate(calls: Calls, state: State) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """Return metrics, each [N], and the arrays for figures of each of the whole stack's N cells.

    A cell that has diverged, or whose parameters are not finite, has NaN and none.
    """
    setup = calls.setup
    results = {name: tensor.cpu().numpy() for name, tensor in calls.evaluate(state).items()}
    N = len(setup.cells)
    scalars = {name: values for name, values in results.items() if values.ndim == 1}
    metrics = {name: np.full(N, np.nan) for name in scalars}
    arrays: list[dict[str, Any]] = [{} for _ in range(N)]
    large = {name: values for name, values in results.items() if values.ndim > 1}

    def summary(k: int) -> tuple[dict[str, float], dict[str, Any]]:
        return setup.model.summarize({name: values[k] for name, values in large.items()}, setup.arrays)

    sound = np.flatnonzero((state.alive & has_finite(state.parameters)).cpu().numpy())
    for k, (further, kept) in zip(sound, every(summary, sound, setup.device), strict=True):
        place = setup.places[k]
        arrays[place] = kept
        for name, value in [*((name, values[k]) for name, values in scalars.items()), *further.items()]:
            metrics.setdefault(name, np.full(N, np.nan))[place] = value
        if state.step == setup.steps:  # of all evaluations it is the last one's arrays that are kept
            arrays[place] |= gradient_histograms(state, int(k))
    return metrics, arrays


def judge_end(setup: Setup, state: State, outcome: Outcome) -> None:
    """Mark cells as diverged at the last step whose parameters or compared metric are not finite after it.

    The parameters are those of every player. Such a cell's metrics of the last evaluation become NaN. In an earlier
    evaluation a compared metric that is not finite does not count, since training may recover; nor does any other
    metric ever.
    """
    metrics = outcome.evaluations[setup.steps]
    broken = np.zeros(len(setup.cells), dtype=bool)
    broken[setup.places] = ~has_finite(state.parameters).cpu().numpy()
    for k, cell in enumerate(setup.cells):
        compared = cell.config["model"]["metric"]
        broken[k] |= compared in metrics and not np.isfinite(metrics[compared][k])
    outcome.diverged_at[broken & (outcome.diverged_at == 0)] = setup.steps
    for values in metrics.values():
        values[broken] = np.nan


def every(function: Callable[[Any], Any], items: Iterable[Any], device: torch.device) -> Iterable[Any]:
    """Call a function for every item, for a GPU's stack on all cores: on a CPU the others train stacks of their own."""
    if device.type == "cpu":
        return map(function, items)
    with ThreadPoolExecutor(cores() // max(torch.cuda.device_count(), 1) or 1) as pool:
        return list(pool.map(function, items))

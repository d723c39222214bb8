"""Train one stack of cells from its first step to its last: the loop.

K cells, P parameters of a player, U different seeds. Everything a cell needs has a leading axis K; models and
regularizers are written for one network, and ``vmap`` adds the axis. Values reach the host once per chunk of steps.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from gradbench.cpu_count import cores
from gradbench.data import Data
from gradbench.grid.cell import Cell
from gradbench.models import SNAPSHOTS
from gradbench.training.bind import init_state
from gradbench.training.checkpoint import Checkpoint
from gradbench.training.cuda_graphs import make_stepper
from gradbench.training.divergence import has_finite
from gradbench.training.draws import CHUNK, draw_chunk
from gradbench.training.program import build
from gradbench.training.setup import build_stack, compact, should_compact
from gradbench.training.state import StackContext, State
from gradbench.training.step import EagerStepper
from gradbench.training.telemetry import Telemetry, gradient_histograms, series_of

META = torch.device("meta")
"""Device of tensors that have sizes and no memory."""

MAX_METRICS, TENSOR, SLACK = 64, 1024, 2**26
"""Bounds for the size of a checkpoint: metrics of an evaluation, bytes that a saved tensor adds to its numbers, and
bytes that a checkpoint may have however small its stack is."""

MAX_SNAPSHOTS, SNAPSHOT = 5, 2**20
"""Evaluations whose snapshots are kept, spread over training, and bytes that a cell's may have."""


class Listener(Protocol):
    """Is told of the training of a stack of N cells, from numbers that are on the host anyway; it must not raise."""

    def on_chunk(self, step: int, series: Mapping[str, np.ndarray]) -> None:
        """Handle the series of the steps since the last chunk, up to ``step``.

        Args:
            step: last step of the chunk, counted from 1.
            series: name -> [steps, N]; NaN after a cell has diverged. To be read only.
        """

    def on_evaluation(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Handle the metrics after a step, name -> [N]; NaN where a cell has none."""

    def on_end(self, statuses: Sequence[str]) -> None:
        """Handle that training has ended, each cell as ``completed`` or ``diverged``."""


@dataclass
class Outcome:
    """The result of training a stack. N cells, in the order of the stack.

    Attributes:
        curves: series -> [steps, N]; NaN after a cell has diverged.
        evaluations: step -> metric -> [N].
        snapshots: step -> per cell, the arrays named ``snapshots/...`` of this evaluation.
        arrays: per cell, what figures need beyond numbers, from the last step, and all snapshots, [E, ...] for E
            evaluations, with their ``snapshots/steps``; none for a cell that diverged.
        diverged_at: [N], the step at which a cell diverged; 0 where it did not.
        step_seconds: of one step and one cell: the stack's median over chunks, divided by the cells trained.
        seconds: of the whole stack, evaluations included.
        exact: whether each cell's numbers are the same in a stack of any width.
    """

    curves: dict[str, np.ndarray]
    evaluations: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    snapshots: dict[int, list[dict[str, np.ndarray]]] = field(default_factory=dict)
    arrays: list[dict[str, np.ndarray]] = field(default_factory=list)
    diverged_at: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    step_seconds: float = 0.0
    seconds: float = 0.0
    exact: bool = False

    @property
    def statuses(self) -> list[str]:
        """How each cell has ended."""
        return ["diverged" if step else "completed" for step in self.diverged_at]


def train(
    cells: Sequence[Cell],
    data: Data,
    device: torch.device,
    listeners: Sequence[Listener] = (),
    checkpoint: Checkpoint | None = None,
) -> Outcome:
    """Train one stack.

    Args:
        cells: share their step program: equal configs but for strengths, learning rates and seeds, and for the
            regularizer where none has a penalty.
        data: what they train on.
        device: device the stack trains on.
        listeners: told of each chunk of steps, each evaluation and the end.
        checkpoint: resumed from where it holds something, and saved to when it is due.
    """
    started = time.perf_counter()
    saved = None
    if checkpoint is not None and checkpoint.exists():
        saved = load_saved(checkpoint, cells, data, device)
    context = build_stack(cells, data, device, saved["cell_indices"] if saved else None)
    stepper, state, telemetry = make_stepper(context), init_state(context), Telemetry(context)
    outcome, chunk_seconds, draws = Outcome(telemetry.curves), [], None
    if saved:
        restore(saved, state, telemetry, outcome)

    while state.step < context.steps and telemetry.any_active:
        tick = time.perf_counter()
        # from the state alone, so that a run that was killed leaves out the same cells
        if should_compact(context, state):
            context, state = compact(context, state, data)
            stepper, draws = make_stepper(context), None
            telemetry.follow(context)
        if draws is None:
            draws = draw_chunk(context, state.step)
        ahead = min(
            until(CHUNK, state.step), until(context.eval_every, state.step), context.steps - state.step
        )
        before = state.step
        for _ in range(ahead):
            stepper.advance(state, draws, telemetry)
            if should_compact(context, state):
                break
        if state.step % CHUNK == 0 and state.step < context.steps:  # while a GPU is still busy
            draws = draw_chunk(context, state.step)
        telemetry.flush(state)
        for listener in listeners:
            listener.on_chunk(state.step, telemetry.since(before, state.step))
        chunk_seconds.append((time.perf_counter() - tick) / (state.step - before) / len(context.cell_indices))
        # a stack whose cells all diverge before their first evaluation has one, for the names of the metrics
        only_one = not telemetry.any_active and not outcome.evaluations
        if state.step % context.eval_every == 0 or state.step == context.steps or only_one:
            outcome.evaluations[state.step], outcome.arrays = evaluate(stepper, state)
            if state.step in snapshot_steps(context.steps, context.eval_every):
                outcome.snapshots[state.step] = [snapshot_of(arrays) for arrays in outcome.arrays]
            for listener in listeners:
                listener.on_evaluation(state.step, outcome.evaluations[state.step])
        unfinished = state.step < context.steps and telemetry.any_active
        if checkpoint is not None and unfinished and checkpoint.due():
            checkpoint.save(checkpoint_of(context, state, telemetry, outcome))

    outcome.diverged_at = telemetry.diverged_at
    if state.step == context.steps:
        judge_end(context, state, outcome)
    # a cell may have diverged since the last evaluation
    outcome.arrays = [
        {} if diverged else arrays | stack_snapshots(outcome.snapshots, place)
        for place, (diverged, arrays) in enumerate(zip(outcome.diverged_at, outcome.arrays, strict=False))
    ]
    outcome.step_seconds = float(np.median(chunk_seconds))
    outcome.seconds = time.perf_counter() - started
    outcome.exact = context.is_exact
    for listener in listeners:
        listener.on_end(outcome.statuses)
    return outcome


def until(period: int, step: int) -> int:
    """Return the number of steps from ``step`` to the next multiple of ``period``, at least one."""
    return period - step % period


def checkpoint_of(
    context: StackContext, state: State, telemetry: Telemetry, outcome: Outcome
) -> dict[str, Any]:
    """Gather the content of a checkpoint. Random numbers are drawn by step, so no generator has a state."""
    evaluations = {
        step: {name: torch.from_numpy(values) for name, values in metrics.items()}
        for step, metrics in outcome.evaluations.items()
    }
    snapshots = {
        step: [{name: torch.from_numpy(array) for name, array in arrays.items()} for arrays in of_cells]
        for step, of_cells in outcome.snapshots.items()
    }
    return {
        "cell_indices": context.cell_indices,
        "state": state.state_dict(),
        "curves": telemetry.state_dict(state),
        "evaluations": evaluations,
        "snapshots": snapshots,
    }


def load_saved(
    checkpoint: Checkpoint, cells: Sequence[Cell], data: Data, device: torch.device
) -> dict[str, Any] | None:
    """Load what a stack goes on from; ``None`` if there is nothing, or if its model carried other values then."""
    saved = checkpoint.load(device, largest_checkpoint(cells, data, device))
    carry = build(cells[0].config, data).model.carry()
    return saved if saved and saved["state"]["carry"].keys() == carry.keys() else None


def largest_checkpoint(cells: Sequence[Cell], data: Data, device: torch.device) -> int:
    """Return more bytes than any checkpoint of a stack has, without allocating its state."""
    context = build_stack(cells, data, META, traces=False, kind=device.type)
    with META:
        state = init_state(context)
    series = sum(len(series_of(player)) for player in context.players)
    curves = 8 * context.steps * series * len(cells)
    evaluations = (context.steps // context.eval_every + 2) * MAX_METRICS * (TENSOR + 8 * len(cells))
    snapshots = MAX_SNAPSHOTS * SNAPSHOT * len(cells)
    return SLACK + 2 * (tensor_bytes(state.state_dict()) + curves + evaluations + snapshots)


def tensor_bytes(value: Any) -> int:
    """Return the bytes of a tensor, or of all tensors in nested containers."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(tensor_bytes, inner))


def restore(saved: dict[str, Any], state: State, telemetry: Telemetry, outcome: Outcome) -> None:
    """Take over what :func:`checkpoint_of` returned."""
    state.load_state_dict(saved["state"])
    telemetry.load_state_dict(saved["curves"], state)
    outcome.evaluations = {
        step: {name: tensor.cpu().numpy() for name, tensor in metrics.items()}
        for step, metrics in saved["evaluations"].items()
    }
    outcome.snapshots = {
        step: [{name: tensor.cpu().numpy() for name, tensor in arrays.items()} for arrays in of_cells]
        for step, of_cells in saved["snapshots"].items()
    }


def snapshot_steps(steps: int, eval_every: int) -> set[int]:
    """Return the steps of the evaluations whose snapshots are kept: the first, the last, and some between."""
    count = math.ceil(steps / eval_every)
    chosen = np.linspace(1, count, min(count, MAX_SNAPSHOTS)).round().astype(int).tolist()
    return {min(index * eval_every, steps) for index in chosen}


def snapshot_of(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return those of a cell's arrays that are kept of several evaluations, if they are not too large."""
    found = {name: array for name, array in arrays.items() if name.startswith(SNAPSHOTS)}
    return found if sum(array.nbytes for array in found.values()) <= SNAPSHOT else {}


def stack_snapshots(
    snapshots: Mapping[int, list[dict[str, np.ndarray]]], place: int
) -> dict[str, np.ndarray]:
    """Return a cell's snapshots of E evaluations as arrays [E, ...], and the steps of these; nothing if it has none."""
    kept = {step: of_cells[place] for step, of_cells in sorted(snapshots.items()) if of_cells[place]}
    if not kept:
        return {}
    names = next(iter(kept.values()))
    stacked = {name: np.stack([arrays[name] for arrays in kept.values()]) for name in names}
    return stacked | {f"{SNAPSHOTS}steps": np.array(list(kept))}


def evaluate(
    stepper: EagerStepper, state: State
) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """Return metrics, each [N], and the arrays for figures of each of the whole stack's N cells.

    A cell that has diverged, or whose parameters are not finite, has NaN and none.
    """
    context = stepper.context
    found = stepper.evaluate(state)
    if state.step == context.steps:
        found = found | context.sample(state.weights, state.carry)
    results = {name: tensor.cpu().numpy() for name, tensor in found.items()}
    N = len(context.cells)
    scalars = {name: values for name, values in results.items() if values.ndim == 1}
    metrics = {name: np.full(N, np.nan) for name in scalars}
    arrays: list[dict[str, Any]] = [{} for _ in range(N)]
    large = {name: values for name, values in results.items() if values.ndim > 1}

    def summary(k: int) -> tuple[dict[str, float], dict[str, Any]]:
        return context.model.summarize({name: values[k] for name, values in large.items()}, context.arrays)

    sound = np.flatnonzero((state.active & has_finite(state.parameters)).cpu().numpy())
    for k, (further, kept) in zip(sound, parallel_map(summary, sound, context.device), strict=True):
        place = context.cell_indices[k]
        arrays[place] = kept
        for name, value in [*((name, values[k]) for name, values in scalars.items()), *further.items()]:
            metrics.setdefault(name, np.full(N, np.nan))[place] = value
        if state.step == context.steps:  # of all evaluations it is the last one's arrays that are kept
            arrays[place] |= gradient_histograms(state, int(k))
    return metrics, arrays


def judge_end(context: StackContext, state: State, outcome: Outcome) -> None:
    """Mark cells as diverged at the last step whose parameters or compared metric are not finite after it.

    The parameters are those of every player. Such a cell's metrics of the last evaluation become NaN. In an earlier
    evaluation a compared metric that is not finite does not count, since training may recover; nor does any other
    metric ever. Cells whose compared metric has fallen for good, by ``divergence.fall``, are marked as well.
    """
    metrics = outcome.evaluations[context.steps]
    broken = np.zeros(len(context.cells), dtype=bool)
    broken[context.cell_indices] = ~has_finite(state.parameters).cpu().numpy()
    for k, cell in enumerate(context.cells):
        compared, goal = cell.config["model"]["metric"], cell.config["model"]["goal"]
        course = [found[compared][k] for found in outcome.evaluations.values() if compared in found]
        broken[k] |= bool(course) and not np.isfinite(course[-1])
        broken[k] |= context.divergence.has_fallen(course, goal)
    outcome.diverged_at[broken & (outcome.diverged_at == 0)] = context.steps
    for values in metrics.values():
        values[broken] = np.nan


def parallel_map(function: Callable[[Any], Any], items: Iterable[Any], device: torch.device) -> Iterable[Any]:
    """Call a function for every item, for a GPU's stack on all cores: on a CPU the others train stacks of their own."""
    if device.type == "cpu":
        return map(function, items)
    with ThreadPoolExecutor(cores() // max(torch.cuda.device_count(), 1) or 1) as pool:
        return list(pool.map(function, items))

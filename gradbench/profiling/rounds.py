"""Time the programs of one setting in interleaved rounds, within seconds, and store the rounds."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradbench.config.hashing import canonical
from gradbench.errors import UsageError
from gradbench.grid.cell import Cell
from gradbench.launchers.worker import check_code, check_unchanged, load_recent
from gradbench.profiling.cases import NONE
from gradbench.profiling.timing import Runner, time_rounds
from gradbench.storage.costs import write_costs
from gradbench.storage.provenance import now, provenance
from gradbench.training.bind import init_state
from gradbench.training.checkpoint import StoppedError
from gradbench.training.draws import CHUNK, draw_chunk
from gradbench.training.setup import build_stack

ROUNDS, FEWEST_ROUNDS = 20, 6
"""Rounds, and the fewest of which a median has a 95 % interval."""

SECONDS = 2.0
"""Time for the rounds of one setting; slow steps have fewer rounds for it."""

MOST_SECONDS = 30.0
"""Time for the fewest rounds above which a setting is not timed."""

TIMING_SECONDS = 0.02
"""Least duration of one timing, in which a step is repeated."""


def measure_setting(
    cells: Sequence[Cell],
    width: int,
    folder: Path,
    device: torch.device,
    stop: Callable[[], bool],
    *,
    limited: bool = True,
) -> None:
    """Time a step of each program, and write the rounds to a results folder. What is trained for it is thrown away.

    Args:
        cells: one of each program; ``none`` first, where there is one.
        width: cells per stack: copies of the cell with seeds from 0 on.
        folder: the results folder.
        device: device that they are timed on.
        stop: returns whether to leave now; nothing is written then.
        limited: take few rounds, or refuse, where steps are slow.

    Raises:
        UsageError: if it would take too long, or code or data have changed since the plan.
        StoppedError: if ``stop`` says so.
    """
    seconds, steps = time_setting(cells, width, device, stop, limited=limited)
    write_costs(folder, cost_rows(cells, width, seconds, steps, device))


def time_setting(
    cells: Sequence[Cell], width: int, device: torch.device, stop: Callable[[], bool], *, limited: bool
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Return program -> seconds of a step in each round, and program -> steps in a timing; raises as above."""

    def look(_: int = 0) -> None:
        if stop():
            raise StoppedError

    check_code(cells)
    data = load_recent(canonical(cells[0].config["data"]))
    check_unchanged(cells[0], data)
    runners: dict[str, Runner] = {}
    round_seconds = 0.0
    for cell in cells:
        look()
        stack = [replace(cell, config={**cell.config, "seed": seed}) for seed in range(width)]
        context = build_stack(stack, data, device)
        runner = Runner(context, init_state(context), draw_chunk(context, 0))
        runner.run()  # traces it
        tick = time.perf_counter()
        step, _ = runner.run()
        round_seconds += time.perf_counter() - tick
        runner.steps = min(math.ceil(TIMING_SECONDS / max(step, 1e-9)), CHUNK, max(context.steps - 1, 1))
        round_seconds += (runner.steps - 1) * step
        if limited:
            check_duration(round_seconds)
        runners[cell.step_program] = runner
    if device.type == "cuda":  # captures the graphs that a single step did not need
        for runner in runners.values():
            runner.run()
    affordable = math.floor(SECONDS / round_seconds) if limited else ROUNDS
    count = min(max(affordable, FEWEST_ROUNDS), ROUNDS)
    seconds = time_rounds(runners, {}, count, look).steps
    return seconds, {name: runner.steps for name, runner in runners.items()}


def check_duration(round_seconds: float) -> None:
    """Refuse rounds of so many seconds that the fewest of them take too long.

    Raises:
        UsageError: if they do.
    """
    if FEWEST_ROUNDS * round_seconds > MOST_SECONDS:
        raise UsageError(
            f"{FEWEST_ROUNDS} rounds would take {FEWEST_ROUNDS * round_seconds:.0f} s or more, and the limit is "
            f"{MOST_SECONDS:.0f} s; gradbench cost has none"
        )


def cost_rows(
    cells: Sequence[Cell],
    width: int,
    seconds: dict[str, np.ndarray],
    steps: dict[str, int],
    device: torch.device,
) -> list[dict[str, Any]]:
    """Return the rows of the table of costs: one per program and round; seconds are per step and cell."""
    has_control = cells[0].config["regularizer"]["name"] == NONE
    control = seconds[cells[0].step_program]
    origin = provenance(str(device))
    common = {key: origin[key] for key in ("device", "device_name", "gradbench", "torch")} | {
        "measured": now()
    }
    return [
        {
            "step_program": cell.step_program,
            "model": cell.config["model"]["name"],
            "regularizer": cell.config["regularizer"]["name"],
            "round": index,
            "step_seconds": float(one / width),
            "step_ratio": float(one / base) if has_control else math.nan,
            "width": width,
            "steps": steps[cell.step_program],
            **common,
        }
        for cell in cells
        for index, (one, base) in enumerate(zip(seconds[cell.step_program], control, strict=True))
    ]

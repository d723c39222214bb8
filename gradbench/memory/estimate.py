"""How much memory a stack takes: predicted before it starts, measured while it runs, and what a device has free.

K cells, U different seeds. A stack's peak is reached in one of a few phases, and in each it is a straight line:
``fixed + K per_cell + U per_seed`` bytes. The lines come from running each phase with one cell and with two on
torch's ``meta`` device, where tensors have a size and no memory.
"""

import contextlib
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import psutil
import torch
from torch.profiler import ProfilerActivity, profile

from gradbench.data import Data
from gradbench.functional.torch_internals import clear_cublas_workspaces, memory_events, tree_map
from gradbench.grid.cell import Cell
from gradbench.memory.tracker import META, MemoryTracker
from gradbench.training.cuda_graphs import make_stepper
from gradbench.training.draws import draw_chunk
from gradbench.training.setup import build_stack, init_state
from gradbench.training.state import StackContext
from gradbench.training.telemetry import Telemetry

STEPS = 2
"""Steps that are looked at: one that is followed by another, and the last, whose gradient is kept for a histogram."""

STEPS_UNTIL_GRAPH = 3
"""Steps that a GPU takes until one is launched as a graph: two that differ are called first."""

HEADROOM = 1.25
"""A prediction may be wrong by a quarter: a stack fits where this many times its peak would be free."""

WORKSPACE = {"cuda": 3 * 32 * 2**20}
"""Bytes that a device's libraries take once: cuBLAS, as ``CUBLAS_WORKSPACE_CONFIG=:4096:8`` has it (8 × 4 MiB), for
each thread and stream that calls it: those of a step, of autograd while it is recorded, of graphs."""


# ---- predicted ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PhasePeak:
    """Bytes at the peak of one phase: ``fixed + K per_cell + U per_seed``."""

    fixed: int
    per_cell: int
    per_seed: int


@dataclass(frozen=True)
class Footprint:
    """A stack's peak as a function of its width: the highest of its phases' lines."""

    phases: tuple[PhasePeak, ...]

    def peak_bytes(self, K: int, seeds: int | None = None) -> int:
        """Return the peak in bytes of K cells of so many different seeds; by default each has its own."""
        U = K if seeds is None else seeds
        return max(line.fixed + K * line.per_cell + U * line.per_seed for line in self.phases)


def max_width(footprint: Footprint, free: int) -> int:
    """Return how wide a stack may be that fits into so many free bytes, with :data:`HEADROOM`; 0 for not at all."""
    narrow, wide = 0, 1
    while wide < 2**20 and footprint.peak_bytes(wide) * HEADROOM <= free:
        narrow, wide = wide, 2 * wide
    while wide - narrow > 1:
        middle = (narrow + wide) // 2
        narrow, wide = (middle, wide) if footprint.peak_bytes(middle) * HEADROOM <= free else (narrow, middle)
    return narrow


def predict_footprint(cells: Sequence[Cell], data: Data, kind: str) -> Footprint:
    """Predict the peak memory of stacks of cells like these; nothing is allocated but random numbers and a network.

    Counted: every tensor, and on a CPU the data and the curves, which lie in the same memory. Not counted: Python,
    torch itself, what ``Model.summarize`` does on the host. For ``precision=bfloat16`` the numbers are those of
    float32, which are no smaller.

    Args:
        cells: share their step program; of each regularizer among them one is looked at, and the largest counts.
        data: what they train on.
        kind: of device, as ``torch.device.type``.
    """
    kinds = {cell.regularizer_program: cell for cell in cells}
    return Footprint(tuple(line for cell in kinds.values() for line in predict_phases(cell, data, kind)))


def predict_phases(cell: Cell, data: Data, kind: str) -> list[PhasePeak]:
    """Return the line of each phase for stacks of one regularizer."""
    one, other = (shorten(cell, seed) for seed in (0, 1))
    alone, paired, apart = (
        predict_peaks(cells, data, kind, cell.config["steps"]) for cells in ([one], [one, one], [one, other])
    )
    return [
        PhasePeak(2 * first - last, same - first, last - same)
        for first, same, last in zip(alone, paired, apart, strict=True)
    ]


def shorten(cell: Cell, seed: int) -> Cell:
    """Return a cell that takes as much memory in few steps."""
    config = dict(cell.config) | {"seed": seed, "steps": STEPS}
    precision = "float32" if config["precision"] == "bfloat16" else config["precision"]
    return replace(cell, config=config | {"precision": precision})


def predict_peaks(cells: Sequence[Cell], data: Data, kind: str, steps: int) -> list[int]:
    """Return the peak of each phase in bytes, for so many steps, from a run on ``meta``."""
    phases = []
    host = sum(array.nbytes for array in data.arrays.values())
    with MemoryTracker(kind) as tracker:
        for telemetry in run_phases(build_stack(cells, data, META, traces=False, kind=kind), META, kind):
            curves = sum(curve.nbytes // STEPS for curve in telemetry.curves.values()) * steps
            phases.append((tracker.pop_peak(), tracker.live))
    more = host + curves if kind == "cpu" else WORKSPACE.get(kind, 0)
    return [peak + more for peak in add_graph_memory(kind, phases)]


def add_graph_memory(kind: str, phases: Sequence[tuple[int, int]]) -> list[int]:
    """Return the peak of each phase of :func:`walk`, of its peak and what is alive after it.

    On a GPU an evaluation finds less memory: graphs keep to themselves what a step needs beside what stays.
    """
    *before, (evaluation, _) = phases
    step, stays = before[-1]
    return [*(peak for peak, _ in before), evaluation + (step - stays if kind == "cuda" else 0)]


def run_phases(context: StackContext, device: torch.device, kind: str) -> Iterator[Telemetry]:
    """Go through all that a stack made for a kind of device does which takes memory, pausing after each phase."""
    with device if device == META else contextlib.nullcontext():  # there, weights have a size and no memory
        state = init_state(context)
    stepper, telemetry = make_stepper(context), Telemetry(context)
    yield telemetry
    draws = draw_chunk(context, 0)
    draws = draw_chunk(context, 0)  # while those of the chunk before are still there
    # on the device itself graphs do this, to find them in one place
    at_home = tree_map(torch.clone, draws) if kind == "cuda" and device == META else {}
    yield telemetry
    for _ in range(min(STEPS_UNTIL_GRAPH if device.type == "cuda" else STEPS, context.steps)):
        stepper.advance(state, draws, telemetry)
    yield telemetry
    stepper.evaluate(state)
    del at_home
    yield telemetry


# ---- measured ----------------------------------------------------------------------------------------------


def measure_peak(
    cells: Sequence[Cell], data: Data, device: torch.device, traces: bool = True
) -> tuple[StackContext, int | None]:
    """Return a stack's setup, and its peak in bytes from really going through its phases on a device.

    What is counted is what :func:`footprint` counts, by the device's own allocator. ``None`` for a kind of device
    that keeps no such account.

    Args:
        cells: of one stack.
        data: what they train on.
        device: where.
        traces: as of ``build_stack``.
    """
    if device.type == "cuda":
        clear_cublas_workspaces()  # of whatever ran before
        torch.cuda.reset_peak_memory_stats(device)
        before, phases = torch.cuda.memory_allocated(device), []
        context = build_stack(cells, data, device, traces=traces)
        for _ in run_phases(context, device, device.type):
            phases.append((torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)))
            torch.cuda.reset_peak_memory_stats(device)
        return context, max(add_graph_memory("cuda", phases)) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler writes lines that nobody can use
    account = [ProfilerActivity.CPU] if device.type == "cpu" else []
    with profile(activities=account, profile_memory=True) as profiler:
        context = build_stack(cells, data, device, traces=traces)
        (telemetry,) = deque(run_phases(context, device, device.type), maxlen=1)
    if not account:
        return context, None
    changes = sorted(
        (int(event.start_ns()), int(event.nbytes()))
        for event in memory_events(profiler)
        if event.name() == "[memory]"
    )
    host = [*data.arrays.values(), *telemetry.curves.values()]
    return context, max(accumulate(change for _, change in changes)) + sum(array.nbytes for array in host)


# ---- free --------------------------------------------------------------------------------------------------


def free_memory(device: torch.device) -> int:
    """Return the bytes that a device could still give; on a CPU no more than this process's cgroup leaves."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory()) - int(torch.mps.driver_allocated_memory())
    return min(int(psutil.virtual_memory().available), *cgroup_free(), sys.maxsize)


def cgroup_free(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Return the bytes left under each memory limit of this process's cgroup and of those above it.

    Batch systems and containers limit memory so, through either version of Linux's interface.

    Args:
        root: where cgroups are mounted.
        own: lists this process's, a line each: ``number:controllers:path``.
    """
    rooms = []
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, used = root, "memory.max", "memory.current"
        elif controllers == "memory":
            base, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        below = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(below) + 1):
            folder = base.joinpath(*below[:depth])
            with contextlib.suppress(OSError, ValueError):  # no limit is the word "max", or no file
                rooms.append(max(int((folder / limit).read_text()) - int((folder / used).read_text()), 0))
    return rooms

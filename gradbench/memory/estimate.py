"""Predict a stack's peak memory, measure it, and read how much memory a device has free.

K cells, U different seeds. The peak is reached in one of a few phases, and in each it is linear:
``fixed + K per_cell + U per_seed`` bytes. The coefficients come from running each phase with two cells and with three
on torch's ``meta`` device, where tensors have sizes and no memory.
"""

import contextlib
import gc
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import psutil
import torch
from torch.autograd.profiler import profile

from gradbench.data import Data
from gradbench.functional.torch_internals import clear_cublas_workspaces, memory_events, tree_map
from gradbench.grid.cell import Cell
from gradbench.memory.tracker import META, MemoryTracker
from gradbench.tracing.cache import TRACE_CACHE
from gradbench.training.bind import init_state
from gradbench.training.cuda_graphs import make_stepper
from gradbench.training.draws import draw_chunk
from gradbench.training.setup import build_stack
from gradbench.training.state import StackContext
from gradbench.training.telemetry import Telemetry

STEPS = 2
"""Steps of a prediction: one that another follows, and the last one, whose gradient is kept for a histogram."""

STEPS_UNTIL_GRAPH = 3
"""Steps until a GPU launches one as a graph: two that differ are run eagerly first."""

HEADROOM = 1.25
"""Safety factor: a stack fits if this many times its predicted peak is free; predictions are within a quarter."""

WORKSPACE = {"cuda": 3 * 32 * 2**20}
"""Bytes that a device's libraries allocate once: cuBLAS under ``CUBLAS_WORKSPACE_CONFIG=:4096:8`` takes 8 × 4 MiB for
each of three threads or streams: those of a step, of autograd during tracing, and of graphs."""


# ---- predicted ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PhasePeak:
    """Peak of one phase in bytes: ``fixed + K per_cell + U per_seed``."""

    fixed: int
    per_cell: int
    per_seed: int


@dataclass(frozen=True)
class Footprint:
    """A stack's peak as a function of its width: the maximum over its phases."""

    phases: tuple[PhasePeak, ...]

    def peak_bytes(self, K: int, seeds: int | None = None) -> int:
        """Return the peak of K cells in bytes.

        Args:
            K: number of cells.
            seeds: number of different seeds among them, by default K.
        """
        U = K if seeds is None else seeds
        return max(phase.fixed + K * phase.per_cell + U * phase.per_seed for phase in self.phases)


def max_width(footprint: Footprint, free: int) -> int:
    """Return the largest width whose peak, times :data:`HEADROOM`, fits into ``free`` bytes; 0 if none does."""
    narrow, wide = 0, 1
    while wide < 2**20 and footprint.peak_bytes(wide) * HEADROOM <= free:
        narrow, wide = wide, 2 * wide
    while wide - narrow > 1:
        middle = (narrow + wide) // 2
        narrow, wide = (middle, wide) if footprint.peak_bytes(middle) * HEADROOM <= free else (narrow, middle)
    return narrow


def predict_footprint(cells: Sequence[Cell], data: Data, kind: str) -> Footprint:
    """Predict the peak memory of stacks of such cells, allocating only random numbers and one network.

    Counts every tensor, and on a CPU also the data and the curves, which share its memory. Does not count Python, torch
    itself, or ``Task.summarize`` on the host. ``precision=bfloat16`` is predicted as float32, which takes no less.

    Args:
        cells: cells of one step program; one of each regularizer is run, and the largest peak counts.
        data: data that they train on.
        kind: type of device, as ``torch.device.type``.
    """
    kinds = {cell.regularizer_program: cell for cell in cells}
    return Footprint(tuple(phase for cell in kinds.values() for phase in predict_phases(cell, data, kind)))


def predict_phases(cell: Cell, data: Data, kind: str) -> list[PhasePeak]:
    """Predict the peak of each phase for stacks of one regularizer, and the largest peak of one cell.

    A convolution of one network pads its channels, and takes more than its part of a stack's.
    """
    one, other, third = (shorten(cell, seed) for seed in range(3))
    alone, paired, same, apart = (
        predict_peaks(cells, data, kind, cell.config["steps"])
        for cells in ([one], [one, other], [one, other, other], [one, other, third])
    )
    lines = [
        PhasePeak(3 * of_two - 2 * of_third, of_same - of_two, of_third - of_same)
        for of_two, of_same, of_third in zip(paired, same, apart, strict=True)
    ]
    return [*lines, PhasePeak(max(alone), 0, 0)]


def shorten(cell: Cell, seed: int) -> Cell:
    """Return the cell with another seed and :data:`STEPS` steps, which take the same memory, and without bfloat16."""
    config = dict(cell.config) | {"seed": seed, "steps": STEPS}
    precision = "float32" if config["precision"] == "bfloat16" else config["precision"]
    return replace(cell, config=config | {"precision": precision})


def predict_peaks(cells: Sequence[Cell], data: Data, kind: str, steps: int) -> list[int]:
    """Run each phase on ``meta`` and return its peak in bytes.

    Args:
        cells: cells of the stack, with :data:`STEPS` steps.
        data: data that they train on.
        kind: type of device that is predicted.
        steps: steps of the real training, for the size of the curves.
    """
    phases = []
    host = sum(array.nbytes for array in data.arrays.values())
    with MemoryTracker(kind) as tracker:
        for telemetry in run_phases(build_stack(cells, data, META, traces=False, kind=kind), META, kind):
            curves = sum(curve.nbytes // STEPS for curve in telemetry.curves.values()) * steps
            phases.append((tracker.pop_peak(), tracker.live))
    more = host + curves if kind == "cpu" else WORKSPACE.get(kind, 0)
    return [peak + more for peak in add_graph_memory(kind, phases)]


def add_graph_memory(kind: str, phases: Sequence[tuple[int, int]]) -> list[int]:
    """Return the peak of each phase, adding to a GPU's evaluation the memory that its graphs keep reserved.

    Args:
        kind: type of device.
        phases: of each phase of :func:`run_phases`, its peak and the bytes alive after it.
    """
    *before, (evaluation, _) = phases
    step, alive = before[-1]
    return [*(peak for peak, _ in before), evaluation + (step - alive if kind == "cuda" else 0)]


def run_phases(context: StackContext, device: torch.device, kind: str) -> Iterator[Telemetry]:
    """Run every phase of a stack that allocates memory (init, draws, steps, evaluation), yielding after each.

    Args:
        context: the stack.
        device: device that it runs on; ``meta`` for a prediction.
        kind: type of device that it was built for.
    """
    with device if device == META else contextlib.nullcontext():  # weights without memory
        state = init_state(context)
    stepper, telemetry = make_stepper(context), Telemetry(context)
    yield telemetry
    draws = draw_chunk(context, 0)
    draws = draw_chunk(context, 0)  # while the draws of the chunk before are still alive
    # CUDA graphs copy the draws into static buffers; on ``meta`` these clones stand for the copies.
    static_draws = tree_map(torch.clone, draws) if kind == "cuda" and device == META else {}
    yield telemetry
    for _ in range(min(STEPS_UNTIL_GRAPH if device.type == "cuda" else STEPS, context.steps)):
        stepper.advance(state, draws, telemetry)
    yield telemetry
    stepper.evaluate(state)
    del static_draws
    yield telemetry


# ---- measured ----------------------------------------------------------------------------------------------


def measure_peak(
    cells: Sequence[Cell], data: Data, device: torch.device, traces: bool = True
) -> tuple[StackContext, int | None]:
    """Build a stack, run its phases on a device, and return its context and its peak in bytes.

    It is measured as the first stack of its process: what is traced takes more memory than the replay of a trace that
    another stack has left. The device's allocator counts what :func:`predict_footprint` predicts. The peak is ``None``
    for a type of device without such a count.

    Args:
        cells: cells of one stack.
        data: data that they train on.
        device: device that the stack runs on.
        traces: as in ``build_stack``.
    """
    TRACE_CACHE.clear()
    gc.collect()  # or what it frees meanwhile would count as freed by the stack
    if device.type == "cuda":
        clear_cublas_workspaces()  # of earlier computations
        torch.cuda.reset_peak_memory_stats(device)
        before, phases = torch.cuda.memory_allocated(device), []
        context = build_stack(cells, data, device, traces=traces)
        for _ in run_phases(context, device, device.type):
            phases.append((torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)))
            torch.cuda.reset_peak_memory_stats(device)
        return context, max(add_graph_memory("cuda", phases)) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler prints irrelevant lines
    # unlike torch.profiler's, it makes nothing of a million events until it is asked
    profiler = profile(enabled=device.type == "cpu", use_kineto=True, profile_memory=True)
    with profiler:
        context = build_stack(cells, data, device, traces=traces)
        (telemetry,) = deque(run_phases(context, device, device.type), maxlen=1)
    if not profiler.enabled:
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
    """Return the free bytes of a device; on a CPU at most those that the limits of this process's cgroups leave."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory()) - int(torch.mps.driver_allocated_memory())
    return min(int(psutil.virtual_memory().available), *cgroup_free(), sys.maxsize)


def cgroup_free(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Return the bytes left under each memory limit of this process's cgroup and its parents.

    Batch systems and containers limit memory this way. Both versions of Linux's interface are read.

    Args:
        root: folder where cgroups are mounted.
        own: file with a line ``number:controllers:path`` for each cgroup of this process.
    """
    left = []
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
            with contextlib.suppress(
                OSError, ValueError
            ):  # without a limit the file says "max", or is missing
                left.append(max(int((folder / limit).read_text()) - int((folder / used).read_text()), 0))
    return left

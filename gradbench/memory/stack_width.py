"""Choose the width of stacks, from the cells, the device and its memory, and never from timings."""

import math
from collections.abc import Sequence

import torch

from gradbench.config.identity import foreign_targets
from gradbench.data import Data
from gradbench.errors import UsageError
from gradbench.functional.devices import name_of, shapes_alone
from gradbench.grid.cell import Cell
from gradbench.memory.estimate import HEADROOM, Footprint, free_memory, max_width, predict_footprint
from gradbench.memory.saturation import saturating_bytes
from gradbench.models import Task
from gradbench.training.program import build

AUTO = "auto"
"""Value of ``stack_width`` that lets gradbench choose."""

CACHE_BYTES = 1024 * 1024
"""Bytes of one player's parameters in a CPU's stack. Gradient, optimizer and telemetry pass over them several times a
step, and most cores have about as much cache. In trials a step's time per cell fell up to 0.7 to 1 MB."""

MAX_CPU_WIDTH = 64
"""Largest CPU stack: with more cells, the cost of calling operations hardly falls any further."""

MAX_ROUNDED_STACKS = 16
"""Up to this many stacks, their number is rounded to a power of two, so that cores share them equally."""

MIN_CPU_WIDTH = 4
"""Smallest CPU stack that rounding may produce: with fewer cells, calling operations costs more than an idle core."""

MAX_STEP_RATIO = 1000
"""Upper bound, from trials, of a step's memory over the memory of its parameters; within it prediction is skipped."""


def choose_width(
    cell: Cell, data: Data, device: torch.device, wanted: int | None = None, memory: int | None = None
) -> int:
    """Return the width of a stack of such cells: that of the config, or the one chosen for ``auto``.

    A CPU is busy with few cells and fastest on what its cache holds. A GPU's stack fills its memory, or has the width
    that was measured to saturate it.

    Args:
        cell: one of the cells.
        data: data that they train on.
        device: device that they train on.
        wanted: number of cells. If they fit in any case, a GPU's width is at most this, and no prediction is needed.
        memory: bytes of the device's memory, where it is another machine's; ``None`` to ask the device.
    """
    asked = cell.runtime["stack_width"][device.type]
    if asked != AUTO:
        return int(asked)
    if device.type == "cpu":
        return min(
            max(CACHE_BYTES // (4 * count_parameters(build(cell.config, data).model)), 1), MAX_CPU_WIDTH
        )
    size = memory or total_memory(device)
    if wanted is not None and max_bytes(cell, data, wanted) * HEADROOM <= size:
        room = wanted
    elif footprint := predict([cell], data, device):
        room = max_width(footprint, size)
    else:
        room = int(size / (max_bytes(cell, data, 1) * HEADROOM))
    full = None if memory else saturating_bytes(name_of(device), str(cell.config["model"]["name"]))
    if full is not None:
        room = min(room, math.ceil(full / (4 * count_parameters(build(cell.config, data).model))))
    return max(room, 1)


def count_stacks(cells: Sequence[Cell], data: Data, device: torch.device, memory: int | None = None) -> int:
    """Return the number of stacks for cells of one program: the fewest that are no wider than :func:`choose_width`.

    On a CPU a small number is rounded up to a power of two, so that few cores wait for the last stack.

    Args:
        cells: the cells.
        data: data that they train on.
        device: device that they train on.
        memory: bytes of its memory, where it is another machine's.
    """
    fewest = math.ceil(len(cells) / choose_width(cells[0], data, device, len(cells), memory))
    is_given = cells[0].runtime["stack_width"][device.type] != AUTO
    if device.type != "cpu" or is_given or fewest > MAX_ROUNDED_STACKS or len(cells) < 2 * MIN_CPU_WIDTH:
        return fewest
    return min(1 << (max(fewest, 2) - 1).bit_length(), len(cells))


def count_parameters(model: Task) -> int:
    """Return the number of parameters of a model's largest network."""
    try:
        with shapes_alone():
            networks = model.networks()
    except Exception:  # networks of a user's own may need values where they are built
        with torch.random.fork_rng(devices=[]):
            networks = model.networks()
    return max(sum(tensor.numel() for tensor in net.parameters()) for net in networks.values())


def total_memory(device: torch.device) -> int:
    """Return all bytes of a GPU's memory; not the free ones, so that a resumed sweep has the same stacks."""
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "this machine has no GPU that would say how many cells fit into one: give the memory of those that train, "
            "launcher.device_memory_gb=80, or the number of cells per stack, stack_width.cuda=64"
        )
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    raise UsageError(f"stack_width.{device.type}={AUTO} needs a cpu, cuda or mps; give a number of cells")


def is_too_large(cells: Sequence[Cell], data: Data, device: torch.device) -> bool:
    """Return whether a stack's predicted peak exceeds the free memory of its device.

    Predicting a long recurrence takes seconds, so it is skipped when an upper bound fits.
    """
    free = free_memory(device)
    if max_bytes(cells[0], data, len(cells)) < free:
        return False
    footprint = predict(cells, data, device)
    if footprint is None:
        return False
    return footprint.peak_bytes(len(cells), len({cell.seed for cell in cells})) * HEADROOM > free


def predict(cells: Sequence[Cell], data: Data, device: torch.device) -> Footprint | None:
    """Predict the memory of stacks of such cells; ``None`` for a user's network that needs values to run."""
    try:
        return predict_footprint(cells, data, device.type)
    except Exception:  # on ``meta`` there are none
        if next(foreign_targets(cells[0].config), None) is None:
            raise
        return None


def max_bytes(cell: Cell, data: Data, K: int) -> int:
    """Return an upper bound of the bytes that a stack of K such cells takes."""
    examples = int(cell.config["model"].get("batch_size", 1)) * int(cell.config["accumulate"])
    return 4 * K * count_parameters(build(cell.config, data).model) * max(MAX_STEP_RATIO, 8 * examples)

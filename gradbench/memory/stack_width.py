"""How many cells train together: decided from what they are and on what kind of device, never from a stopwatch."""

import math
from collections.abc import Sequence

import torch

from gradbench.data import Data
from gradbench.errors import UsageError
from gradbench.functional.devices import name_of, shapes_alone
from gradbench.grid.cell import Cell
from gradbench.memory.estimate import HEADROOM, free_memory, max_width, predict_footprint
from gradbench.memory.saturation import saturating_bytes
from gradbench.models import Model
from gradbench.training.program import build

AUTO = "auto"
"""``stack_width`` where gradbench is to choose."""

CACHE_BYTES = 1024 * 1024
"""Bytes of one player's parameters in a CPU's stack: gradient, optimizer and telemetry pass over as many, several
times a step, and most cores keep about that much close by. In trials a step's time per cell fell up to 0.7 to 1 MB."""

MAX_CPU_WIDTH = 64
"""Cells in a CPU's stack: beyond, what calling an operation costs is spread thinly enough."""

MAX_ROUNDED_STACKS = 16
"""Stacks of one program from which on none is worth another one, for cores to share them equally."""

MIN_CPU_WIDTH = 4
"""Cells of a CPU's stack below which calling operations costs more than an idle core."""

MAX_STEP_RATIO = 1000
"""Times its parameters that a cell's step never took in a trial; below it nothing needs to be predicted."""


def choose_width(cell: Cell, data: Data, device: torch.device, wanted: int | None = None) -> int:
    """Return how wide a stack of cells like this one is: as its config says, or chosen.

    A CPU is kept busy by few cells, and works fastest on what its cache holds. A GPU takes all that its memory does,
    or what was measured to fill it.

    Args:
        cell: one of them.
        data: what they train on.
        device: where.
        wanted: how many there are; where they fit in any case, a GPU's width is no larger, and is known sooner.
    """
    asked = cell.runtime["stack_width"][device.type]
    if asked != AUTO:
        return int(asked)
    if device.type == "cpu":
        return min(
            max(CACHE_BYTES // (4 * count_parameters(build(cell.config, data).model)), 1), MAX_CPU_WIDTH
        )
    size = total_memory(device)
    if wanted is not None and max_bytes(cell, data, wanted) * HEADROOM <= size:
        room = wanted
    else:
        room = max_width(predict_footprint([cell], data, device.type), size)
    full = saturating_bytes(name_of(device), str(cell.config["model"]["name"]))
    if full is not None:
        room = min(room, math.ceil(full / (4 * count_parameters(build(cell.config, data).model))))
    return max(room, 1)


def count_stacks(cells: Sequence[Cell], data: Data, device: torch.device) -> int:
    """Return how many stacks cells of one program make: as few as are no wider than :func:`width`.

    On a CPU, where cores share them, a few are rounded up to a power of two: else most cores wait for the last one.
    """
    fewest = math.ceil(len(cells) / choose_width(cells[0], data, device, len(cells)))
    told = cells[0].runtime["stack_width"][device.type] != AUTO
    if device.type != "cpu" or told or fewest > MAX_ROUNDED_STACKS or len(cells) < 2 * MIN_CPU_WIDTH:
        return fewest
    return min(1 << (max(fewest, 2) - 1).bit_length(), len(cells))


def count_parameters(model: Model) -> int:
    """Return how many numbers the largest of a model's networks has."""
    with shapes_alone():
        networks = model.networks()
    return max(sum(tensor.numel() for tensor in net.parameters()) for net in networks.values())


def total_memory(device: torch.device) -> int:
    """Return the bytes of a GPU's memory, taken or free: a sweep that is gone on with has the same stacks."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    raise UsageError(f"stack_width.{device.type}={AUTO} needs a cpu, cuda or mps; give a number of cells")


def is_too_large(cells: Sequence[Cell], data: Data, device: torch.device) -> bool:
    """Return whether a stack, as predicted, needs more memory than its device has free.

    Predicting costs seconds where a recurrence is long: it is left out where memory is free in plenty.
    """
    free = free_memory(device)
    if max_bytes(cells[0], data, len(cells)) < free:
        return False
    return (
        predict_footprint(cells, data, device.type).peak_bytes(len(cells), len({cell.seed for cell in cells}))
        * HEADROOM
        > free
    )


def max_bytes(cell: Cell, data: Data, K: int) -> int:
    """Return more bytes than a stack of K cells like this one ever takes."""
    examples = int(cell.config["model"].get("batch_size", 1))
    return 4 * K * count_parameters(build(cell.config, data).model) * max(MAX_STEP_RATIO, 8 * examples)

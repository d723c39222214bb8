"""Schedules: the learning rate as a share of ``optimizer.lr``, a function of the step on the device.

K cells. Numbers of a schedule's YAML (``warmup: 100``) are given per cell, [K, 1] each, so that cells with different
ones share a stack; all else is given to the function of its ``_target_``.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gradbench.functional.flat_params import Tensors

Schedule = Callable[[Tensor, Tensors], Tensor]
"""``(steps taken [], numbers [K, 1] by name) -> share of the learning rate [K, 1]``, all float64."""


def constant() -> None:
    """Keep the learning rate: there is nothing to compute."""


def warmup() -> Schedule:
    """Rise linearly to the learning rate, which step number ``warmup`` is the first to have."""
    return lambda taken, numbers: rise(taken, numbers["warmup"])


def step() -> Schedule:
    """Multiply by ``factor`` after every ``every`` steps, as ``StepLR``."""
    return lambda taken, numbers: numbers["factor"] ** torch.floor(taken / numbers["every"])


def milestones(milestones: Sequence[int]) -> Schedule:
    """Multiply by ``factor`` after each of some numbers of steps, as ``MultiStepLR``."""
    # one number for all cells: a comparison each, and no tensor that would have to reach the device
    return lambda taken, numbers: numbers["factor"] ** sum((taken >= one).double() for one in milestones)


def linear_decay() -> Schedule:
    """Fall along a straight line to the share ``final`` after ``steps`` steps, and stay there, as ``LinearLR``."""

    def share(taken: Tensor, numbers: Tensors) -> Tensor:
        left = (1 - taken / numbers["steps"]).clamp(min=0)
        return numbers["final"] + (1 - numbers["final"]) * left

    return share


def cosine() -> Schedule:
    """Fall along half a cosine to the share ``final`` after ``steps`` steps, and stay there.

    As ``CosineAnnealingLR``. Reference: Loshchilov and Hutter, arXiv:1608.03983, 2016, without restarts.
    """
    return lambda taken, numbers: fall(taken, numbers["steps"], numbers["final"])


def warmup_cosine() -> Schedule:
    """Rise linearly during ``warmup`` steps, then fall along half a cosine to ``final`` after ``steps`` in all."""

    def share(taken: Tensor, numbers: Tensors) -> Tensor:
        warmup = numbers["warmup"]
        falling = fall(
            (taken - warmup).clamp(min=0), (numbers["steps"] - warmup).clamp(min=1), numbers["final"]
        )
        return torch.where(taken < warmup, rise(taken, warmup), falling)

    return share


def inverse_sqrt() -> Schedule:
    """Rise linearly during ``warmup`` steps, then fall as one over the square root of the step.

    Reference: Vaswani et al., arXiv:1706.03762, 2017; the learning rate is the highest one, that of step ``warmup``.
    """

    def share(taken: Tensor, numbers: Tensors) -> Tensor:
        warmup = numbers["warmup"].clamp(min=1)
        return torch.minimum(rise(taken, warmup), (warmup / (taken + 1)).sqrt())

    return share


def rise(taken: Tensor, warmup: Tensor) -> Tensor:
    """Return the share of a linear warm-up. Shapes: [], [K, 1] -> [K, 1]."""
    return ((taken + 1) / warmup.clamp(min=1)).clamp(max=1)


def fall(taken: Tensor, steps: Tensor, final: Tensor) -> Tensor:
    """Return the share of half a cosine from 1 to ``final``. Shapes: [] or [K, 1], and [K, 1] -> [K, 1]."""
    course = torch.minimum(taken / steps, torch.ones_like(steps))
    return final + (1 - final) * (1 + torch.cos(math.pi * course)) / 2

"""Gradient clipping by value."""

import torch
from torch import Tensor

from gradbench.regularizers import Regularizer, State


def clip_value() -> Regularizer:
    """Clamp every coordinate of the gradient to [-threshold, threshold]; this changes its direction.

    As in ``torch.nn.utils.clip_grad_value_``.

    Returns:
        A regularizer whose strength is ``threshold``: scalar > 0, in units of a gradient coordinate; ``inf``
        never clips.

    Reference: Pascanu, Mikolov, Bengio, arXiv:1211.5063, 2013, footnote on Mikolov's element-wise clipping.
    """

    def transform(gradient_P: Tensor, threshold: Tensor, state: State, *_: object) -> tuple[Tensor, State]:
        # torch.clamp with tensor bounds is not vectorised on a CPU, and takes five times as long.
        return torch.minimum(torch.maximum(gradient_P, -threshold), threshold), state

    return Regularizer(transform=transform)

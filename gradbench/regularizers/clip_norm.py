"""Gradient clipping by global norm."""

import torch
from torch import Tensor

from gradbench.errors import UsageError
from gradbench.regularizers import Regularizer, State


def clip_norm(norm_type: float = 2.0) -> Regularizer:
    """Scale the gradient down if its norm exceeds a threshold; this keeps its direction.

    ``g * min(1, threshold / (||g|| + 1e-6))`` with one norm over all of the player's parameters, as in
    ``torch.nn.utils.clip_grad_norm_``.

    Args:
        norm_type: > 0, the p of the p-norm; ``inf`` for the largest coordinate.

    Returns:
        A regularizer whose strength is ``threshold``: scalar > 0, in units of the gradient; ``inf`` never
        clips.

    Raises:
        UsageError: for a norm_type that is not > 0.

    Reference: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks",
    arXiv:1211.5063, 2013.
    """

    if not norm_type > 0:
        raise UsageError(
            f"regularizer.norm_type must be > 0, got {norm_type}; 2 is the Euclidean norm, inf the maximum"
        )

    def transform(gradient_P: Tensor, threshold: Tensor, state: State, *_: object) -> tuple[Tensor, State]:
        norm = torch.linalg.vector_norm(gradient_P, ord=norm_type)
        return gradient_P * (threshold / (norm + 1e-6)).clamp(max=1.0), state

    return Regularizer(transform=transform, preserves_direction=True)

"""What is recorded of an update, and what of it a transform did.

k cells that share a regularizer, P parameters of a player.
"""

import torch
from torch import Tensor

from gradbench.regularizers import Regularizer

FULL = ("loss", "penalty", "grad_norm", "grad_norm_used", "clipped", "cosine", "update_norm")
"""Series of the regularized player."""

BRIEF = ("loss", "grad_norm")
"""Series of any other player, prefixed by its name."""


def told(regularizer: Regularizer, norm: Tensor, used_norm: Tensor) -> tuple[Tensor | float, float]:
    """Return what :func:`effect` would of a transform that keeps directions, or none, from norms [..., k] alone."""
    return used_norm != norm if regularizer.transform else 0.0, 1.0


def effect(gradient: Tensor, used: Tensor, norm: Tensor, used_norm: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a transform did, at the cost of several passes over the gradient.

    Args:
        gradient: as it was, [k, P].
        used: what the transform made of it, [k, P].
        norm: of the gradient, [k].
        used_norm: of what was made of it, [k].

    Returns:
        Each [k]: the share of the raw gradient's non-zero coordinates that were changed (so 1 or 0 for norm
        clipping), and the cosine between raw and used (1 where either is zero).
    """
    present, changed = different(gradient, torch.zeros_like(norm)[:, None]), different(used, gradient)
    product = norm * used_norm
    dot = torch.linalg.vecdot(gradient, used)
    return changed / present.clamp(min=1.0), torch.where(product > 0, dot / product, torch.ones_like(norm))


def different(one: Tensor, other: Tensor) -> Tensor:
    """Return how many coordinates of two vectors differ. Shapes: [k, P] twice -> [k]."""
    # as numbers: to count booleans takes a CPU several times as long
    differs: Tensor = torch.ne(one, other, out=torch.empty_like(one))
    return differs.sum(dim=1)

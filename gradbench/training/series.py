"""The series that are recorded of each update, and what a transform did to a gradient.

K cells, k of them in a group that shares a regularizer, P parameters of a player.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gradbench.functional.flat_params import Tensors
from gradbench.regularizers import Regularizer
from gradbench.training.regularize import RegularizerGroup, concat_groups

FULL = ("loss", "penalty", "grad_norm", "grad_norm_used", "clipped", "cosine", "update_norm")
"""Series of the regularized player."""

RATE = "lr"
"""A further series of that player, where a schedule changes the learning rate."""

BRIEF = ("loss", "grad_norm")
"""Series of any other player, prefixed by its name."""


def group_norms(vectors: Tensor, groups: Sequence[RegularizerGroup]) -> Tensor:
    """Return the L2 norm of each vector. Shapes: [K, P] -> [K].

    Taken group by group, as transforms take them: an operation that both need is traced once.
    """
    return concat_groups([torch.linalg.vector_norm(vectors[group.cells], dim=1) for group in groups])


def unless_changed(values: Tensor, groups: Sequence[RegularizerGroup], compares: bool) -> Tensor:
    """Return values [K], NaN where a transform changes directions and the update is not one that compares.

    Those would take a pass over the gradient; elsewhere they follow from norms that are there.
    """
    parts = [values[group.cells] for group in groups]
    for index, group in enumerate(groups):
        if group.regularizer.changes_direction and not compares:
            parts[index] = torch.full_like(parts[index], torch.nan)
    return concat_groups(parts)


def group_effects(
    gradient: Tensor,
    used: Tensor,
    norms: tuple[Tensor, Tensor],
    groups: Sequence[RegularizerGroup],
    compares: bool,
) -> Tensors:
    """Return ``clipped`` and ``cosine`` of each cell, [K]; NaN where they are derived from norms later.

    Args:
        gradient: [K, P], before the transform.
        used: [K, P], after it.
        norms: of both, [K] each.
        groups: cells that share a regularizer.
        compares: compare gradients whose direction is changed with what they were.
    """
    parts = []
    for group in groups:
        before, after = (norm[group.cells] for norm in norms)
        if compares and group.regularizer.changes_direction:
            parts.append(effect(gradient[group.cells], used[group.cells], before, after))
        else:
            parts.append((torch.full_like(before, torch.nan),) * 2)
    clipped, cosine = map(concat_groups, zip(*parts, strict=True))
    return {"clipped": clipped, "cosine": cosine}


def effect(gradient: Tensor, used: Tensor, norm: Tensor, used_norm: Tensor) -> tuple[Tensor, Tensor]:
    """Measure the effect of a transform on gradients, at the cost of several passes over them.

    Args:
        gradient: [k, P], before the transform.
        used: [k, P], after it.
        norm: of the gradient, [k].
        used_norm: of the transformed gradient, [k].

    Returns:
        Each [k]: the share of the gradient's non-zero coordinates that were changed (so 1 or 0 for norm clipping), and
        the cosine between the gradient before and after (1 where either is zero).
    """
    present, changed = (
        count_differing(gradient, torch.zeros_like(norm)[:, None]),
        count_differing(used, gradient),
    )
    product = norm * used_norm
    dot = torch.linalg.vecdot(gradient, used)
    return changed / present.clamp(min=1.0), torch.where(product > 0, dot / product, torch.ones_like(norm))


def effect_from_norms(
    regularizer: Regularizer, norm: Tensor, used_norm: Tensor
) -> tuple[Tensor | float, float]:
    """Return (clipped, cosine) of a transform that preserves directions, or of none, from norms [..., k] alone."""
    return used_norm != norm if regularizer.transform else 0.0, 1.0


def count_differing(one: Tensor, other: Tensor) -> Tensor:
    """Return how many coordinates of two vectors differ. Shapes: [k, P] twice -> [k]."""
    # as numbers: to count booleans takes a CPU several times as long
    differs: Tensor = torch.ne(one, other, out=torch.empty_like(one))
    return differs.sum(dim=1)

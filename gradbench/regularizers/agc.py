"""Adaptive gradient clipping: each unit's gradient is limited relative to its weights."""

import torch
from torch import Tensor

from gradbench.errors import UsageError
from gradbench.functional.flat_params import Layout
from gradbench.regularizers import Regularizer, State


def agc(eps: float = 1e-3) -> Regularizer:
    """Scale a unit's gradient G down if its norm is too large relative to the unit's weights W.

    ``G * threshold * max(||W||, eps) / ||G||`` where ``||G|| > threshold * max(||W||, eps)``. A unit is one row of a
    weight tensor (the weights of one output), or a whole bias. The output layer is not clipped, see
    :func:`clipped_names`.

    Args:
        eps: > 0, lower bound of a unit's weight norm, so that weights at zero can move.

    Returns:
        A regularizer whose strength is ``threshold``: scalar > 0, the largest ratio of a unit's gradient norm
        to its weight norm (lambda in the paper); ``inf`` never clips.

    Raises:
        UsageError: for eps <= 0.

    Reference: Brock, De, Smith, Simonyan, "High-performance large-scale image recognition without
    normalization", arXiv:2102.06171, 2021, equation 3.
    """
    if not eps > 0:
        raise UsageError(f"regularizer.eps must be > 0, got {eps}; the paper takes 0.001")

    def transform(
        gradient_P: Tensor, threshold: Tensor, state: State, parameters_P: Tensor, layout: Layout
    ) -> tuple[Tensor, State]:
        gradients, weights = layout.split(gradient_P), layout.split(parameters_P)
        clipped = {
            name: clip_units(gradients[name], threshold * unit_norms(weights[name]).clamp(min=eps))
            for name in clipped_names(layout)
        }
        return layout.join(gradients | clipped), state

    return Regularizer(transform=transform)


def clipped_names(layout: Layout) -> list[str]:
    """Return the names of the parameters before the output layer, in order.

    The output layer is inferred from shapes: the last tensor with two dimensions or more, and the tensors after it.
    So a network of one layer is not clipped at all. A decoder that shares the embedding's matrix is not recognised:
    then the last matrix before it is not clipped.
    """
    names = list(layout.shapes)
    matrices = [index for index, shape in enumerate(layout.shapes.values()) if len(shape) > 1]
    return names[: matrices[-1]] if matrices else names


def unit_norms(tensor: Tensor) -> Tensor:
    """Return the L2 norm of each unit. Shapes: [O, ...] -> [O, 1, ...]; a vector is one unit: -> []."""
    inputs = tuple(range(1, tensor.dim()))
    norms: Tensor = (
        torch.linalg.vector_norm(tensor, dim=inputs, keepdim=True)
        if inputs
        else torch.linalg.vector_norm(tensor)
    )
    return norms


def clip_units(gradient: Tensor, limit: Tensor) -> Tensor:
    """Scale each unit with a norm above its limit down to the limit; other units stay bit-identical."""
    norm = unit_norms(gradient)
    # 1e-6 is the authors' guard. At zero ``where`` takes the other branch, so it only keeps the division finite.
    return torch.where(norm > limit, gradient * (limit / norm.clamp(min=1e-6)), gradient)

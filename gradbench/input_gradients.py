"""The norm of a function's gradient with respect to its input: what a penalty prices, an evaluation shows."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad


def gradient_norms(f: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """Return the L2 norm of f's gradient at each point, over all of the point's dimensions.

    Args:
        f: maps points [B, ...] to one value each [B]; no value may depend on another point (no batch norm).
        points: [B, ...].

    Returns:
        [B], in units of f per unit of input. Differentiable, also where the gradient is zero: there
        ``vector_norm`` has the subgradient 0, the square root of a sum of squares would have NaN.
    """
    gradients = grad(lambda x: f(x).sum())(points)
    norms: Tensor = torch.linalg.vector_norm(gradients.flatten(start_dim=1), dim=1)
    return norms

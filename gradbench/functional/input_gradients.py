"""Gradients of a function with respect to its input, and their norms: for penalties and evaluations. B batch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Evaluated:
    """A function with its values and gradients at some points: asking for these costs no further pass.

    Attributes:
        f: maps points [B, ...] to one value each [B].
        points: [B, ...].
        values: f of the points, [B]; differentiable, as the slopes are, with respect to all that f depends on.
        slopes: the gradient of the sum of the values with respect to the points, [B, ...].
    """

    f: Callable[[Tensor], Tensor]
    points: Tensor
    values: Tensor
    slopes: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the values at any points. Shapes: [B, ...] -> [B]."""
        return self.values if x is self.points else self.f(x)


def gradient_norms(f: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """Return the L2 norm of f's gradient at each point, over all of the point's dimensions.

    Args:
        f: maps points [B, ...] to one value each [B]; no value may depend on another point (no batch norm).
        points: [B, ...].

    Returns:
        [B], in units of f per unit of input. Differentiable, also where the gradient is zero: there
        ``vector_norm`` has the subgradient 0, the square root of a sum of squares would have NaN.
    """
    norms: Tensor = torch.linalg.vector_norm(slopes(f, points).flatten(start_dim=1), dim=1)
    return norms


def slopes(f: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """Return the gradient of the sum of f's values with respect to the points, [B, ...].

    It is differentiable, except under ``no_grad``.
    """
    if isinstance(f, Evaluated) and points is f.points:
        return f.slopes
    try:
        x = points.detach().requires_grad_()
    except RuntimeError:  # inside ``vmap`` or ``torch.func.grad``; their own grad imports torch's compiler
        gradient: Tensor = torch.func.grad(lambda x: f(x).sum())(points)
        return gradient
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        x = points if points.requires_grad else x
        total = f(x).sum()
        if not total.requires_grad:  # it depends on nothing that a gradient is taken of
            return torch.zeros_like(x)
        (gradient,) = torch.autograd.grad(
            total, x, create_graph=differentiable, allow_unused=True, materialize_grads=True
        )
    return gradient

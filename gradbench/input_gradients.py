"""The norm of a function's gradient with respect to its input: what a penalty prices, an evaluation shows."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, vjp

Aux = dict[str, Tensor]


class Evaluated:
    """A function that has been evaluated at some points: its values and slopes there cost no further pass.

    Args:
        f: maps points [B, ...] to one value each [B], and to whatever else comes of it.
        points: [B, ...].

    Attributes:
        values: f of the points, [B]; differentiable, as the slopes are, with respect to all that f depends on.
        aux: what else came of them.
    """

    def __init__(self, f: Callable[[Tensor], tuple[Tensor, Aux]], points: Tensor) -> None:
        self.points, self._f = points, f
        self.values, self._pull, self.aux = vjp(f, points, has_aux=True)  # type: ignore[misc]  # three of them

    def __call__(self, x: Tensor) -> Tensor:
        """Return the values at any points. Shapes: [B, ...] -> [B]."""
        return self.values if x is self.points else self._f(x)[0]

    def slopes(self) -> Tensor:
        """Return the gradient of the sum of the values with respect to the points, [B, ...]."""
        slopes: Tensor = self._pull(torch.ones_like(self.values))[0]
        return slopes


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
    """Return the gradient of f's sum with respect to the points, [B, ...]."""
    if isinstance(f, Evaluated) and points is f.points:
        return f.slopes()
    gradient: Tensor = grad(lambda x: f(x).sum())(points)
    return gradient

"""A multilayer perceptron, and activations that can be differentiated twice at little cost.

L hidden layers, H units of each, B batch.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function


class PiecewiseLinear(Function):
    """``(x, a) -> x where x > 0, else a x``, with an undefined second derivative instead of zeros.

    torch's own functions return zeros, which a gradient penalty then propagates back through the network: five of 31
    matrix products in a critic's step with ``gp``, without any effect.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, slope: float) -> Tensor:
        """Return the activations."""
        return nn.functional.leaky_relu(x, slope) if slope else torch.relu(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save the activations, whose signs select the slope."""
        ctx.slope = inputs[1]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None]:
        """Return the gradient with respect to x, or ``None`` where the incoming gradient is undefined."""
        if gradient is None:
            return None, None
        (output,) = ctx.saved_tensors
        if ctx.slope:
            return torch.ops.aten.leaky_relu_backward(gradient, output.detach(), ctx.slope, True), None
        return torch.ops.aten.threshold_backward(gradient, output.detach(), 0), None


class Rectifier(nn.Module):
    """``nn.ReLU`` or, with a slope, ``nn.LeakyReLU``, for networks that are differentiated twice.

    Args:
        slope: slope for negative inputs.
    """

    def __init__(self, slope: float = 0.0) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations, shaped as x."""
        y: Tensor = PiecewiseLinear.apply(x, self.slope)
        return y


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": Rectifier,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": partial(Rectifier, 0.01),
}


def make_activation(activation: str) -> nn.Module:
    """Return a new activation; raise ``ValueError`` for a name that is no key of :data:`ACTIVATIONS`."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"model.activation must be one of {', '.join(ACTIVATIONS)}, got {activation}")
    return ACTIVATIONS[activation]()


class Perceptron(nn.Module):
    """``depth`` hidden layers of ``hidden`` units and a linear output layer: [..., inputs] -> [..., outputs].

    Args:
        inputs: number of inputs.
        hidden: H.
        depth: L.
        outputs: number of outputs.
        activation: a key of ``ACTIVATIONS``.

    Raises:
        ValueError: for an unknown activation, or sizes out of range.
    """

    def __init__(self, inputs: int, hidden: int, depth: int, outputs: int, activation: str) -> None:
        if hidden < 1 or depth < 0:
            raise ValueError(f"model.hidden must be >= 1 and model.depth >= 0, got {hidden} and {depth}")
        super().__init__()
        widths = [inputs] + [hidden] * depth
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.activation = make_activation(activation)
        self.output = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor, shifts_LBH: Tensor | None = None) -> Tensor:
        """Return the outputs, [..., outputs].

        Args:
            x: [..., inputs].
            shifts_LBH: added to the hidden layers' activations. The gradient with respect to it, at zero, is the
                gradient with respect to the activations.
        """
        for layer, linear in enumerate(self.hidden):
            x = self.activation(linear(x))
            if shifts_LBH is not None:
                x = x + shifts_LBH[layer]
        outputs: Tensor = self.output(x)
        return outputs

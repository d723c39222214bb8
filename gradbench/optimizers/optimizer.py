"""What an optimizer is: pure functions of stacked parameters; the training loop owns their state.

K cells, P parameters.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradbench.errors import UsageError
from gradbench.functional.flat_params import Layout

State = dict[str, Tensor]
"""Name -> tensor [K, ...]; empty for plain SGD."""

Init = Callable[[Tensor, Layout], State]
"""``init(parameters [K, P], layout) -> state``."""

Step = Callable[[Tensor, Tensor, State, Tensor, Tensor | int, Layout], tuple[Tensor, State]]
"""``step(parameters [K, P], gradient [K, P], state, lr [K, 1], t, layout) -> parameters, state``; t counts from 1."""


@dataclass(frozen=True)
class Optimizer:
    """The pure functions of one optimizer.

    Args:
        init: returns the initial state.
        step: returns new parameters and state.
        fused: the same as ``step`` in one pass, by a kernel that torch has for CPUs and CUDA devices.
        is_plain_sgd: whether a step subtracts the gradient times the learning rate, and nothing else.
    """

    init: Init
    step: Step
    fused: Step | None = None
    is_plain_sgd: bool = False

    def step_on(self, kind: str) -> Step:
        """Return the step function for a type of device."""
        return self.fused if self.fused and kind in ("cpu", "cuda") else self.step


def decay(
    parameters: Tensor, gradient: Tensor, lr: Tensor, weight_decay: float | Tensor, decoupled: bool
) -> tuple[Tensor, Tensor]:
    """Apply weight decay, and return parameters and gradient [K, P].

    Args:
        parameters: [K, P].
        gradient: [K, P].
        lr: [K, 1].
        weight_decay: coefficient; or one for each parameter, [P].
        decoupled: take the decay, times lr, from the parameters; else add it to the gradient (L2).
    """
    if not isinstance(weight_decay, Tensor) and not weight_decay:
        return parameters, gradient
    if decoupled:
        return parameters * (1 - lr * weight_decay), gradient
    return parameters, gradient + weight_decay * parameters


def of_matrices(weight_decay: float, parameters: Tensor, layout: Layout) -> Tensor:
    """Return weight decay that leaves out vectors, such as biases and the scales of a norm. Shapes: [K, P] -> [P]."""
    return torch.cat(
        [
            parameters.new_full((shape.numel(),), weight_decay if len(shape) > 1 else 0.0)
            for shape in layout.shapes.values()
        ]
    )


def check_option(key: str, value: float, usual: str, below: float = math.inf) -> None:
    """Raise ``UsageError`` unless 0 <= value < below.

    Args:
        key: name of the option.
        value: its value.
        usual: a usual value, for the message.
        below: exclusive upper bound.
    """
    if not 0 <= value < below:
        expected = "in [0, 1)" if below == 1 else ">= 0 and finite"
        raise UsageError(f"optimizer.{key} must be {expected}, got {value}; {usual} is usual")


def check_betas(betas: Sequence[float], usual: str) -> None:
    """Raise ``UsageError`` unless these are two decay rates of averages, each in [0, 1)."""
    if len(betas) != 2:
        raise UsageError(f"optimizer.betas must be two numbers, got {list(betas)}; {usual} is usual")
    for beta in betas:
        check_option("betas", beta, usual, below=1)

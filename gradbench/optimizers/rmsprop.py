"""RMSprop. K cells, P parameters."""

import torch
from torch import Tensor

from gradbench.functional.flat_params import Layout
from gradbench.optimizers.optimizer import Optimizer, State, check_option, decay


def rmsprop(
    alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0, decoupled: bool = False
) -> Optimizer:
    """RMSprop, as ``torch.optim.RMSprop``: the gradient over the root of its averaged square.

    Args:
        alpha: decay rate of the average.
        eps: added to the denominator.
        weight_decay: coefficient.
        decoupled: whether weight decay is decoupled.

    Raises:
        UsageError: for an option out of range.

    Reference: Tieleman and Hinton, "Lecture 6.5: rmsprop", 2012.
    """
    check_option("alpha", alpha, "0.99", below=1)
    check_option("eps", eps, "1e-8")
    check_option("weight_decay", weight_decay, "0.0001")

    def init(parameters: Tensor, _layout: Layout) -> State:
        return {"square": torch.zeros_like(parameters)}

    def step(
        parameters: Tensor, gradient: Tensor, state: State, lr: Tensor, _t: Tensor | int, _layout: Layout
    ) -> tuple[Tensor, State]:
        parameters, gradient = decay(parameters, gradient, lr, weight_decay, decoupled)
        square = alpha * state["square"] + (1 - alpha) * gradient.square()
        return parameters - lr * (gradient / (square.sqrt() + eps)), {"square": square}

    return Optimizer(init, step)

"""Lion. K cells, P parameters."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gradbench.functional.flat_params import Layout
from gradbench.optimizers.optimizer import Optimizer, State, check_betas, check_option, decay


def lion(
    betas: Sequence[float] = (0.9, 0.99), weight_decay: float = 0.0, decoupled: bool = True
) -> Optimizer:
    """Lion: the sign of an average of momentum and gradient; every coordinate moves by the learning rate.

    Args:
        betas: share of the momentum in that average, and decay rate of the momentum.
        weight_decay: coefficient.
        decoupled: whether weight decay is decoupled, as it is in the paper.

    Raises:
        UsageError: for an option out of range.

    Reference: Chen et al., "Symbolic discovery of optimization algorithms", arXiv:2302.06675, 2023, algorithm 2.
    """
    check_betas(betas, "[0.9,0.99]")
    check_option("weight_decay", weight_decay, "0.1")
    beta1, beta2 = betas

    def init(parameters: Tensor, _layout: Layout) -> State:
        return {"momentum": torch.zeros_like(parameters)}

    def step(
        parameters: Tensor, gradient: Tensor, state: State, lr: Tensor, _t: Tensor | int, _layout: Layout
    ) -> tuple[Tensor, State]:
        parameters, gradient = decay(parameters, gradient, lr, weight_decay, decoupled)
        momentum = state["momentum"]
        direction = (beta1 * momentum + (1 - beta1) * gradient).sign()
        momentum = beta2 * momentum + (1 - beta2) * gradient
        return torch.addcmul(parameters, lr, direction, value=-1), {"momentum": momentum}

    return Optimizer(init, step)

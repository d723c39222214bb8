"""Stochastic gradient descent. K cells, P parameters."""

import torch
from torch import Tensor

from gradbench.errors import UsageError
from gradbench.functional.flat_params import Layout
from gradbench.optimizers.optimizer import Optimizer, State, check_option, decay


def sgd(
    momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0, decoupled: bool = False
) -> Optimizer:
    """Stochastic gradient descent, as ``torch.optim.SGD`` without dampening.

    Args:
        momentum: in [0, 1); 0 needs no state.
        nesterov: use Nesterov's momentum.
        weight_decay: coefficient.
        decoupled: whether weight decay is decoupled (SGDW).

    Raises:
        UsageError: for an option out of range, or nesterov without momentum.

    Reference: Loshchilov and Hutter, arXiv:1711.05101, 2017 (SGDW).
    """
    check_option("momentum", momentum, "0.9", below=1)
    check_option("weight_decay", weight_decay, "0.0001")
    if nesterov and not momentum:
        raise UsageError("optimizer.nesterov needs momentum, got 0; add optimizer.momentum=0.9")

    def init(parameters: Tensor, _layout: Layout) -> State:
        return {"momentum": torch.zeros_like(parameters)} if momentum else {}

    def step(
        parameters: Tensor, gradient: Tensor, state: State, lr: Tensor, _t: Tensor | int, _layout: Layout
    ) -> tuple[Tensor, State]:
        parameters, gradient = decay(parameters, gradient, lr, weight_decay, decoupled)
        if momentum:
            velocity = momentum * state["momentum"] + gradient
            state = {"momentum": velocity}
            gradient = gradient + momentum * velocity if nesterov else velocity
        return torch.addcmul(parameters, lr, gradient, value=-1), state

    return Optimizer(init, step, is_plain_sgd=not (momentum or weight_decay))

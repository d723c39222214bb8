"""SGD, Adam(W) and RMSprop over stacked parameters, with a learning rate per cell.

K cells, P parameters. Pure functions: the training loop owns the state. The arithmetic follows
``torch.optim`` operation by operation, so that a stack of one equals it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradbench.errors import UsageError
from gradbench.functional.torch_internals import fused_adam_

State = dict[str, Tensor]

Init = Callable[[Tensor], State]
"""``init(parameters [K, P]) -> state``, tensors [K, P]."""

Step = Callable[[Tensor, Tensor, State, Tensor, Tensor | int], tuple[Tensor, State]]
"""``step(parameters [K, P], gradient [K, P], state, lr [K, 1], t) -> parameters, state``; t counts from 1."""


@dataclass(frozen=True)
class Optimizer:
    """Pure functions: ``init`` makes the state, ``step`` returns new parameters and state.

    Args:
        init: makes the state.
        step: takes a step.
        fused: takes it in one pass, where torch has a kernel that does: of CPUs and CUDA devices.
        straight: whether a step is the gradient times the learning rate, and nothing else.
    """

    init: Init
    step: Step
    fused: Step | None = None
    is_plain_sgd: bool = False

    def step_on(self, kind: str) -> Step:
        """Return how a step is taken on a type of device."""
        return self.fused if self.fused and kind in ("cpu", "cuda") else self.step


def check_option(key: str, value: float, usual: str, below: float = math.inf) -> None:
    """Refuse an option that is negative, NaN, or not below a bound.

    Raises:
        UsageError: naming the key and a usual value.
    """
    if not 0 <= value < below:
        expected = "in [0, 1)" if below == 1 else ">= 0 and finite"
        raise UsageError(f"optimizer.{key} must be {expected}, got {value}; {usual} is usual")


def sgd(momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> Optimizer:
    """Stochastic gradient descent, as ``torch.optim.SGD`` without dampening.

    Args:
        momentum: in [0, 1); 0 keeps no state.
        nesterov: look ahead along the momentum.
        weight_decay: L2 coefficient, added to the gradient.

    Raises:
        UsageError: for an option out of range, or nesterov without momentum.
    """
    check_option("momentum", momentum, "0.9", below=1)
    check_option("weight_decay", weight_decay, "0.0001")
    if nesterov and not momentum:
        raise UsageError("optimizer.nesterov needs momentum, got 0; add optimizer.momentum=0.9")

    def init(parameters: Tensor) -> State:
        return {"momentum": torch.zeros_like(parameters)} if momentum else {}

    def step(
        parameters: Tensor, gradient: Tensor, state: State, lr: Tensor, _t: Tensor | int
    ) -> tuple[Tensor, State]:
        if weight_decay:
            gradient = gradient + weight_decay * parameters
        if momentum:
            velocity = momentum * state["momentum"] + gradient
            state = {"momentum": velocity}
            gradient = gradient + momentum * velocity if nesterov else velocity
        return torch.addcmul(parameters, lr, gradient, value=-1), state

    return Optimizer(init, step, is_plain_sgd=not (momentum or weight_decay))


def adam(
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> Optimizer:
    """Adam, as ``torch.optim.Adam``; with ``decoupled`` weight decay AdamW, as ``torch.optim.AdamW``.

    Args:
        betas: decay of the averages of the gradient and of its square.
        eps: added to the denominator.
        weight_decay: coefficient; added to the gradient, or (decoupled) taken from the parameters.
        decoupled: AdamW.

    Raises:
        UsageError: for an option out of range.

    References: Kingma and Ba, arXiv:1412.6980, 2014; Loshchilov and Hutter, arXiv:1711.05101, 2017.
    """
    if len(betas) != 2:
        raise UsageError(f"optimizer.betas must be two numbers, got {list(betas)}; [0.9,0.999] is usual")
    beta1, beta2 = betas
    for beta in betas:
        check_option("betas", beta, "[0.9,0.999]", below=1)
    check_option("eps", eps, "1e-8")
    check_option("weight_decay", weight_decay, "0.01")

    def init(parameters: Tensor) -> State:
        return {"mean": torch.zeros_like(parameters), "square": torch.zeros_like(parameters)}

    def decayed(parameters: Tensor, gradient: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
        if not weight_decay:
            return parameters, gradient
        if decoupled:
            return parameters * (1 - lr * weight_decay), gradient
        return parameters, gradient + weight_decay * parameters

    def step(
        parameters: Tensor, gradient: Tensor, state: State, lr: Tensor, t: Tensor | int
    ) -> tuple[Tensor, State]:
        parameters, gradient = decayed(parameters, gradient, lr)
        mean = torch.lerp(state["mean"], gradient, 1 - beta1) if beta1 else gradient
        square = (beta2 * state["square"]).addcmul_(gradient, gradient, value=1 - beta2)
        denominator = square.sqrt().div_((1 - beta2**t) ** 0.5).add_(eps)
        parameters = torch.addcdiv(parameters, mean * (lr / (beta1**t - 1)), denominator)
        return parameters, {"mean": mean, "square": square}

    def fused(
        parameters: Tensor, gradient: Tensor, state: State, lr: Tensor, t: Tensor | int
    ) -> tuple[Tensor, State]:
        parameters, gradient = decayed(parameters, gradient, lr)
        move, mean, square = torch.zeros_like(parameters), state["mean"].clone(), state["square"].clone()
        count = torch.as_tensor(t, dtype=torch.float32)

        def parts(whole: Tensor) -> tuple[Tensor, ...]:
            # a CPU's last few numbers are computed by other instructions: cell by cell, so that each keeps its bits
            return whole.unbind() if whole.is_cpu else (whole,)

        # what torch.optim.Adam(fused=True) calls: one pass instead of nine
        fused_adam_(
            parts(move),
            parts(gradient),
            parts(mean),
            parts(square),
            [],
            [count] * len(parts(move)),
            lr=1.0,  # of their own below
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=eps,
            amsgrad=False,
            maximize=False,
        )
        return torch.addcmul(parameters, lr, move), {"mean": mean, "square": square}

    return Optimizer(init, step, fused)


def rmsprop(alpha: float = 0.99, eps: float = 1e-8) -> Optimizer:
    """RMSprop, as ``torch.optim.RMSprop``: the gradient over the root of its averaged square.

    Args:
        alpha: decay of the average.
        eps: added to the denominator.

    Raises:
        UsageError: for an option out of range.

    Reference: Tieleman and Hinton, "Lecture 6.5: rmsprop", 2012.
    """
    check_option("alpha", alpha, "0.99", below=1)
    check_option("eps", eps, "1e-8")

    def init(parameters: Tensor) -> State:
        return {"square": torch.zeros_like(parameters)}

    def step(
        parameters: Tensor, gradient: Tensor, state: State, lr: Tensor, _t: Tensor | int
    ) -> tuple[Tensor, State]:
        square = alpha * state["square"] + (1 - alpha) * gradient.square()
        return parameters - lr * (gradient / (square.sqrt() + eps)), {"square": square}

    return Optimizer(init, step)

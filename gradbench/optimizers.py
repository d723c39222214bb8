"""SGD, Adam(W) and RMSprop on stacked parameters, with a learning rate per cell.

K cells, P parameters. Optimizers are pure functions; the training loop owns their state. The arithmetic follows
``torch.optim`` operation by operation, so a stack of one cell gives the same numbers. To add an optimizer, write a
function that returns an :class:`Optimizer`, and one YAML in ``conf/optimizer``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradbench.errors import UsageError
from gradbench.functional.torch_internals import fused_adam_

State = dict[str, Tensor]
"""Name -> tensor [K, P]; empty for plain SGD."""

Init = Callable[[Tensor], State]
"""``init(parameters [K, P]) -> state``."""

Step = Callable[[Tensor, Tensor, State, Tensor, Tensor | int], tuple[Tensor, State]]
"""``step(parameters [K, P], gradient [K, P], state, lr [K, 1], t) -> parameters, state``; t counts from 1."""


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


def sgd(momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> Optimizer:
    """Stochastic gradient descent, as ``torch.optim.SGD`` without dampening.

    Args:
        momentum: in [0, 1); 0 needs no state.
        nesterov: use Nesterov's momentum.
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
        betas: decay rates of the averages of the gradient and of its square.
        eps: added to the denominator.
        weight_decay: coefficient; the decay is added to the gradient or, if decoupled, subtracted from the parameters.
        decoupled: whether weight decay is decoupled (AdamW).

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

    def decay(parameters: Tensor, gradient: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
        if not weight_decay:
            return parameters, gradient
        if decoupled:
            return parameters * (1 - lr * weight_decay), gradient
        return parameters, gradient + weight_decay * parameters

    def step(
        parameters: Tensor, gradient: Tensor, state: State, lr: Tensor, t: Tensor | int
    ) -> tuple[Tensor, State]:
        parameters, gradient = decay(parameters, gradient, lr)
        mean = torch.lerp(state["mean"], gradient, 1 - beta1) if beta1 else gradient
        square = (beta2 * state["square"]).addcmul_(gradient, gradient, value=1 - beta2)
        denominator = square.sqrt().div_((1 - beta2**t) ** 0.5).add_(eps)
        parameters = torch.addcdiv(parameters, mean * (lr / (beta1**t - 1)), denominator)
        return parameters, {"mean": mean, "square": square}

    def fused(
        parameters: Tensor, gradient: Tensor, state: State, lr: Tensor, t: Tensor | int
    ) -> tuple[Tensor, State]:
        parameters, gradient = decay(parameters, gradient, lr)
        move, mean, square = torch.zeros_like(parameters), state["mean"].clone(), state["square"].clone()
        count = torch.as_tensor(t, dtype=torch.float32)

        def by_cell(whole: Tensor) -> tuple[Tensor, ...]:
            # A CPU kernel handles the last few numbers by other instructions. Called per cell, it gives each cell the
            # same bits in every stack.
            return whole.unbind() if whole.is_cpu else (whole,)

        # The kernel of torch.optim.Adam(fused=True): one pass over memory instead of nine.
        fused_adam_(
            by_cell(move),
            by_cell(gradient),
            by_cell(mean),
            by_cell(square),
            [],
            [count] * len(by_cell(move)),
            lr=1.0,  # each cell's own learning rate is applied below
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
        alpha: decay rate of the average.
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

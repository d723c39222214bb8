"""Adam and AdamW. K cells, P parameters.

The arithmetic follows ``torch.optim`` operation by operation, so a stack of one cell gives the same numbers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gradbench.functional.flat_params import Layout
from gradbench.functional.torch_internals import fused_adam_
from gradbench.optimizers.optimizer import Optimizer, State, check_betas, check_option, decay, of_matrices


def adam(
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    decay_vectors: bool = True,
) -> Optimizer:
    """Adam, as ``torch.optim.Adam``; with ``decoupled`` weight decay AdamW, as ``torch.optim.AdamW``.

    Args:
        betas: decay rates of the averages of the gradient and of its square.
        eps: added to the denominator.
        weight_decay: coefficient; the decay is added to the gradient or, if decoupled, subtracted from the parameters.
        decoupled: whether weight decay is decoupled (AdamW).
        decay_vectors: whether parameters of one dimension decay, too: biases, and the scales of a norm.

    Raises:
        UsageError: for an option out of range.

    References: Kingma and Ba, arXiv:1412.6980, 2014; Loshchilov and Hutter, arXiv:1711.05101, 2017.
    """
    check_betas(betas, "[0.9,0.999]")
    beta1, beta2 = betas
    check_option("eps", eps, "1e-8")
    check_option("weight_decay", weight_decay, "0.01")

    def decayed(parameters: Tensor, gradient: Tensor, lr: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        coefficient = (
            of_matrices(weight_decay, parameters, layout)
            if weight_decay and not decay_vectors
            else weight_decay
        )
        return decay(parameters, gradient, lr, coefficient, decoupled)

    def init(parameters: Tensor, _layout: Layout) -> State:
        return {"mean": torch.zeros_like(parameters), "square": torch.zeros_like(parameters)}

    def step(
        parameters: Tensor, gradient: Tensor, state: State, lr: Tensor, t: Tensor | int, layout: Layout
    ) -> tuple[Tensor, State]:
        parameters, gradient = decayed(parameters, gradient, lr, layout)
        mean = torch.lerp(state["mean"], gradient, 1 - beta1) if beta1 else gradient
        square = (beta2 * state["square"]).addcmul_(gradient, gradient, value=1 - beta2)
        denominator = square.sqrt().div_((1 - beta2**t) ** 0.5).add_(eps)
        parameters = torch.addcdiv(parameters, mean * (lr / (beta1**t - 1)), denominator)
        return parameters, {"mean": mean, "square": square}

    def fused(
        parameters: Tensor, gradient: Tensor, state: State, lr: Tensor, t: Tensor | int, layout: Layout
    ) -> tuple[Tensor, State]:
        parameters, gradient = decayed(parameters, gradient, lr, layout)
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

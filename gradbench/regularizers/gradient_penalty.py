"""Gradient penalty: a term in the loss for the norm of a function's gradient with respect to its input."""

from collections.abc import Callable

from torch import Tensor

from gradbench.errors import UsageError
from gradbench.functional.input_gradients import gradient_norms
from gradbench.regularizers import Regularizer


def gradient_penalty(center: float = 1.0, one_sided: bool = False, reduction: str = "mean") -> Regularizer:
    """Add ``lambda * E (||grad_x f(x)|| - center)^2`` to the loss.

    The model defines f and x: the critic, and points between real and generated ones (WGAN-GP); or a classifier's loss
    per example, and its inputs.

    Args:
        center: target of the norm: 1 for a critic that should be 1-Lipschitz, 0 to push gradients to zero.
        one_sided: penalise only norms above ``center`` (WGAN-LP).
        reduction: ``mean`` over the points, or ``max`` (only the largest penalty counts).

    Returns:
        A regularizer whose strength is ``lambda``: scalar >= 0, in units of the loss.

    Raises:
        UsageError: for an unknown reduction.

    References: Gulrajani et al., "Improved training of Wasserstein GANs", arXiv:1704.00028, 2017 (center 1);
    Petzka et al., arXiv:1709.08894, 2018 (one-sided); Thanh-Tung et al., arXiv:1902.03984, 2019 (center 0,
    between real and generated points); Drucker and LeCun, "Improving generalization performance using double
    backpropagation", 1992 (center 0, on a classifier's loss).
    """
    if reduction not in ("mean", "max"):
        raise UsageError(f"regularizer.reduction must be mean or max, got {reduction}; mean is the default")

    def penalty(f: Callable[[Tensor], Tensor], points: Tensor, weight: Tensor) -> Tensor:
        excess_B = gradient_norms(f, points) - center
        if one_sided:
            excess_B = excess_B.clamp(min=0.0)
        penalty_B = excess_B.square()
        return weight * (penalty_B.mean() if reduction == "mean" else penalty_B.amax())

    return Regularizer(penalty=penalty)

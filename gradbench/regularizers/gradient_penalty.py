"""Gradient penalty: a term in the loss for the norm of a function's gradient with respect to its input."""

from collections.abc import Callable

from torch import Tensor

from gradbench.errors import UsageError
from gradbench.functional.input_gradients import gradient_norms
from gradbench.regularizers import Regularizer


def gradient_penalty(
    center: float = 1.0,
    one_sided: bool = False,
    reduction: str = "mean",
    points: str | None = None,
    every: int = 1,
) -> Regularizer:
    """Add ``lambda * E (||grad_x f(x)|| - center)^2`` to the loss.

    The model defines f and offers points x: the critic, between real and generated points (WGAN-GP), at real ones (R1)
    and others; or a classifier's loss per example, at its inputs or around them.

    Args:
        center: target of the norm: 1 for a critic that should be 1-Lipschitz, 0 to push gradients to zero.
        one_sided: penalise only norms above ``center`` (WGAN-LP).
        reduction: ``mean`` over the points, or ``max`` (only the largest penalty counts).
        points: which of the model's points; ``None`` for its default.
        every: steps from one payment to the next, with as many times the weight: lazy regularization.

    Returns:
        A regularizer whose strength is ``lambda``: scalar >= 0, in units of the loss.

    Raises:
        UsageError: for an unknown reduction, or ``every`` that is no whole number >= 1.

    References: Gulrajani et al., "Improved training of Wasserstein GANs", arXiv:1704.00028, 2017 (center 1);
    Petzka et al., arXiv:1709.08894, 2018 (one-sided); Thanh-Tung et al., arXiv:1902.03984, 2019 (center 0,
    between real and generated points); Mescheder et al., arXiv:1801.04406, 2018 (R1, center 0 at real points, and R2,
    at generated ones; lambda is half of their gamma); Kodali et al., arXiv:1705.07215, 2017 (DRAGAN, center 1 around
    real points); Karras et al., arXiv:1912.04958, 2019, section 3.1 (lazy regularization, every 16 steps); Drucker
    and LeCun, "Improving generalization performance using double backpropagation", 1992 (center 0, on a classifier's
    loss).
    """
    if reduction not in ("mean", "max"):
        raise UsageError(f"regularizer.reduction must be mean or max, got {reduction}; mean is the default")

    def penalty(f: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor) -> Tensor:
        excess_B = gradient_norms(f, x) - center
        if one_sided:
            excess_B = excess_B.clamp(min=0.0)
        penalty_B = excess_B.square()
        return weight * (penalty_B.mean() if reduction == "mean" else penalty_B.amax())

    return Regularizer(penalty=penalty, points=points, every=every)

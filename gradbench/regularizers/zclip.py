"""Gradient clipping of norms that are outliers among the recent ones."""

import torch
from torch import Tensor

from gradbench.errors import UsageError
from gradbench.functional.flat_params import Layout
from gradbench.regularizers import Regularizer, State


def zclip(alpha: float = 0.97, warmup: int = 25) -> Regularizer:
    """Clip the gradient if its norm is more than z standard deviations above the running mean of the norms.

    ``score = (||g|| - mean) / (deviation + 1e-6)``; if ``score > z``, the gradient is scaled to the norm
    ``c = mean + z^2 deviation / score``: the larger the outlier, the closer c to the mean. Mean and variance are
    exponential averages of the norms after clipping; the variance is about the new mean. During the warm-up they are
    plain averages, and nothing is clipped.

    Two deviations: the authors' code also clips every norm at 1 by default, here only outliers are clipped; and a norm
    that is not finite, or whose square is not, leaves mean and variance unchanged.

    Args:
        alpha: in [0, 1), decay of the averages.
        warmup: >= 1, number of norms before anything is clipped.

    Returns:
        A regularizer whose strength is ``z``: scalar > 0, in standard deviations; ``inf`` never clips.

    Raises:
        UsageError: for an alpha or a warm-up out of range.

    Reference: Kumar et al., "ZClip: adaptive spike mitigation for LLM pre-training", arXiv:2504.02507, 2025.
    """
    if not 0 <= alpha < 1:
        raise UsageError(f"regularizer.alpha must be in [0, 1), got {alpha}; the paper takes 0.97")
    if warmup < 1:
        raise UsageError(f"regularizer.warmup must be >= 1 step, got {warmup}; the paper takes 25")

    def init(parameters_P: Tensor, _layout: Layout) -> State:
        zero = parameters_P.new_zeros(())
        return {"mean": zero, "variance": zero, "count": zero.to(torch.int64)}

    def transform(gradient_P: Tensor, z: Tensor, state: State, *_: object) -> tuple[Tensor, State]:
        norm = torch.linalg.vector_norm(gradient_P)
        mean, variance, count = state["mean"], state["variance"], state["count"]
        deviation = variance.sqrt()
        score = (norm - mean) / (deviation + 1e-6)
        clips = (score > z) & (count >= warmup)
        limit = mean + z.square() * deviation / score
        scale = torch.where(clips, limit / (norm + 1e-6), 1.0)

        used = torch.where(clips, limit, norm)
        share = torch.where(count < warmup, 1 / (count + 1).to(norm.dtype), 1 - alpha)
        new_mean = mean + share * (used - mean)
        # During the warm-up Welford's update, about the old and the new mean, is the exact variance.
        about = torch.where(count < warmup, used - mean, used - new_mean)
        new_variance = (1 - share) * variance + share * about * (used - new_mean)
        usable = torch.isfinite(norm) & torch.isfinite(new_variance)
        return gradient_P * scale, {
            "mean": torch.where(usable, new_mean, mean),
            "variance": torch.where(usable, new_variance, variance),
            "count": count + usable,
        }

    return Regularizer(transform=transform, preserves_direction=True, init=init)

"""Gradient clipping at a percentile of the gradient norms seen so far."""

import torch
from torch import Tensor

from gradbench.errors import UsageError
from gradbench.functional.flat_params import Layout
from gradbench.regularizers import Regularizer, State


def autoclip(window: int = 1000) -> Regularizer:
    """Clip the gradient's norm at a percentile of the norms so far, including the current one.

    ``g * min(1, c / ||g||)``, where c is the percentile of the last ``window`` norms, interpolated linearly as in
    ``numpy.percentile``.

    Two deviations: the paper's history is unbounded; here it holds the last ``window`` norms, because a stack needs
    tensors of fixed size (with fewer steps there is no difference). And norms that are not finite are not stored,
    because they would make every later percentile NaN.

    Args:
        window: >= 1, number of norms in the history.

    Returns:
        A regularizer whose strength is ``percentile``: scalar in (0, 100]; 100 never clips, since no norm exceeds a
        maximum that includes it.

    Raises:
        UsageError: for a window < 1.

    Reference: Seetharaman, Wichern, Pardo, Le Roux, "AutoClip: adaptive gradient clipping for source
    separation networks", arXiv:2007.14469, 2020.
    """
    if window < 1:
        raise UsageError(f"regularizer.window must be >= 1 norm, got {window}; 1000 is the default")

    def init(parameters_P: Tensor, _layout: Layout) -> State:
        return {
            # Empty slots are inf, so that they sort behind every norm.
            "history": parameters_P.new_full((window,), torch.inf),
            "count": parameters_P.new_zeros((), dtype=torch.int64),
        }

    def transform(gradient_P: Tensor, percentile: Tensor, state: State, *_: object) -> tuple[Tensor, State]:
        norm = torch.linalg.vector_norm(gradient_P)
        slots = torch.arange(window, device=norm.device)
        history = torch.where(slots == state["count"] % window, norm, state["history"])
        # A norm that is not finite does not advance the count, so the next norm overwrites it.
        count = state["count"] + torch.isfinite(norm)
        limit = percentile_of(history, count.clamp(max=window), percentile)
        scale = torch.where(norm > limit, limit / (norm + 1e-6), 1.0)
        return gradient_P * scale, {"history": history, "count": count}

    return Regularizer(transform=transform, preserves_direction=True, init=init)


def percentile_of(values_N: Tensor, count: Tensor, percentile: Tensor) -> Tensor:
    """Return a percentile of the ``count`` smallest of N values, interpolated linearly.

    Written out because ``torch.quantile`` reads its argument on the host.

    Args:
        values_N: values, [N].
        count: int64 scalar; 0 is taken as 1.
        percentile: scalar in [0, 100].
    """
    ordered_N = values_N.sort().values
    last = (count - 1).clamp(min=0)
    position = percentile * last / 100
    below = position.floor().long()
    above = torch.minimum(below + 1, last)
    low, high = ordered_N.gather(0, torch.stack([below, above])).unbind()
    # Equal neighbours are returned as they are: in an empty history they are inf, and inf - inf is NaN.
    return torch.where(low == high, low, torch.lerp(low, high, position - below))

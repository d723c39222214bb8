"""Decide which cells have diverged, at every update and without reading a value. K cells, P parameters of a player.

An update is judged by its loss, penalty and gradient. What it does to the parameters shows in the next update's loss.
After the last update there is none: a cell whose parameters or compared metric are not finite then has diverged, too.
So has one whose compared metric has fallen for good, where a model has a rule for that.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DivergenceState = dict[str, Tensor]
"""``active`` (bool: not diverged), ``updates_above_limit`` (in a row) and ``updates_completed``; [K] each."""


@dataclass(frozen=True)
class Divergence:
    """The rule by which a cell with finite numbers has diverged.

    Args:
        factor: the loss limit is ``first + (factor - 1) * max(|first|, 1)``, of the first loss.
        patience: steps in a row with a loss above the limit.
        fall: share of the best compared metric that is lost for good; ``None`` where no fall counts.
    """

    factor: float
    patience: int
    fall: float | None = None

    def loss_limit(self, loss: Tensor) -> Tensor:
        """Return the loss limit that follows from a first loss. Shapes: [K] -> [K]."""
        return loss + (self.factor - 1) * loss.abs().clamp(min=1.0)

    def has_fallen(self, metric: Sequence[float], goal: str) -> bool:
        """Return whether a metric that is positive fell from its best and stayed down for the last two evaluations.

        Args:
            metric: of each evaluation, in order.
            goal: ``max`` or ``min``.
        """
        if self.fall is None or len(metric) < 3:
            return False
        kept = 1 - self.fall
        if goal == "max":
            return max(metric[-2:]) < kept * max(metric)
        return kept * min(metric[-2:]) > min(metric)


def init_divergence_state(K: int, device: torch.device) -> DivergenceState:
    """Return the divergence state of K cells before their first update."""
    zeros = torch.zeros(K, dtype=torch.int64, device=device)
    return {
        "active": torch.ones(K, dtype=torch.bool, device=device),
        "updates_above_limit": zeros,
        "updates_completed": zeros,
    }


def update_divergence_state(
    state: DivergenceState, sizes: Tensor, loss: Tensor, loss_limit: Tensor, patience: int | None
) -> DivergenceState:
    """Return the divergence state after one more update.

    Args:
        state: before the update.
        sizes: [K], sum of loss, penalty and gradient norm: not finite where one of them is not.
        loss: [K].
        loss_limit: [K].
        patience: updates in a row with a loss above the limit; ``None`` for a player whose loss is not judged.
    """
    active, above = state["active"] & (sizes - sizes == 0), state["updates_above_limit"]
    if patience is not None:
        above = (above + 1) * (loss > loss_limit)
        active = active & (above < patience)
    completed = state["updates_completed"] + active
    return {"active": active, "updates_above_limit": above, "updates_completed": completed}


def has_finite(parameters: Mapping[str, Tensor]) -> Tensor:
    """Return which cells' parameters are all finite, every player's. Shapes: player -> [K, P] gives [K]."""
    # the largest size: one pass without a copy, and unlike a sum it cannot overflow
    largest = [torch.linalg.vector_norm(vectors, ord=math.inf, dim=1) for vectors in parameters.values()]
    return torch.stack(largest).isfinite().all(dim=0)

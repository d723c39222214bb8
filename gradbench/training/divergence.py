"""When a cell has diverged: judged at every update, and never by reading a value. K cells, P parameters of a player.

An update is judged by its loss, penalty and gradient. What it makes of the parameters shows in the next update's loss.
After the last update there is none: a cell whose parameters or compared metric are not finite then has diverged, too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Life = dict[str, Tensor]
"""``alive`` (bool), ``above`` (updates in a row with a loss above the ceiling), ``survived`` (updates); [K] each."""


@dataclass(frozen=True)
class Divergence:
    """When a cell has diverged although its numbers are finite.

    Args:
        factor: the loss is too high above ``first + (factor - 1) * max(|first|, 1)``, its ceiling.
        patience: steps in a row that it must be too high.
    """

    factor: float
    patience: int

    def ceiling(self, loss: Tensor) -> Tensor:
        """Return what follows from a first loss. Shapes: [K]."""
        return loss + (self.factor - 1) * loss.abs().clamp(min=1.0)


def newborn(K: int, device: torch.device) -> Life:
    """Return K cells before their first update."""
    zeros = torch.zeros(K, dtype=torch.int64, device=device)
    return {"alive": torch.ones(K, dtype=torch.bool, device=device), "above": zeros, "survived": zeros}


def judged(life: Life, sizes: Tensor, loss: Tensor, ceiling: Tensor, patience: int | None) -> Life:
    """Return what one more update leaves of the cells.

    Args:
        life: before it.
        sizes: [K], a number that is infinite or NaN where any of the update's is.
        loss: [K].
        ceiling: [K], above which a loss is too high.
        patience: updates in a row that it must be too high; ``None`` for a player whose losses are not judged.
    """
    alive, above = life["alive"] & (sizes - sizes == 0), life["above"]
    if patience is not None:
        above = (above + 1) * (loss > ceiling)
        alive = alive & (above < patience)
    return {"alive": alive, "above": above, "survived": life["survived"] + alive}


def has_finite(parameters: Mapping[str, Tensor]) -> Tensor:
    """Return which cells' parameters are all finite, every player's, [K]; a player's are [K, P]."""
    # the largest size: one pass without a copy, and unlike a sum it cannot overflow
    largest = [torch.linalg.vector_norm(vectors, ord=math.inf, dim=1) for vectors in parameters.values()]
    return torch.stack(largest).isfinite().all(dim=0)

"""When a cell has diverged: judged at every update, and never by reading a value. K cells."""

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

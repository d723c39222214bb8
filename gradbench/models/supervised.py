"""Models that train one network on labelled examples, in shuffled epochs.

B batch, N examples.
"""

from collections.abc import Mapping
from typing import final

import numpy as np

from gradbench.models import MeanLoss, Networks, Tensors
from gradbench.models.sampling import epoch_indices, gather_rows


class SupervisedModel(MeanLoss):
    """A model of the arrays ``train/x`` [N, ...] and ``train/y`` [N], every example once per epoch.

    Attributes:
        batch_size: B.
    """

    batch_size: int

    @final
    def draw(
        self, purpose: str, seed: int, first: int, count: int, data: Mapping[str, np.ndarray]
    ) -> Tensors:
        """Draw the indices of the examples, int64 [count, B]; an evaluation needs none."""
        if purpose == "evaluation":
            return {}
        return {"index": epoch_indices(seed, len(data["train/x"]), self.batch_size, first, count)}

    @final
    def batch(self, player: str, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Gather inputs ``x`` [B, ...] and targets ``y`` [B]."""
        return {name: gather_rows(data[f"train/{name}"], draw["index"]) for name in ("x", "y")}

"""Classification of sequences, and regression on them, with a transformer.

B batch, T time, D features of a step, E width, L layers, C outputs (classes, or 1 for a number).
"""

from collections.abc import Mapping

import numpy as np

from gradbench.models.networks.transformer import SequenceTransformer
from gradbench.models.sequence import SequenceTask
from gradbench.models.transformer import check_sizes


class SequenceTransformerReading(SequenceTask):
    """Predict a class or a number for a sequence with a transformer that sees all of it.

    Args:
        sizes: sizes of the data: ``features`` (D), ``length`` (T), ``answers`` (C).
        arrays: the data's arrays.
        width: E.
        heads: heads of each attention.
        layers: L.
        dropout: probability of leaving out a number, in [0, 1).
        batch_size: B.
        metrics: further metrics, as of :class:`gradbench.models.supervised.SupervisedTask`.
    """

    width_tolerance = 1e-4  # the sums over a sequence depend on the width of a stack

    def __init__(
        self,
        sizes: Mapping[str, int],
        arrays: Mapping[str, np.ndarray],
        width: int,
        heads: int,
        layers: int,
        dropout: float,
        batch_size: int,
        metrics: Mapping[str, object] | None = None,
    ) -> None:
        check_sizes(width, heads, layers, dropout)
        shape = (sizes["features"], sizes["answers"], sizes["length"], width, heads, layers, dropout)
        super().__init__(
            sizes, arrays, lambda **_: SequenceTransformer(*shape), batch_size=batch_size, metrics=metrics
        )

"""Language modelling with a recurrent network, trained by truncated back-propagation with carried state.

B streams of text, T tokens unrolled, V vocabulary, E embedding, H hidden, L layers.
"""

from collections.abc import Mapping

import numpy as np
from torch import nn

from gradbench.models import Player
from gradbench.models.language_modelling import LanguageModellingTask
from gradbench.models.networks.language_model import CELLS, LanguageModel


class LanguageModelling(LanguageModellingTask):
    """Predict the next token with a recurrent network, whose state is carried from step to step.

    Args:
        sizes: sizes of the data: ``vocabulary`` (V), and the number of characters of each split.
        embedding: E.
        hidden: H.
        layers: L.
        unroll: T.
        batch_size: B.
        evaluation_tokens: tokens of each split that an evaluation reads, from its beginning, at most.
        cell: ``lstm``, ``gru`` or ``rnn`` (tanh); the name of its one player, too.
        metrics: further metrics, as of :class:`LanguageModellingTask`; so are ``temperature`` and ``arrays``.
    """

    width_tolerance = 0.0

    def __init__(
        self,
        sizes: Mapping[str, int],
        embedding: int,
        hidden: int,
        layers: int,
        unroll: int,
        batch_size: int,
        evaluation_tokens: int,
        cell: str = "lstm",
        metrics: Mapping[str, object] | None = None,
        temperature: float = 1.0,
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        if cell not in CELLS:
            raise ValueError(f"model.cell must be one of {', '.join(CELLS)}, got {cell}")
        if min(embedding, hidden, layers, unroll, batch_size, evaluation_tokens) < 1:
            raise ValueError(
                "model.embedding, hidden, layers, unroll, batch_size, evaluation_tokens must be >= 1"
            )
        self.layers = (sizes["vocabulary"], embedding, hidden, layers, cell)
        self.players, self.fuses = (Player(cell),), cell == "lstm"
        super().__init__(
            sizes, unroll, batch_size, evaluation_tokens, LanguageModel, metrics, temperature, arrays
        )

    def networks(self, fused: bool = False) -> dict[str, nn.Module]:
        """Return the language model; with ``fused``, on torch's own LSTM kernel."""
        return {self.players[0].name: LanguageModel(*self.layers, fused=fused)}

"""Language modelling with a decoder-only transformer.

B streams of text, T tokens of a window, V vocabulary, E width, L layers.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from gradbench.functional.flat_params import Network
from gradbench.functional.seeding import generator
from gradbench.models import Tensors
from gradbench.models.language_modelling import LanguageModellingTask
from gradbench.models.networks.transformer import TransformerLanguageModel


class TransformerLanguageModelling(LanguageModellingTask):
    """Predict the next token with a transformer, which reads windows of T tokens, drawn from anywhere in the text.

    Args:
        sizes: sizes of the data: ``vocabulary`` (V), and the number of characters of each split.
        unroll: T.
        width: E.
        heads: heads of each attention.
        layers: L.
        dropout: probability of leaving out a number, in [0, 1).
        keys: ``batch_size``, ``evaluation_tokens``, ``metrics``, ``temperature`` and ``arrays``, as of
            :class:`LanguageModellingTask`.
    """

    width_tolerance = 0.0

    def __init__(
        self,
        sizes: Mapping[str, int],
        unroll: int,
        width: int,
        heads: int,
        layers: int,
        dropout: float,
        **keys: Any,
    ) -> None:
        check_sizes(width, heads, layers, dropout)
        shape = (sizes["vocabulary"], unroll, width, heads, layers, dropout)
        super().__init__(sizes, unroll, network=lambda **_: TransformerLanguageModel(*shape), **keys)

    def draw(
        self, purpose: str, seed: int, first: int, count: int, data: Mapping[str, np.ndarray]
    ) -> Tensors:
        """Draw where each window begins, int64 [count, B], anew for each step: no state is carried on."""
        if purpose == "evaluation":
            return super().draw(purpose, seed, first, count, data)
        tokens, random = len(data["train/tokens"]), generator(seed, "windows", first)
        return {"position": torch.randint(tokens, (count, self.batch_size), generator=random)}

    def embedding_name(self, net: Network | nn.Module) -> str:
        """Return the name of the embedding of tokens; that of positions may have as many rows."""
        return "embedding"


def check_sizes(width: int, heads: int, layers: int, dropout: float) -> None:
    """Raise ``ValueError`` for the sizes of a transformer that are out of range."""
    if min(width, heads, layers) < 1 or width % heads:
        raise ValueError(
            f"model.width, heads and layers must be >= 1, and width a multiple of heads, "
            f"got {width}, {heads} and {layers}"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"model.dropout must be in [0, 1), got {dropout}")

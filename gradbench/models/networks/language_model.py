"""Recurrent cells by their names, and a language model on top of them, as modules for one network.

B streams of text, T tokens unrolled, V vocabulary, E embedding, H hidden, L layers.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from gradbench.models.networks.gru import GRU
from gradbench.models.networks.lstm import LSTM
from gradbench.models.networks.rnn import RNN

CELLS: dict[str, Callable[[int, int, int], nn.Module]] = {"rnn": RNN, "gru": GRU, "lstm": LSTM}
"""Name -> recurrent layers, made from the numbers of inputs, hidden units and layers."""

State = Tensor | tuple[Tensor, Tensor]
"""Hidden state; of an LSTM hidden and cell state. Each [L, B, H]."""


class LanguageModel(nn.Module):
    """An embedding, recurrent layers, and a linear decoder to the logits of the next token.

    Args:
        vocabulary: V.
        embedding: E.
        hidden: H.
        layers: L.
        cell: a key of ``CELLS``, and the name of the layers among the parameters.
        fused: run an LSTM on torch's kernel; the other cells have none.
    """

    def __init__(
        self,
        vocabulary: int,
        embedding: int,
        hidden: int,
        layers: int,
        cell: str = "lstm",
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.cell = cell
        build = partial(LSTM, fused=True) if fused and cell == "lstm" else CELLS[cell]
        self.add_module(cell, build(embedding, hidden, layers))
        self.decoder = nn.Linear(hidden, vocabulary)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, text: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the logits [B, T, V] and the last state.

        Args:
            text: tokens, int64 [B, T].
            state: as of ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN``, each tensor [L, B, H]; ``None`` is the zero state.
        """
        outputs, state = self.get_submodule(self.cell)(self.embedding(text), state)
        logits: Tensor = self.decoder(outputs.flatten(0, 1))  # in two dimensions, as in ``project``
        return logits.view(*outputs.shape[:2], -1), state

"""An LSTM and a language model on top of it, as modules for one network.

B streams of text, T tokens unrolled, V vocabulary, E embedding, H hidden, L layers.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradbench.models.networks.lstm_autograd import Recurrence

State = tuple[Tensor, Tensor]
"""Hidden and cell state, each [L, B, H]."""


WORKSPACE = 15
"""Size of the workspace that torch's CPU kernel holds until it returns, in numbers per token, layer and hidden unit."""


class LSTM(nn.Module):
    """``nn.LSTM`` (batch first) with the recurrence written out.

    Parameters, names and results are the same; unlike torch's kernel, it works under ``vmap`` and can be
    differentiated twice.

    Args:
        inputs: E.
        hidden: H.
        layers: L.
        fused: use torch's kernel.
    """

    def __init__(self, inputs: int, hidden: int, layers: int, fused: bool = False) -> None:
        super().__init__()
        self.hidden, self.layers, self.fused = hidden, layers, fused
        self.names: list[str] = []
        bound = 1 / math.sqrt(hidden)
        for layer in range(layers):
            shapes = {
                "weight_ih": (4 * hidden, inputs if layer == 0 else hidden),
                "weight_hh": (4 * hidden, hidden),
                "bias_ih": (4 * hidden,),
                "bias_hh": (4 * hidden,),
            }
            for name, shape in shapes.items():
                weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
                self.register_parameter(f"{name}_l{layer}", weight)
                self.names.append(f"{name}_l{layer}")

    def forward(self, x_BTE: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the top layer's outputs [B, T, H] and the last state; ``None`` is the zero state."""
        if state is None:
            zeros = x_BTE.new_zeros(self.layers, x_BTE.shape[0], self.hidden)
            state = (zeros, zeros)
        if self.fused:
            weights = [getattr(self, name) for name in self.names]
            # On ``meta``, where memory is predicted, this tensor stands for the workspace of the real kernel.
            workspace = x_BTE.new_empty(
                WORKSPACE * self.layers * self.hidden * x_BTE[..., 0].numel() * x_BTE.is_meta
            )
            top, *last = torch.lstm(x_BTE, state, weights, True, self.layers, 0.0, self.training, False, True)
            del workspace
            return top, (last[0], last[1])
        return self._unrolled(x_BTE, state)

    def _unrolled(self, x_BTE: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the same as :meth:`forward`, computed by :class:`Recurrence`."""
        x_TBE = x_BTE.transpose(0, 1)
        hs, cs = [], []
        for layer in range(self.layers):
            w_ih, w_hh, b_ih, b_hh = (
                getattr(self, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            # One product for the inputs of all T steps, in two dimensions: else ``vmap`` would copy the weight T times.
            projected = F.linear(x_TBE.flatten(0, 1), w_ih, b_ih + b_hh)
            projected_TBG = projected.view(*x_TBE.shape[:2], -1)
            x_TBE, c_TBH, _ = Recurrence.apply(projected_TBG, w_hh, state[0][layer], state[1][layer])
            hs.append(x_TBE[-1])
            cs.append(c_TBH[-1])
        return x_TBE.transpose(0, 1), (torch.stack(hs), torch.stack(cs))


class LanguageModel(nn.Module):
    """An embedding, an LSTM, and a linear decoder to the logits of the next token."""

    def __init__(
        self, vocabulary: int, embedding: int, hidden: int, layers: int, fused: bool = False
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.lstm = LSTM(embedding, hidden, layers, fused)
        self.decoder = nn.Linear(hidden, vocabulary)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, text: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the logits [B, T, V] and the last state.

        Args:
            text: tokens, int64 [B, T].
            state: as ``nn.LSTM``'s, each [L, B, H]; ``None`` is the zero state.
        """
        outputs, state = self.lstm(self.embedding(text), state)
        logits: Tensor = self.decoder(outputs.flatten(0, 1))  # in two dimensions, as in ``LSTM``
        return logits.view(*outputs.shape[:2], -1), state

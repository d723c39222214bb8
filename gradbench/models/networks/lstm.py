"""An LSTM, written out.

B batch, T time, E features, H hidden, L layers.
"""

import torch
from torch import Tensor

from gradbench.models.networks.lstm_autograd import Recurrence
from gradbench.models.networks.recurrent import RecurrentLayers, project

State = tuple[Tensor, Tensor]
"""Hidden and cell state, each [L, B, H]."""


WORKSPACE = 15
"""Size of the workspace that torch's CPU kernel holds until it returns, in numbers per token, layer and hidden unit."""


class LSTM(RecurrentLayers):
    """``nn.LSTM`` (batch first) with the recurrence written out; parameters, names and results are the same.

    Args:
        inputs: E.
        hidden: H.
        layers: L.
        fused: use torch's kernel.
    """

    gates = 4

    def __init__(self, inputs: int, hidden: int, layers: int = 1, fused: bool = False) -> None:
        super().__init__(inputs, hidden, layers)
        self.fused = fused

    def forward(self, x_BTE: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the top layer's outputs [B, T, H] and the last state; ``None`` is the zero state."""
        if state is None:
            zeros = x_BTE.new_zeros(self.layers, x_BTE.shape[0], self.hidden)
            state = (zeros, zeros)
        if self.fused:
            weights = [weight for layer in range(self.layers) for weight in self.weights(layer)]
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
            w_ih, w_hh, b_ih, b_hh = self.weights(layer)
            projected_TBG = project(x_TBE, w_ih, b_ih + b_hh)
            x_TBE, c_TBH, _ = Recurrence.apply(projected_TBG, w_hh, state[0][layer], state[1][layer])
            hs.append(x_TBE[-1])
            cs.append(c_TBH[-1])
        return x_TBE.transpose(0, 1), (torch.stack(hs), torch.stack(cs))

"""A plain recurrent network, written out.

B batch, T time, D features, H hidden, L layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gradbench.models.networks.recurrent import RecurrentLayers, project


class RNN(RecurrentLayers):
    """``nn.RNN`` (tanh, batch first) with the recurrence written out; parameters, names and results are the same."""

    gates = 1

    def forward(self, x_BTD: Tensor, h_LBH: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the top layer's outputs [B, T, H] and the last state [L, B, H]; ``None`` is the zero state."""
        return self.run_layers(run_layer, x_BTD, h_LBH)


def run_layer(x_TBD: Tensor, weights: list[Tensor], h_BH: Tensor) -> Tensor:
    """Return the state after each step, [T, B, H]."""
    w_ih, w_hh, b_ih, b_hh = weights
    outputs = []
    for projected_BH in project(x_TBD, w_ih, b_ih + b_hh).unbind():
        h_BH = torch.tanh(F.linear(h_BH, w_hh) + projected_BH)
        outputs.append(h_BH)
    return torch.stack(outputs)

"""A GRU, written out.

B batch, T time, D features, H hidden, L layers.
"""

from torch import Tensor

from gradbench.models.networks.gru_autograd import GRURecurrence
from gradbench.models.networks.recurrent import RecurrentLayers, project


class GRU(RecurrentLayers):
    """``nn.GRU`` (batch first) with the recurrence written out; parameters, names and results are the same.

    As in torch, the reset gate multiplies the recurrent product and its bias.
    """

    gates = 3

    def forward(self, x_BTD: Tensor, h_LBH: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the top layer's outputs [B, T, H] and the last state [L, B, H]; ``None`` is the zero state."""
        return self.run_layers(run_layer, x_BTD, h_LBH)


def run_layer(x_TBD: Tensor, weights: list[Tensor], h_BH: Tensor) -> Tensor:
    """Return the state after each step, [T, B, H]."""
    w_ih, w_hh, b_ih, b_hh = weights
    states_TBH: Tensor = GRURecurrence.apply(project(x_TBD, w_ih, b_ih), w_hh, b_hh, h_BH)[0]
    return states_TBH

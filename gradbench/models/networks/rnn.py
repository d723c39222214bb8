"""A plain recurrent network, written out.

B batch, T time, D features, H hidden.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RNN(nn.Module):
    """``nn.RNN`` (one layer, tanh, batch first) with the recurrence written out.

    Parameters, names and results are the same; unlike torch's kernel, it works under ``vmap`` and can be
    differentiated twice.

    Args:
        inputs: D.
        hidden: H.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(hidden)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        self.weight_ih_l0, self.weight_hh_l0 = drawn(hidden, inputs), drawn(hidden, hidden)
        self.bias_ih_l0, self.bias_hh_l0 = drawn(hidden), drawn(hidden)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return all outputs [B, T, H] and the last one [1, B, H], from a zero state."""
        # One product for the inputs of all T steps, time first, so that each step reads contiguous memory.
        x_TBD = x_BTD.transpose(0, 1)
        # In two dimensions, because ``vmap`` would copy the weight T times otherwise.
        projected = F.linear(x_TBD.flatten(0, 1), self.weight_ih_l0, self.bias_ih_l0 + self.bias_hh_l0)
        projected_TBH = projected.view(*x_TBD.shape[:2], -1)
        h = x_BTD.new_zeros(x_BTD.shape[0], self.weight_hh_l0.shape[0])
        outputs = []
        for projected_BH in projected_TBH.unbind():
            h = torch.tanh(F.linear(h, self.weight_hh_l0) + projected_BH)
            outputs.append(h)
        return torch.stack(outputs, dim=1), h[None]

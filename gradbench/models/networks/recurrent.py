"""Weights of recurrent layers on top of each other, as ``nn.RNNBase`` has them.

B batch, T time, D features, H hidden, G gates × H, L layers.
"""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = Callable[[Tensor, list[Tensor], Tensor], Tensor]
"""Inputs [T, B, D], the layer's weights and its first state [B, H] -> the state after each step, [T, B, H]."""


class RecurrentLayers(nn.Module):
    """Weights with torch's names, shapes, order and distribution; a subclass writes out the recurrence.

    Unlike torch's kernels, a recurrence that is written out works under ``vmap`` and can be differentiated twice.

    Args:
        inputs: D.
        hidden: H.
        layers: L.
    """

    gates: ClassVar[int]

    def __init__(self, inputs: int, hidden: int, layers: int = 1) -> None:
        super().__init__()
        self.hidden, self.layers = hidden, layers
        bound, rows = 1 / math.sqrt(hidden), self.gates * hidden
        for layer in range(layers):
            shapes = {
                "weight_ih": (rows, inputs if layer == 0 else hidden),
                "weight_hh": (rows, hidden),
                "bias_ih": (rows,),
                "bias_hh": (rows,),
            }
            for name, shape in shapes.items():
                weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
                self.register_parameter(f"{name}_l{layer}", weight)

    def weights(self, layer: int) -> list[Tensor]:
        """Return a layer's weight_ih, weight_hh, bias_ih and bias_hh."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [getattr(self, f"{name}_l{layer}") for name in names]

    def run_layers(self, run: Layer, x_BTD: Tensor, h_LBH: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the top layer's states [B, T, H] and the last state of each, [L, B, H]; ``None`` is the zero state."""
        if h_LBH is None:
            h_LBH = x_BTD.new_zeros(self.layers, x_BTD.shape[0], self.hidden)
        # Time first, so that each step reads contiguous memory.
        x_TBD, last = x_BTD.transpose(0, 1), []
        for layer in range(self.layers):
            x_TBD = run(x_TBD, self.weights(layer), h_LBH[layer])
            last.append(x_TBD[-1])
        return x_TBD.transpose(0, 1), torch.stack(last)


def project(x_TBD: Tensor, w_GD: Tensor, b_G: Tensor | None = None) -> Tensor:
    """Return the contribution of the inputs of all T steps to the gates, [T, B, G], as one product."""
    # In two dimensions, because ``vmap`` would copy the weight T times otherwise.
    return F.linear(x_TBD.flatten(0, 1), w_GD, b_G).view(*x_TBD.shape[:2], -1)

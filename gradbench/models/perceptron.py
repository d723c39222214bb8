"""The network that the classifier, the critic and the generator share.

L hidden layers, H units of each, B batch.
"""

from itertools import pairwise

from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
}


class Perceptron(nn.Module):
    """``depth`` hidden layers of ``hidden`` units and a linear one: [..., inputs] -> [..., outputs].

    Args:
        inputs: numbers in.
        hidden: H.
        depth: L.
        outputs: numbers out.
        activation: a key of ``ACTIVATIONS``.

    Raises:
        ValueError: for an unknown activation, or sizes that make no network.
    """

    def __init__(self, inputs: int, hidden: int, depth: int, outputs: int, activation: str) -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"model.activation must be one of {', '.join(ACTIVATIONS)}, got {activation}")
        if hidden < 1 or depth < 0:
            raise ValueError(f"model.hidden must be >= 1 and model.depth >= 0, got {hidden} and {depth}")
        super().__init__()
        widths = [inputs] + [hidden] * depth
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.activation = ACTIVATIONS[activation]()
        self.output = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor, shifts_LBH: Tensor | None = None) -> Tensor:
        """Return the outputs.

        Args:
            x: [..., inputs].
            shifts_LBH: is added to the hidden layers' activations; a gradient with respect to it, at zero, is the
                gradient with respect to the activations.
        """
        for layer, linear in enumerate(self.hidden):
            x = self.activation(linear(x))
            if shifts_LBH is not None:
                x = x + shifts_LBH[layer]
        outputs: Tensor = self.output(x)
        return outputs

"""The network that the classifier, the critic and the generator share."""

from itertools import pairwise

from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
}


def perceptron(inputs: int, hidden: int, depth: int, outputs: int, activation: str) -> nn.Sequential:
    """Return a perceptron with ``depth`` hidden layers of ``hidden`` units: [..., inputs] -> [..., outputs].

    Raises:
        ValueError: for an unknown activation, or sizes that make no network.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"model.activation must be one of {', '.join(ACTIVATIONS)}, got {activation}")
    if hidden < 1 or depth < 0:
        raise ValueError(f"model.hidden must be >= 1 and model.depth >= 0, got {hidden} and {depth}")
    widths = [inputs] + [hidden] * depth
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))

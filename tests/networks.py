"""Small networks as a user writes them, for the generic models: ordinary modules that know nothing of gradbench.

B batch, T time, V vocabulary.
"""

import torch
from torch import Tensor, nn


class CNN(nn.Module):
    """Two convolutions and a linear layer: images [B, C, H, W] -> logits."""

    def __init__(self, shape, num_classes, width=4):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(shape[0], width, 3, padding=1),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
        )
        self.head = nn.Linear(width * (shape[1] // 2) * (shape[2] // 2), num_classes)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


class MLP(nn.Module):
    """One hidden layer on flat inputs."""

    def __init__(self, inputs: int, outputs: int, width: int = 6):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1))


def mlp(inputs: int, outputs: int, depth: int = 2) -> nn.Module:
    """Return a perceptron of a depth, as a function does."""
    layers = [layer for _ in range(depth) for layer in (nn.LazyLinear(5), nn.Tanh())]
    net = nn.Sequential(nn.Flatten(), *layers, nn.Linear(5, outputs))
    net(torch.zeros(1, inputs))
    return net


class GRU(nn.Module):
    """A language model with a state [B, H], written out: (tokens [B, T], state) -> logits [B, T, V], state."""

    def __init__(self, vocabulary, width=6):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.inner, self.outer = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens, state=None):
        embedded = self.embedding(tokens)
        h = torch.zeros_like(embedded[:, 0]) if state is None else state
        outputs = []
        for inner in self.inner(embedded).unbind(1):
            (r, z, n), (hr, hz, hn) = inner.chunk(3, dim=1), self.outer(h).chunk(3, dim=1)
            z = torch.sigmoid(z + hz)
            h = z * h + (1 - z) * torch.tanh(n + torch.sigmoid(r + hr) * hn)
            outputs.append(h)
        return self.head(torch.stack(outputs, dim=1)), h


class Bigrams(nn.Module):
    """A language model without state, its embedding tied to its decoder."""

    def __init__(self, vocabulary, width=6):
        super().__init__()
        self.head = nn.Linear(width, vocabulary)
        self.embedding = nn.Embedding(vocabulary, width)
        self.embedding.weight = self.head.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.embedding(tokens)))


class Critic(nn.Module):
    """Values [B] of points of any shape."""

    def __init__(self, inputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, points):
        return self.layers(points).squeeze(1)


class Generator(nn.Module):
    """Points of a shape out of noise."""

    def __init__(self, noise, shape):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(noise, 6),
            nn.Tanh(),
            nn.Linear(6, int(torch.Size(shape).numel())),
            nn.Unflatten(1, shape),
        )

    def forward(self, noise):
        return self.layers(noise)

"""Small networks as a user writes them, for the generic models: ordinary modules that know nothing of gradbench.

B batch, T time, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


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


# ---- all kinds of layers, on images [B, 1, 8, 8] of ten classes --------------------------------------------


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2)
        self.out = nn.Linear(6 * 9, 10)

    def forward(self, x):
        return self.out(F.elu(self.second(F.elu(self.first(x)))).flatten(1))


class Normed(Convolutional):
    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(4), nn.Dropout(0.3)

    def forward(self, x):
        h = F.elu(self.second(F.dropout2d(F.elu(self.norm(self.first(x))), 0.2, self.training)))
        return self.out(self.drop(h.flatten(1)))


class Recurrent(nn.Module):
    def __init__(self, cell=nn.GRU):
        super().__init__()
        self.cell, self.out = cell(8, 6, batch_first=True), nn.Linear(6, 10)

    def forward(self, x):
        return self.out(self.cell(x[:, 0])[0][:, -1])


def lstm() -> nn.Module:
    return Recurrent(nn.LSTM)


def rnn() -> nn.Module:
    return Recurrent(nn.RNN)


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.layers, self.out = nn.TransformerEncoder(layer, 2), nn.Linear(64, 10)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(8))

    def forward(self, x):
        return self.out(self.layers(x[:, 0], mask=self.mask).flatten(1))


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(64, 10)

    def forward(self, x):
        q, k, v = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in self.qkv(x[:, 0]).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(1))


class SpectralNorm(Convolutional):
    def __init__(self):
        super().__init__()
        self.out = parametrizations.spectral_norm(self.out)


class Frozen(Convolutional):
    """A frozen first layer, and a buffer of random numbers."""

    def __init__(self):
        super().__init__()
        self.first.requires_grad_(False)
        self.register_buffer("scale", torch.rand(6, 1, 1))

    def forward(self, x):
        return self.out((F.elu(self.second(F.elu(self.first(x)))) * self.scale).flatten(1))


class Branching(Convolutional):
    """A branch on a value."""

    def forward(self, x):
        h = F.elu(self.second(F.elu(self.first(x))))
        if h.mean().item() > 0:
            h = h * 2
        return self.out(h.flatten(1))


class Noisy(Convolutional):
    def forward(self, x):
        h = F.elu(self.second(F.elu(self.first(x))))
        return self.out((h + 0.1 * torch.randn_like(h)).flatten(1))


class Gates(nn.Module):
    def __init__(self):
        super().__init__()
        self.stack = nn.Sequential(
            nn.ConvTranspose2d(1, 4, 4, 2, 1), nn.MaxPool2d(2), nn.GroupNorm(2, 4), nn.GELU(), nn.AvgPool2d(2)
        )
        self.out = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 10))

    def forward(self, x):
        return self.out(self.stack(x))


class Tied(nn.Module):
    """One weight in two places."""

    def __init__(self):
        super().__init__()
        self.encode, self.out = nn.Linear(64, 10), nn.Linear(64, 10)
        self.out.weight = self.encode.weight

    def forward(self, x):
        return self.out(torch.tanh(self.encode(x.flatten(1)) @ self.encode.weight))


class Unregistered(Convolutional):
    """A plain attribute of random numbers, which no cell could have for itself."""

    def __init__(self):
        super().__init__()
        self.scale = torch.rand(6, 1, 1)

    def forward(self, x):
        return super().forward(x * self.scale.mean())


class DifferentiableOnce(Convolutional):
    """Adds a margin of its inputs: torch's ``multi_margin_loss`` has no second derivative."""

    def forward(self, x):
        first = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        margins = F.multi_margin_loss(x.flatten(1), first, reduction="none")
        return super().forward(x) * margins[:, None]


class Heavy(Convolutional):
    """Long vectors: quicker one by one on a CPU."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(1, 128, 3, padding=1)

    def forward(self, x):
        wide = F.relu(self.wide(x.repeat(1, 1, 3, 3))).mean(dim=(1,), keepdim=True)
        return super().forward(wide[..., :8, :8])

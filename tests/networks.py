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


class Unbatched(Convolutional):
    """An operation that ``vmap`` would call once per network."""

    def forward(self, x):
        return super().forward(x) + F.multi_margin_loss(x.flatten(1), x.new_zeros(len(x), dtype=torch.int64))


class Heavy(Convolutional):
    """Long vectors: quicker one by one on a CPU."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(1, 128, 3, padding=1)

    def forward(self, x):
        wide = F.relu(self.wide(x.repeat(1, 1, 3, 3))).mean(dim=(1,), keepdim=True)
        return super().forward(wide[..., :8, :8])


def resnet() -> nn.Module:
    """torchvision's ResNet-18 on images of one channel."""
    from torchvision.models import resnet18  # seconds

    net = resnet18(num_classes=10)
    net.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    return net


class SpectralCritic(nn.Module):
    """A critic whose layers have a spectral norm of at most 1 by power iteration (Miyato et al. 2018)."""

    def __init__(self, inputs):
        super().__init__()
        first, last = (
            parametrizations.spectral_norm(layer) for layer in (nn.Linear(inputs, 6), nn.Linear(6, 1))
        )
        self.layers = nn.Sequential(nn.Flatten(), first, nn.LeakyReLU(0.1), last)

    def forward(self, points):
        return self.layers(points)


class DropoutCritic(nn.Sequential):
    """A critic with dropout."""

    def __init__(self, inputs):
        super().__init__(nn.Linear(inputs, 8), nn.LeakyReLU(0.1), nn.Dropout(0.3), nn.Linear(8, 1))


class NormedGenerator(nn.Module):
    """A generator with batch normalisation and dropout."""

    def __init__(self, noise, outputs, shape):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(noise, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.1), nn.Linear(6, outputs)
        )

    def forward(self, noise):
        return self.layers(noise)


class Shaped(Convolutional):
    """A branch on a shape."""

    def forward(self, x):
        if x.shape[-1] > 4:
            x = F.avg_pool2d(x, 2).repeat_interleave(2, -1).repeat_interleave(2, -2)
        return super().forward(x)


class Block(nn.Module):
    """Causal self-attention and a perceptron, each after a layer norm, as in GPT-2."""

    def __init__(self, width, heads, dropout):
        super().__init__()
        self.before, self.between, self.heads = nn.LayerNorm(width), nn.LayerNorm(width), heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )
        self.dropout = dropout

    def forward(self, x):
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.before(x)).chunk(3, 2)
        )
        p = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.between(x))


class GPT(nn.Module):
    """A small GPT with learned positions, and its decoder tied to its embedding."""

    def __init__(self, vocabulary, width=8, heads=2, layers=2, length=64, dropout=0.1):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        self.register_buffer("index", torch.arange(length))

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places(self.index[: tokens.shape[1]])
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Recollection(nn.Module):
    """A language model on torch's own GRU, which carries its state on."""

    def __init__(self, vocabulary, width=6):
        super().__init__()
        self.embedding, self.cell = nn.Embedding(vocabulary, width), nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens, state=None):
        outputs, state = self.cell(self.embedding(tokens), state)
        return self.head(outputs), state

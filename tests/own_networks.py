"""Ordinary networks on images [B, 1, 8, 8], as people write them."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2)
        self.out = nn.Linear(6 * 9, 10)

    def forward(self, x):
        return self.out(F.elu(self.second(F.elu(self.first(x)))).flatten(1))


class Normed(Cnn):
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


class SpectralNorm(Cnn):
    def __init__(self):
        super().__init__()
        self.out = parametrizations.spectral_norm(self.out)


class Frozen(Cnn):
    """A frozen first layer, and a buffer of random numbers."""

    def __init__(self):
        super().__init__()
        self.first.requires_grad_(False)
        self.register_buffer("scale", torch.rand(6, 1, 1))

    def forward(self, x):
        return self.out((F.elu(self.second(F.elu(self.first(x)))) * self.scale).flatten(1))


class Branching(Cnn):
    """A branch on a value."""

    def forward(self, x):
        h = F.elu(self.second(F.elu(self.first(x))))
        if h.mean().item() > 0:
            h = h * 2
        return self.out(h.flatten(1))


class Noisy(Cnn):
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

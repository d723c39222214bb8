"""Tasks as a user writes them, with their data, networks and metrics.

B batch, T time, V vocabulary, C classes.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from gradbench.data import Data
from gradbench.models.supervised import SupervisedTask

# ---- denoising ---------------------------------------------------------------------------------------------


class Denoising(SupervisedTask):
    """Give back images that noise was added to."""

    def __init__(self, deviation, **keys):
        super().__init__(**keys)
        self.deviation = deviation

    def noise(self, count, random):
        return {"noise": self.deviation * torch.randn(count, *self.shape, generator=random)}

    def examples(self, x, y, noise):
        return x + noise["noise"], x

    def example_losses(self, outputs, targets):
        return (outputs - targets).square().flatten(1).mean(dim=1)


class Autoencoder(nn.Module):
    def __init__(self, inputs, shape):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, inputs), nn.Unflatten(1, shape)
        )

    def forward(self, x):
        return self.layers(x)


# ---- tagging -----------------------------------------------------------------------------------------------


class Tagging(SupervisedTask):
    """Give every token its tag."""

    def example_losses(self, outputs, targets):
        return F.cross_entropy(outputs.movedim(2, 1), targets, reduction="none").mean(dim=1)

    def example_metrics(self, outputs, targets):
        return {"accuracy": (outputs.argmax(2) == targets).to(outputs.dtype).mean(dim=1)}


class Tagger(nn.Module):
    """An LSTM, written out: tokens [B, T] -> [B, T, C]."""

    def __init__(self, vocabulary, outputs, width=6):
        super().__init__()
        self.embedding, self.cell = nn.Embedding(vocabulary, width), nn.Linear(2 * width, 4 * width)
        self.head = nn.Linear(width, outputs)

    def forward(self, tokens):
        embedded, found = self.embedding(tokens), []
        h = c = torch.zeros_like(embedded[:, 0])
        for x in embedded.unbind(1):
            i, f, g, o = self.cell(torch.cat([x, h], dim=1)).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            found.append(h)
        return self.head(torch.stack(found, dim=1))


def tags(count):
    """Return sequences of tokens, and as each token's tag the one before it, modulo 3."""
    x = np.random.default_rng(0).integers(0, 9, (count, 7))
    y = np.roll(x, 1, axis=1) % 3
    half = count // 2
    arrays = {"train/x": x[:half], "train/y": y[:half], "test/x": x[half:], "test/y": y[half:]}
    return Data(arrays, {"vocabulary": 9, "outputs": 3})


# ---- several labels ----------------------------------------------------------------------------------------


class MultiLabel(SupervisedTask):
    """Say of each label whether it applies."""

    def example_losses(self, outputs, targets):
        targets = targets.to(outputs.dtype)
        return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(dim=1)

    def split_metrics(self, outputs, targets):
        return {"exact": ((outputs > 0) == (targets > 0)).all(dim=1).to(outputs.dtype).mean()}


def labels(count):
    """Return points, and of each coordinate whether it is positive."""
    x = np.random.default_rng(0).normal(size=(count, 4)).astype("float32")
    half, y = count // 2, (x > 0).astype("int64")
    arrays = {"train/x": x[:half], "train/y": y[:half], "test/x": x[half:], "test/y": y[half:]}
    return Data(arrays, {"inputs": 4, "outputs": 4})


# ---- losses and metrics ------------------------------------------------------------------------------------


def quantile_loss(outputs, targets, quantile=0.9):
    """Return the pinball loss of each example."""
    error = targets - outputs.reshape(targets.shape)
    return torch.maximum(quantile * error, (quantile - 1) * error)


def top3(outputs, targets):
    """Return whether the class is among the three likeliest, of each example."""
    return (outputs.topk(3, dim=1).indices == targets[:, None]).any(dim=1).to(outputs.dtype)


def right(outputs, targets):
    """Return whether the class is the likeliest, true or false."""
    return outputs.argmax(1) == targets


def spread(outputs, targets):
    """Return one number for a whole split."""
    return outputs.std()


def hits(logits, targets):
    """Return whether each token is the likeliest."""
    return (logits.argmax(1) == targets).to(logits.dtype)


def too_many(outputs, targets):
    """Return what is neither one number nor one of each example."""
    return outputs[:, :2]

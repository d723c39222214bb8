"""Judge generated images by a small classifier of the real ones: the distance of features, and classes.

N images of a kind, F features, C classes.
"""

import hashlib
import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from gradbench.functional.seeding import all_seeded
from gradbench.models.networks.convolution import Encoder
from gradbench.models.sampling import epoch_indices

FEATURES, CHANNELS = 32, 16
"""F, features of an image, and channels of the classifier's first convolution."""

STEPS, BATCH, RATE = 400, 128, 1e-3
"""Of the classifier's training with Adam: steps, images of a batch, learning rate."""

CHUNK = 512
"""Images that the classifier reads at once."""

COVERED = 0.01
"""Share of the generated images from which a class counts as covered."""

METRICS = ("frechet_distance", "classes", "class_divergence", "classifier_accuracy", "frechet_floor")


class ImageClassifier(nn.Module):
    """Two convolutions of 4 × 4 with stride 2 (one where the image cannot be halved twice) and two linear layers.

    The features of an image are the outputs of the first linear layer, before its ReLU, under which some would be
    always zero.

    Args:
        shape: of an image, (C, H, W); H and W are even.
        classes: number of classes.
    """

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        depth = 1 if any(size % 4 for size in shape[1:]) else 2
        self.features = Encoder(shape, FEATURES, CHANNELS, depth, "none", "relu")
        self.output = nn.Linear(FEATURES, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits. Shapes: [N, C, H, W] -> [N, F], [N, classes]."""
        features = self.features(x)
        return features, self.output(torch.relu(features))


def train_classifier(x: Tensor, y: Tensor, classes: int) -> ImageClassifier:
    """Train a classifier of images [N, C, H, W] with labels [N]: the same for the same images, whatever the cell."""
    with all_seeded(0, "image classifier"), torch.enable_grad():
        net = ImageClassifier(tuple(x.shape[1:]), classes)
        optimizer = torch.optim.Adam(net.parameters(), RATE)
        for index in epoch_indices(0, len(x), min(BATCH, len(x)), 0, STEPS):
            optimizer.zero_grad()
            F.cross_entropy(net(x[index])[1], y[index]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net.requires_grad_(False)


class Gaussian(NamedTuple):
    """Mean [F] and covariance [F, F]."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @classmethod
    def of(cls, features: ArrayLike) -> "Gaussian":
        """Return the mean and the unbiased covariance of features [N, F]."""
        found = np.asarray(features, dtype=np.float64)
        return cls(found.mean(axis=0), np.cov(found, rowvar=False))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Return ``|m_a - m_b|² + tr(S_a + S_b - 2 (S_a S_b)^½)``: the squared W2 distance of two Gaussians.

    Dowson and Landau, "The Fréchet distance between multivariate normal distributions", 1982; of features of images
    Heusel et al. (arXiv:1706.08500, 2017). The trace of the root is computed from symmetric matrices, as that of
    ``(R S_b R)^½`` with ``R = S_a^½``, which are real also where a covariance is singular.
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    crossed = np.linalg.eigvalsh(root @ b.covariance @ root)
    trace = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(crossed.clip(0)).sum()
    return float(np.square(a.mean - b.mean).sum() + max(trace, 0.0))


@dataclass(frozen=True)
class RealImages:
    """What generated images are compared with.

    Attributes:
        classifier: trained on the training images.
        features: of the test images.
        shares: of each class in the training images, [C].
        accuracy: of the classifier on the test images.
        floor: Fréchet distance of training and test images: what a perfect generator is not expected to fall below.
    """

    classifier: ImageClassifier
    features: Gaussian
    shares: NDArray[np.float64]
    accuracy: float
    floor: float

    def compare(self, samples: NDArray[np.generic]) -> dict[str, float]:
        """Return the metrics of generated images [N, C, H, W], by the names of :data:`METRICS`.

        All that depends on the images is NaN where a pixel is not finite.
        """
        constants = {"classifier_accuracy": self.accuracy, "frechet_floor": self.floor}
        if not np.isfinite(samples).all():
            return dict.fromkeys(METRICS, math.nan) | constants
        features, predicted = classify(self.classifier, samples)
        shares = np.bincount(predicted, minlength=len(self.shares)) / len(samples)
        return constants | {
            "frechet_distance": frechet_distance(Gaussian.of(features), self.features),
            "classes": float((shares > COVERED).sum()),
            "class_divergence": divergence(shares, self.shares),
        }


def divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Return the Kullback-Leibler divergence KL(p || q) of shares of classes [C], in nats."""
    met = p > 0
    with np.errstate(divide="ignore"):
        return float((p[met] * np.log(p[met] / q[met])).sum())


def classify(
    net: ImageClassifier, images: NDArray[np.generic]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return features [N, F] and predicted classes [N] of images [N, C, H, W]."""
    with torch.no_grad():
        x = torch.from_numpy(np.array(images, dtype=np.float32))
        parts = [net(part) for part in torch.split(x, CHUNK)]
    return (
        torch.cat([features for features, _ in parts]).numpy(),
        torch.cat([logits.argmax(dim=1) for _, logits in parts]).numpy(),
    )


FOUND: dict[str, RealImages] = {}
"""Hash of the data -> what generated images are compared with; of this process."""

LOCK = threading.Lock()
"""Held while a classifier trains: the cells of a GPU's stack are summarized by several threads."""


def real_images(arrays: Mapping[str, NDArray[np.generic]]) -> RealImages:
    """Train a classifier of some data's images ``train/x`` with labels ``train/y``, once per process, and apply it."""
    with LOCK:
        key = hash_of(arrays[name] for name in ("train/x", "train/y", "test/x", "test/y"))
        if key not in FOUND:
            FOUND[key] = describe(arrays)
        return FOUND[key]


def hash_of(arrays: Iterable[NDArray[np.generic]]) -> str:
    """Return SHA-256, in hex, of the types, shapes and bytes of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def describe(arrays: Mapping[str, NDArray[np.generic]]) -> RealImages:
    """As :func:`real_images`, anew."""
    x, y = arrays["train/x"], np.asarray(arrays["train/y"])
    classes = int(y.max()) + 1
    net = train_classifier(
        torch.from_numpy(np.array(x, np.float32)), torch.from_numpy(y.astype(np.int64)), classes
    )
    (train, _), (test, predicted) = classify(net, x), classify(net, arrays["test/x"])
    features = Gaussian.of(test)
    return RealImages(
        classifier=net,
        features=features,
        shares=np.bincount(y, minlength=classes) / len(y),
        accuracy=float((predicted == arrays["test/y"]).mean()),
        floor=frechet_distance(Gaussian.of(train), features),
    )

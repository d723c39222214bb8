"""A convolutional GAN on images [B, C, H, W].

B batch, Z noise, N generated images of an evaluation.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from gradbench.errors import UsageError
from gradbench.models import SNAPSHOTS, Networks
from gradbench.models.factory import add_own
from gradbench.models.gan import AdversarialTask, weight_histogram
from gradbench.models.image_quality import METRICS, RealImages, real_images
from gradbench.models.images import HEAVY, SHOWN, check_images, shown_rows
from gradbench.models.networks.convolution import Decoder, Encoder

FOLLOWED = 8
"""Images, of the same noise, that are stored of several evaluations."""


class ImageGAN(AdversarialTask):
    """A critic of strided convolutions, and a generator of transposed ones that ends in a sigmoid.

    Args:
        sizes: sizes of the data.
        arrays: the data's arrays; ``train/y`` and ``test/y`` train and test the classifier that gives the metrics.
        channels: C after the critic's first convolution, and before the generator's last one.
        depth: convolutions of each network, each of which halves or doubles the image.
        norm: of the generator: ``none``, ``batch`` or ``group``. The critic has none: its values would depend on the
            other images of a batch.
        activation: a key of ``gradbench.models.networks.mlp.ACTIVATIONS``.
        keys: those of :class:`AdversarialTask`.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        arrays: Mapping[str, np.ndarray],
        channels: int,
        depth: int,
        norm: str,
        activation: str,
        **keys: Any,
    ) -> None:
        shape = check_images(arrays)
        if "train/y" not in arrays or arrays["train/y"].dtype.kind not in "iu":
            raise UsageError(
                "images are judged by a classifier of the real ones, and these data have no classes; choose "
                "data=digits, mnist5k, fashion_mnist or cifar10, or data of your own with a class per image"
            )
        if any(size % 2 for size in shape[1:]):
            raise UsageError(
                f"images need even sides, and these have {shape[1]} x {shape[2]} pixels; add data.size"
            )
        super().__init__(sizes, arrays, **keys)
        self.layers, self.norm, self.activation = (channels, depth), norm, activation
        self.needs_trial = norm == "batch"  # its statistics are of one batch, and a critic's step has several
        self.real: RealImages | None = None
        self.is_heavy = self.batch_size * channels * math.prod(shape[1:]) // 4 >= HEAVY

    def network(self, name: str) -> nn.Module:
        """Return a critic or a generator as DCGAN's: Radford et al., arXiv:1511.06434, 2015."""
        if name == "critic":
            return Encoder(self.point, 1, *self.layers, "none", self.activation)
        decoder = Decoder(self.noise, self.point, *self.layers, self.norm, self.activation)
        return nn.Sequential(decoder, nn.Sigmoid())

    def summarize(
        self, arrays: Mapping[str, np.ndarray], data: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Compare all generated images with the real ones, and keep a few of both."""
        kept = dict(arrays)
        samples = kept.pop("samples")
        kept |= weight_histogram(kept.pop("weights"))
        kept |= {"images": samples[:SHOWN], "originals": data["test/x"][shown_rows(len(data["test/x"]))]}
        kept[f"{SNAPSHOTS}images"] = samples[:FOLLOWED]
        self.real = self.real or real_images(data)
        found = self.real.compare(samples)
        return {f"test/{name}": value for name, value in found.items()}, kept

    def metric_names(self, networks: Networks) -> frozenset[str]:
        """Return the names of all metrics."""
        names = add_own(self.evaluated_names | {*METRICS}, self.own_metrics)
        return frozenset(f"test/{name}" for name in names)

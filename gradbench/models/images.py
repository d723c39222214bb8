"""Tasks on images [B, C, H, W]: classification with a convolutional or a residual network, and reconstruction.

B batch, N examples, C channels, H × W pixels.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradbench.errors import UsageError
from gradbench.models import Networks, Player, Tensors, Values
from gradbench.models.classification import ClassificationTask
from gradbench.models.factory import add_own
from gradbench.models.networks.convolution import ConvolutionalNetwork, Decoder, Encoder
from gradbench.models.networks.residual import ResidualNetwork
from gradbench.models.regression import per_example
from gradbench.models.sampling import check_floating
from gradbench.models.supervised import SPLITS, SupervisedTask, precise

SHOWN = 16
"""Test images that are stored with their reconstructions."""

HEAVY = 2**17
"""Elements of the first layer's activations from which a CPU runs networks one after another.

One thread, few rounds, a busy machine: a cell's step alone took 0.9 to 3.5 times as long as in a stack up to 2^17 (0.93
and 0.97 with 16 channels, 2^16), 1.05 at 2^17.6, and 0.4 at 2^18.6, where networks one after another took 0.9.
"""


def shown_rows(count: int) -> slice:
    """Return which of so many images are shown: SHOWN at equal distances, as a folder's images lie class by class."""
    apart = max(count // SHOWN, 1)
    return slice(0, SHOWN * apart, apart)


def check_images(arrays: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """Return the shape of an image, (C, H, W).

    Raises:
        UsageError: if the inputs are no images of floating numbers.
    """
    x = arrays["train/x"]
    if x.ndim != 4:
        raise UsageError(
            f"a convolution needs images [N, C, H, W], and these data have {list(x.shape)}; choose data=digits, "
            "mnist5k, fashion_mnist or cifar10, or another model"
        )
    check_floating(x)
    return x.shape[1:]


class ConvolutionalClassifier(ClassificationTask):
    """Cross-entropy classification with :class:`ConvolutionalNetwork`.

    Args:
        sizes: sizes of the data: ``outputs``, the number of classes.
        arrays: the data's arrays.
        channels: C of the first stage.
        depth: number of convolutions.
        norm: ``none``, ``batch`` or ``group``.
        activation: a key of ``gradbench.models.networks.mlp.ACTIVATIONS``.
        keys: ``batch_size``, ``fgsm_epsilon`` and ``metrics``, as of :class:`ClassificationTask`.
    """

    players = (Player("cnn"),)

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
        inputs = check_images(arrays)[0]

        def network(outputs: int, **_: object) -> nn.Module:
            return ConvolutionalNetwork(inputs, outputs, channels, depth, norm, activation)

        super().__init__(sizes, arrays, network=network, **keys)
        self.is_heavy = self.batch_size * channels * math.prod(self.shape[1:]) >= HEAVY


class ResidualClassifier(ClassificationTask):
    """Cross-entropy classification with :class:`ResidualNetwork`.

    Args:
        sizes: sizes of the data: ``outputs``, the number of classes.
        arrays: the data's arrays.
        channels: C of the first stage.
        blocks: residual blocks per stage.
        norm: ``none``, ``batch`` or ``group``.
        keys: ``batch_size``, ``fgsm_epsilon`` and ``metrics``, as of :class:`ClassificationTask`.
    """

    players = (Player("resnet"),)

    def __init__(
        self,
        sizes: Mapping[str, int],
        arrays: Mapping[str, np.ndarray],
        channels: int,
        blocks: int,
        norm: str,
        **keys: Any,
    ) -> None:
        inputs = check_images(arrays)[0]

        def network(outputs: int, **_: object) -> nn.Module:
            return ResidualNetwork(inputs, outputs, channels, blocks, norm)

        super().__init__(sizes, arrays, network=network, **keys)
        self.is_heavy = self.batch_size * channels * math.prod(self.shape[1:]) >= HEAVY


class Autoencoder(SupervisedTask):
    """Reconstruct images through a code of few numbers; the loss is the mean squared error of a pixel.

    A gradient penalty is taken of each example's loss with respect to its input: a reconstruction that moves with its
    input has a flat loss where it is good (Alain and Bengio, "What regularized auto-encoders learn from the
    data-generating distribution", arXiv:1211.4246, 2012). With ``points`` ``code`` it is taken of the code: centred at
    zero it is the contractive penalty, lambda times the batch's mean of the squared Frobenius norm of the code's
    Jacobian (Rifai et al., "Contractive auto-encoders", ICML 2011). It costs as many passes through the encoder as the
    code has numbers.

    Args:
        sizes: sizes of the data.
        arrays: the data's arrays.
        code: numbers of the code.
        channels: C after the first convolution.
        depth: convolutions of the encoder, and of the decoder.
        norm: ``none``, ``batch`` or ``group``.
        activation: a key of ``gradbench.models.networks.mlp.ACTIVATIONS``.
        corruption: standard deviation of the normal noise of ``test/noisy_mse``, in units of a pixel.
        keys: ``batch_size`` and ``metrics``, as of :class:`SupervisedTask`.
    """

    players = (Player("autoencoder"),)
    probe_points = ("inputs", "code")
    needs_targets = False

    def __init__(
        self,
        sizes: Mapping[str, int],
        arrays: Mapping[str, np.ndarray],
        code: int,
        channels: int,
        depth: int,
        norm: str,
        activation: str,
        corruption: float,
        **keys: Any,
    ) -> None:
        shape = check_images(arrays)
        if code < 1:
            raise UsageError(f"model.code must be >= 1, got {code}")
        if not 0 <= corruption < math.inf:
            raise UsageError(
                f"model.corruption must be finite and >= 0, got {corruption}; 0.2 is the default"
            )
        self.code, self.corruption = code, corruption

        def network(**_: object) -> nn.Module:
            layers = (channels, depth, norm, activation)
            return nn.Sequential(Encoder(shape, code, *layers), Decoder(code, shape, *layers))

        images = {
            name: array for name, array in arrays.items() if name.endswith("/x")
        }  # classes are not learned
        super().__init__(sizes, images, network=network, **keys)
        self.is_heavy = self.batch_size * channels * math.prod(self.shape[1:]) // 4 >= HEAVY

    def example_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each image's mean squared error. Shapes: [B, C, H, W] twice -> [B]."""
        return per_example((outputs - targets).square())

    def example_metrics(self, outputs: Tensor, targets: Tensor) -> Tensors:
        """Return each image's mean squared error."""
        return {"mse": self.example_losses(outputs, targets)}

    def further_probes(
        self, player: str, nets: Networks, batch: Tensors
    ) -> Mapping[str, tuple[Values, Tensor]]:
        """Return the numbers of the code, each of an image of its own, and each image as often as there are numbers.

        The numbers are times the square root of how many they are: the mean of their squared slopes over all B C rows
        is the mean over B images of the squared Frobenius norm of the code's Jacobian.
        """
        encoder, C = nets[player].get_submodule("0"), self.code

        def numbers(x: Tensor) -> Tensor:
            codes = precise(encoder(x)).view(-1, C, C)
            return math.sqrt(C) * codes.diagonal(dim1=1, dim2=2).reshape(-1)

        return {"code": (numbers, batch["x"].repeat_interleave(C, dim=0))}

    def evaluate(self, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Compute loss and error on both splits, and that of test images that are reconstructed from noisy ones."""
        net, errors = nets[self.players[0].name], []
        for x, y in self.chunks("test", data, draw):
            noisy = x + self.corruption * torch.randn_like(x)
            errors.append(self.example_losses(self.outputs(net, noisy), y))
        return super().evaluate(nets, data, draw) | {"test/noisy_mse": torch.cat(errors).mean()}

    def sample(self, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Reconstruct some test images. Shapes: [SHOWN, C, H, W] both."""
        x = data["test/x"][shown_rows(len(data["test/x"]))]
        return {"originals": x, "images": self.outputs(nets[self.players[0].name], x)}

    def summarize(
        self, arrays: Mapping[str, np.ndarray], data: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Keep the images of :meth:`sample`; no metrics."""
        return {}, dict(arrays)

    def metric_names(self, networks: Mapping[str, nn.Module]) -> frozenset[str]:
        """Return the names of all metrics, of both splits."""
        add_own(("noisy_mse",), self.own_metrics)
        names = add_own(("loss", "mse"), self.own_metrics)
        return frozenset(f"{split}/{name}" for split in SPLITS for name in names) | {"test/noisy_mse"}

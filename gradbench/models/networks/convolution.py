"""Convolutional networks for images, and the layers that they are made of.

B batch, C channels, H × W pixels.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from gradbench.models.networks.mlp import make_activation

NORMS = ("none", "batch", "group")
MAX_GROUPS = 8
"""Groups of channels that are normalised together, where they divide the channels."""

STAGES = 3
"""Resolutions of a network: each stage after the first halves the image and doubles the channels."""


def make_norm(norm: str, channels: int) -> nn.Module:
    """Return a new layer that normalises [B, C, H, W]; one that does nothing for ``none``.

    Args:
        norm: one of :data:`NORMS`. ``batch`` is of each channel over the batch (Ioffe and Szegedy, arXiv:1502.03167,
            2015), with running statistics for evaluation; ``group`` is of groups of channels of each image (Wu and He,
            arXiv:1803.08494, 2018).
        channels: C.

    Raises:
        ValueError: for any other name.
    """
    if norm == "none":
        return nn.Identity()
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(math.gcd(channels, MAX_GROUPS), channels)
    raise ValueError(f"model.norm must be one of {', '.join(NORMS)}, got {norm}")


def init_he(layer: nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    """Initialise a layer as residual networks are, and return it: normal weights of variance 2 / fan-out, no bias.

    He, Zhang, Ren and Sun, "Delving deep into rectifiers", arXiv:1502.01852, 2015: signals neither grow nor vanish
    with depth under ReLU.
    """
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def convolve(inputs: int, outputs: int, norm: str = "none", stride: int = 1, size: int = 3) -> nn.Module:
    """Return a convolution that keeps an image's size, or divides it by the stride; its bias is left to a norm."""
    layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=norm == "none")
    return init_he(layer)


class ConvolutionalNetwork(nn.Module):
    """Convolutions of 3 × 3 in up to three stages, a global mean and a linear layer: [B, C, H, W] -> [B, outputs].

    Without shortcuts: the plain networks of He et al. (arXiv:1512.03385, 2015), of any depth.

    Args:
        inputs: C of the images.
        outputs: number of outputs.
        channels: C of the first stage.
        depth: number of convolutions, shared equally among the stages.
        norm: as of :func:`make_norm`, between each convolution and its activation.
        activation: a key of ``gradbench.models.networks.mlp.ACTIVATIONS``.

    Raises:
        ValueError: for unknown names, or sizes out of range.
    """

    def __init__(
        self, inputs: int, outputs: int, channels: int, depth: int, norm: str, activation: str
    ) -> None:
        if channels < 1 or depth < 1:
            raise ValueError(f"model.channels and model.depth must be >= 1, got {channels} and {depth}")
        super().__init__()
        layers: list[nn.Module] = []
        before, stage = inputs, 0
        for index in range(depth):
            stage, last = index * STAGES // depth, stage
            width = channels * 2**stage
            layers.append(convolve(before, width, norm, stride=2 if stage > last else 1))
            layers += [make_norm(norm, width), make_activation(activation)]
            before = width
        self.features = nn.Sequential(*layers)
        self.output = nn.Linear(before, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        outputs: Tensor = self.output(self.features(x).mean(dim=(2, 3)))
        return outputs


# ---- from images to vectors and back -----------------------------------------------------------------------


def check_halvings(shape: Sequence[int], channels: int, depth: int) -> None:
    """Raise ``ValueError`` unless images [C, H, W] can be halved ``depth`` times without a rest."""
    if channels < 1 or depth < 1:
        raise ValueError(f"model.channels and model.depth must be >= 1, got {channels} and {depth}")
    if any(size % 2**depth for size in shape[1:]):
        raise ValueError(
            f"model.depth={depth} halves an image {depth} times, and these have {shape[1]} x {shape[2]} pixels, which "
            f"are no multiples of {2**depth}; give a smaller model.depth, or choose other data"
        )


class Encoder(nn.Module):
    """Convolutions of 4 × 4 with stride 2, each of which doubles the channels, and a linear layer.

    Shapes: [B, C, H, W] -> [B, outputs]. As the discriminator of Radford, Metz and Chintala (arXiv:1511.06434, 2015).

    Args:
        shape: C, H and W of the images; H and W are multiples of 2^depth.
        outputs: number of outputs.
        channels: C after the first convolution.
        depth: number of convolutions.
        norm: as of :func:`make_norm`, between each convolution and its activation.
        activation: a key of ``gradbench.models.networks.mlp.ACTIVATIONS``.

    Raises:
        ValueError: for unknown names, or sizes out of range.
    """

    def __init__(
        self, shape: Sequence[int], outputs: int, channels: int, depth: int, norm: str, activation: str
    ) -> None:
        check_halvings(shape, channels, depth)
        super().__init__()
        layers: list[nn.Module] = []
        before, (height, width) = shape[0], shape[1:]
        for index in range(depth):
            after = channels * 2**index
            layers.append(init_he(nn.Conv2d(before, after, 4, stride=2, padding=1, bias=norm == "none")))
            layers += [make_norm(norm, after), make_activation(activation)]
            before = after
        self.features = nn.Sequential(*layers)
        self.output = nn.Linear(before * (height // 2**depth) * (width // 2**depth), outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        outputs: Tensor = self.output(self.features(x).flatten(start_dim=1))
        return outputs


class Decoder(nn.Module):
    """The mirror image of :class:`Encoder`: a linear layer, and transposed convolutions of 4 × 4 with stride 2.

    Shapes: [B, inputs] -> [B, C, H, W], without an activation at the end. As the generator of Radford et al.

    Args:
        inputs: number of inputs.
        shape: as of :class:`Encoder`; so are ``channels``, ``depth``, ``norm`` and ``activation``.
        channels: C before the last convolution.
        depth: see there.
        norm: see there.
        activation: see there.
    """

    def __init__(
        self, inputs: int, shape: Sequence[int], channels: int, depth: int, norm: str, activation: str
    ) -> None:
        check_halvings(shape, channels, depth)
        super().__init__()
        before = channels * 2 ** (depth - 1)
        self.start = (before, shape[1] // 2**depth, shape[2] // 2**depth)
        self.input = nn.Linear(inputs, math.prod(self.start))
        layers: list[nn.Module] = [make_norm(norm, before), make_activation(activation)]
        for index in reversed(range(depth)):
            after = channels * 2 ** (index - 1) if index else shape[0]
            bias = norm == "none" or not index
            layers.append(init_he(nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=bias)))
            layers += [make_norm(norm, after), make_activation(activation)] if index else []
            before = after
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the images."""
        images: Tensor = self.layers(self.input(x).unflatten(1, self.start))
        return images

"""Residual networks for small images.

B batch, C channels, H × W pixels.
"""

from torch import Tensor, nn

from gradbench.models.networks.convolution import STAGES, convolve, make_norm
from gradbench.models.networks.mlp import Rectifier


class ResidualBlock(nn.Module):
    """Two convolutions of 3 × 3 beside a shortcut: [B, inputs, H, W] -> [B, outputs, H / stride, W / stride].

    The shortcut is the identity, or a convolution of 1 × 1 where the shape changes.

    Args:
        inputs: C before.
        outputs: C after.
        norm: as of :func:`gradbench.models.networks.convolution.make_norm`, after each convolution.
        stride: of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, norm: str, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(convolve(inputs, outputs, norm, stride), make_norm(norm, outputs))
        self.second = nn.Sequential(convolve(outputs, outputs, norm), make_norm(norm, outputs))
        changes = stride > 1 or inputs != outputs
        projection = [convolve(inputs, outputs, norm, stride, size=1), make_norm(norm, outputs)]
        self.shortcut = nn.Sequential(*projection) if changes else nn.Identity()
        self.activation = Rectifier()

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations of the sum of both paths."""
        y: Tensor = self.activation(self.second(self.activation(self.first(x))) + self.shortcut(x))
        return y


class ResidualNetwork(nn.Module):
    """A convolution, three stages of residual blocks, a global mean and a linear layer: [B, C, H, W] -> [B, outputs].

    He, Zhang, Ren and Sun, "Deep residual learning for image recognition", arXiv:1512.03385, 2015, section 4.2: with n
    blocks per stage 6 n + 2 layers. Where the channels double the shortcut is a projection (their option B).

    Args:
        inputs: C of the images.
        outputs: number of outputs.
        channels: C of the first stage.
        blocks: n, residual blocks per stage.
        norm: as of :func:`gradbench.models.networks.convolution.make_norm`.

    Raises:
        ValueError: for unknown names, or sizes out of range.
    """

    def __init__(self, inputs: int, outputs: int, channels: int, blocks: int, norm: str) -> None:
        if channels < 1 or blocks < 1:
            raise ValueError(f"model.channels and model.blocks must be >= 1, got {channels} and {blocks}")
        super().__init__()
        self.stem = nn.Sequential(convolve(inputs, channels, norm), make_norm(norm, channels), Rectifier())
        stages, before = [], channels
        for stage in range(STAGES):
            width = channels * 2**stage
            for index in range(blocks):
                halves = stage > 0 and index == 0
                stages.append(ResidualBlock(before, width, norm, stride=2 if halves else 1))
                before = width
        self.blocks = nn.Sequential(*stages)
        self.output = nn.Linear(before, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        outputs: Tensor = self.output(self.blocks(self.stem(x)).mean(dim=(2, 3)))
        return outputs

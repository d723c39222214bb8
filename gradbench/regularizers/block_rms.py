"""Gradient clipping by the root mean square of each parameter tensor."""

import torch
from torch import Tensor

from gradbench.functional.flat_params import Layout
from gradbench.regularizers import Regularizer, State


def block_rms() -> Regularizer:
    """Scale each tensor's gradient down if its root mean square exceeds a threshold.

    ``u / max(1, rms(u) / threshold)`` for the gradient u of one parameter tensor. This keeps the direction of each
    tensor's gradient, and changes that of the whole gradient.

    Returns:
        A regularizer whose strength is ``threshold``: scalar > 0, in units of a gradient coordinate; ``inf``
        never clips.

    Reference: Shazeer and Stern, "Adafactor: adaptive learning rates with sublinear memory cost",
    arXiv:1804.04235, 2018, section 6; optax's ``clip_by_block_rms``. Deviation: they clip the update of a normalising
    optimizer, with threshold 1; here, as with every clipping, it is the gradient before the optimizer.
    """

    def transform(
        gradient_P: Tensor, threshold: Tensor, state: State, _parameters_P: Tensor, layout: Layout
    ) -> tuple[Tensor, State]:
        blocks = layout.split(gradient_P)
        # vector_norm / sqrt(n) needs no copy of the squares.
        clipped = {
            name: block / (torch.linalg.vector_norm(block) / block.numel() ** 0.5 / threshold).clamp(min=1.0)
            for name, block in blocks.items()
        }
        return layout.join(clipped), state

    return Regularizer(transform=transform)

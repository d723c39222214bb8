"""Spectral norm projection: every weight matrix kept below a largest singular value."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gradbench.errors import UsageError
from gradbench.functional.flat_params import Layout
from gradbench.regularizers import Regularizer

GOLDEN = 0.6180339887498949
"""Its multiples modulo 1 fill the interval evenly and without a period."""


def spectral_norm(iterations: int = 10) -> Regularizer:
    """Divide each weight matrix by its spectral norm where that exceeds a threshold, after each step.

    ``W / max(1, sigma(W) / threshold)`` for every parameter of two dimensions or more, seen as [outputs, the
    rest]; biases stay. Where matrices are the only amplifiers (ReLU, tanh), a network's Lipschitz constant is
    at most ``threshold`` to the power of their number.

    sigma is estimated by power iteration from the same start vector in each step: a projection keeps no
    state. The estimate is never above sigma, so a matrix may stay slightly above the threshold; the next step
    projects again.

    Deviations from spectral normalisation (Miyato et al.): it is a projection of the parameters and not a
    reparametrisation, so no gradient flows through sigma; and a matrix below the threshold is not scaled up.

    Args:
        iterations: >= 1, of the power method per matrix and step; the paper keeps its vector and takes 1.

    Returns:
        A regularizer whose strength is ``threshold``: scalar > 0, the largest singular value; ``inf`` never
        acts.

    Raises:
        UsageError: for iterations < 1.

    References: Miyato et al., "Spectral normalization for generative adversarial networks", arXiv:1802.05957,
    2018; Gouk et al., "Regularisation of neural networks by enforcing Lipschitz continuity",
    arXiv:1804.04368, 2018 (the projection).
    """
    if iterations < 1:
        raise UsageError(f"regularizer.iterations must be >= 1, got {iterations}; 10 is the default")

    def project(parameters_P: Tensor, threshold: Tensor, layout: Layout) -> Tensor:
        tensors = layout.split(parameters_P)
        bounded = {
            name: tensor / (largest_singular_value(tensor.flatten(1), iterations) / threshold).clamp(min=1.0)
            for name, tensor in tensors.items()
            if tensor.dim() > 1
        }
        return layout.join(tensors | bounded)

    return Regularizer(project=project)


def largest_singular_value(matrix_OI: Tensor, iterations: int) -> Tensor:
    """Return ``||W v||`` for the v that power iteration on ``W^T W`` reaches: a lower bound of sigma(W).

    The start has no zero, no period and no zero sum, so that no ordinary matrix is blind to it (a constant
    start would be lost on rows that sum to zero).

    Args:
        matrix_OI: [O, I].
        iterations: >= 1.
    """
    steps = torch.arange(1, matrix_OI.shape[1] + 1, device=matrix_OI.device, dtype=matrix_OI.dtype)
    v_I = F.normalize((steps * GOLDEN) % 1 - 0.5, dim=0)
    for _ in range(iterations):
        v_I = F.normalize(matrix_OI.mT @ (matrix_OI @ v_I), dim=0)
    estimate: Tensor = torch.linalg.vector_norm(matrix_OI @ v_I)
    return estimate

"""Spectral norm projection: bounds the largest singular value of every weight matrix."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gradbench.errors import UsageError
from gradbench.functional.flat_params import Layout
from gradbench.regularizers import Regularizer

GOLDEN = 0.6180339887498949
"""Golden ratio minus 1; its multiples modulo 1 fill the interval evenly and without a period."""


def spectral_norm(iterations: int = 10) -> Regularizer:
    """Scale each weight matrix down if its spectral norm exceeds a threshold, after each step.

    ``W / max(1, sigma(W) / threshold)`` for every parameter of two dimensions or more, reshaped to [outputs, inputs];
    biases stay. With 1-Lipschitz activations (ReLU, tanh), a network's Lipschitz constant is then at most
    ``threshold`` to the power of the number of matrices.

    sigma is estimated by power iteration, from the same start vector in every step because a projection has no state.
    The estimate is a lower bound, so a matrix may stay slightly above the threshold; the next step projects again.

    Deviations from spectral normalisation (Miyato et al.): this is a projection and no reparametrisation, so no
    gradient flows through sigma; and a matrix below the threshold is not scaled up.

    Args:
        iterations: >= 1, power iterations per matrix and step; the paper carries its vector over and takes 1.

    Returns:
        A regularizer whose strength is ``threshold``: scalar > 0, bound of the largest singular value; ``inf`` never
        scales.

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
    """Return ``||W v||`` after power iteration of v on ``W^T W``: a lower bound of sigma(W).

    The start vector has no zeros, no period and no zero sum, so that no ordinary matrix maps it to zero (as a matrix
    whose rows sum to zero does with a constant vector).

    Args:
        matrix_OI: W, [O, I].
        iterations: >= 1, number of iterations.
    """
    steps = torch.arange(1, matrix_OI.shape[1] + 1, device=matrix_OI.device, dtype=matrix_OI.dtype)
    # a vector per network: ``vmap`` would take one that they share to other products in a stack of one network
    v_I = F.normalize((steps * GOLDEN) % 1 - 0.5, dim=0) + torch.zeros_like(matrix_OI[0])
    for _ in range(iterations):
        v_I = F.normalize(matrix_OI.mT @ (matrix_OI @ v_I), dim=0)
    estimate: Tensor = torch.linalg.vector_norm(matrix_OI @ v_I)
    return estimate

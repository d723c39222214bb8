"""Weight clipping: bounds the absolute value of every parameter."""

import torch
from torch import Tensor

from gradbench.regularizers import Regularizer


def weight_clip() -> Regularizer:
    """Clamp every parameter to [-threshold, threshold] after each step.

    It applies to all parameters of the regularized player, biases included: in a WGAN to the critic, whose Lipschitz
    constant it bounds. The initial parameters are first clamped after the first step.

    Returns:
        A regularizer whose strength is ``threshold``: scalar > 0, in units of a parameter; ``inf`` never
        clips.

    Reference: Arjovsky, Chintala, Bottou, "Wasserstein GAN", arXiv:1701.07875, 2017, algorithm 1.
    """

    def project(parameters_P: Tensor, threshold: Tensor, *_: object) -> Tensor:
        return torch.minimum(torch.maximum(parameters_P, -threshold), threshold)  # as in clip_value

    return Regularizer(project=project)

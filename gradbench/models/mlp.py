"""Classification with a multilayer perceptron.

B batch, D inputs, C classes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from gradbench.models import Player
from gradbench.models.classification import ClassificationTask
from gradbench.models.networks.mlp import Perceptron
from gradbench.models.sampling import check_floating


class Classifier(ClassificationTask):
    """Cross-entropy classification with a perceptron, which reads inputs as flat vectors.

    Args:
        sizes: sizes of the data: ``inputs`` (D) and ``outputs`` (C).
        arrays: the data's arrays.
        hidden: units per hidden layer.
        depth: number of hidden layers.
        activation: a key of ``gradbench.models.networks.mlp.ACTIVATIONS``.
        keys: ``batch_size``, ``fgsm_epsilon`` and ``metrics``, as of :class:`ClassificationTask`.
    """

    players = (Player("mlp"),)
    width_tolerance = 0.0

    def __init__(
        self,
        sizes: Mapping[str, int],
        arrays: Mapping[str, np.ndarray],
        hidden: int,
        depth: int,
        activation: str,
        **keys: Any,
    ) -> None:
        check_floating(arrays["train/x"])
        layers = (sizes["inputs"], hidden, depth, sizes["outputs"], activation)
        super().__init__(sizes, arrays, network=lambda **_: Perceptron(*layers), **keys)

    def outputs(self, net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Call the perceptron with flat inputs."""
        return super().outputs(net, x.flatten(start_dim=1))

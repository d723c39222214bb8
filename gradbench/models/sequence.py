"""Classification of sequences, and regression on them, with a recurrent network.

B batch, T time, D features of a step, H hidden, L layers, C outputs (classes, or 1 for a number).
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradbench.models import Networks, Tensors
from gradbench.models.factory import add_own
from gradbench.models.networks.language_model import CELLS
from gradbench.models.supervised import SPLITS, SupervisedTask

TOLERANCE = 0.04
"""Largest absolute error of a number that counts as correct (Hochreiter and Schmidhuber 1997, on the same scale)."""

SOLVED = 0.99
"""Test accuracy above which a task counts as solved (Pascanu et al. 2013)."""


class SequenceClassifier(nn.Module):
    """Recurrent layers, and a linear layer on the last state of the top one: [B, T, D] -> [B, C].

    Args:
        inputs: D.
        hidden: H.
        outputs: C.
        cell: a key of ``CELLS``.
        radius: radius of the disc in which the eigenvalues of each new recurrent H × H matrix lie.
        layers: L.
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, cell: str, radius: float, layers: int = 1
    ) -> None:
        super().__init__()
        self.recurrent = CELLS[cell](inputs, hidden, layers)
        self.decoder = nn.Linear(hidden, outputs)
        # Circular law: entries of variance s² give eigenvalues in a disc of radius s √H, and U(±1/√H) has s = 1/√(3H).
        with torch.no_grad():
            for layer in range(layers):
                self.recurrent.get_parameter(f"weight_hh_l{layer}").mul_(radius * math.sqrt(3))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the outputs after the last step, [B, C]."""
        _, state = self.recurrent(x_BTD)
        h = state if isinstance(state, Tensor) else state[0]  # an LSTM's state is a pair
        outputs: Tensor = self.decoder(h[-1])
        return outputs


class SequenceTask(SupervisedTask):
    """Predict a class or a number for a sequence, after its last step.

    The loss is the mean over the batch of the cross-entropy in nats (targets are classes) or of the squared error
    (targets are numbers). A gradient penalty is taken of each example's loss with respect to its input sequence.

    Args:
        keys: as of :class:`SupervisedTask`. The network maps [B, T, D] to [B, C].
    """

    width_tolerance = 0.0

    def example_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's loss. Shapes: outputs [B, C], targets [B] -> [B]."""
        return example_losses(outputs, targets)

    def evaluate(self, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Compute loss and accuracy on both splits, and whether the task is solved (1 or 0).

        Of the training split only as many sequences are evaluated as the test split has.
        """
        metrics: Tensors = {}
        for split in SPLITS:
            used = slice(len(data["test/y"]))
            outputs, y = nets["network"](data[f"{split}/x"][used]), data[f"{split}/y"][used]
            metrics[f"{split}/loss"] = example_losses(outputs, y).mean()
            metrics[f"{split}/accuracy"] = accuracy = is_correct(outputs, y).mean()
            own = self.whole_metrics(outputs, y)
            metrics |= {f"{split}/{name}": value for name, value in own.items()}
        metrics["test/solved"] = torch.where(
            accuracy.isnan(), accuracy, (accuracy > SOLVED).to(accuracy.dtype)
        )
        return metrics

    def metric_names(self, networks: Mapping[str, nn.Module]) -> frozenset[str]:
        """Return the names of all metrics."""
        names = add_own(("loss", "accuracy", "solved"), self.own_metrics) - {"solved"}
        return frozenset(f"{split}/{name}" for split in SPLITS for name in names) | {"test/solved"}


class SequenceReading(SequenceTask):
    """Predict a class or a number for a sequence with a recurrent network; gradients flow back through all T steps.

    Args:
        sizes: sizes of the data: ``features`` (D), ``length`` (T), ``answers`` (C).
        arrays: the data's arrays.
        cell: ``rnn`` (tanh, as in Pascanu et al., arXiv:1211.5063, 2013), ``gru`` or ``lstm``.
        hidden: H.
        radius: spectral radius of the initial recurrent weights, up to terms that vanish for large H (for an LSTM
            and a GRU, of each gate's). torch's own weights have 1/√3; from about 1 on, gradients can grow with T.
        batch_size: B.
        layers: recurrent layers on top of each other (L).
        metrics: further metrics, as of :class:`SupervisedTask`.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        arrays: Mapping[str, np.ndarray],
        cell: str,
        hidden: int,
        radius: float,
        batch_size: int,
        layers: int = 1,
        metrics: Mapping[str, object] | None = None,
    ) -> None:
        if cell not in CELLS:
            raise ValueError(f"model.cell must be one of {', '.join(CELLS)}, got {cell}")
        if min(hidden, batch_size, layers) < 1 or not 0 <= radius < math.inf:
            raise ValueError(
                f"model.hidden, batch_size and layers must be >= 1, model.radius finite and >= 0, "
                f"got {hidden}, {batch_size}, {layers} and {radius}"
            )
        shape = (sizes["features"], hidden, sizes["answers"], cell, radius, layers)
        super().__init__(
            sizes, arrays, lambda **_: SequenceClassifier(*shape), batch_size=batch_size, metrics=metrics
        )


def example_losses(outputs: Tensor, y: Tensor) -> Tensor:
    """Return each example's loss. Shapes: outputs [B, C], y [B] (floating numbers, or int64 classes) -> [B]."""
    if y.is_floating_point():
        return (outputs.squeeze(-1) - y).square()
    return F.cross_entropy(outputs, y, reduction="none")


def is_correct(outputs: Tensor, y: Tensor) -> Tensor:
    """Return 1 where a prediction is correct, else 0. Shapes: outputs [B, C], y [B] -> [B].

    NaN where the predicted number, or the largest logit, is not finite: no prediction was made.
    """
    if y.is_floating_point():
        size = (outputs.squeeze(-1) - y).abs()
        correct = size <= TOLERANCE
    else:
        size, likeliest = outputs.max(dim=1)
        correct = likeliest == y
    return torch.where(size.isfinite(), correct.to(outputs.dtype), torch.nan)

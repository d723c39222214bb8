"""Classification with a network of the user's own, and what classifiers are judged by.

B batch, C classes, N examples.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradbench.errors import UsageError
from gradbench.functional.input_gradients import slopes
from gradbench.models import Networks, Tensors
from gradbench.models.factory import TRIAL, add_own
from gradbench.models.supervised import SPLITS, SupervisedTask


class ClassificationTask(SupervisedTask):
    """Cross-entropy classification; the loss is the mean over the batch.

    A gradient penalty is taken of each example's loss with respect to its input (Drucker and LeCun 1992).

    Args:
        fgsm_epsilon: distance by which an adversary moves every input coordinate, in the inputs' own units (images
            are scaled to [0, 1], columns of tables to variance 1). Moved inputs may leave [0, 1].
        keys: as of :class:`SupervisedTask`. The network gives logits [B, C].
    """

    def __init__(
        self, sizes: Mapping[str, int], arrays: Mapping[str, np.ndarray], fgsm_epsilon: float, **keys: Any
    ) -> None:
        super().__init__(sizes, arrays, **keys)
        check_epsilon(fgsm_epsilon)
        if self.target_shape or self.y_type.is_floating_point:
            raise UsageError(
                f"classification needs the class of each example, whole numbers [N], and these data have "
                f"{arrays['train/y'].dtype} {list(arrays['train/y'].shape)}; choose other data or model=regressor"
            )
        self.fgsm_epsilon = fgsm_epsilon
        self.classes = sizes["outputs"] if "outputs" in sizes else sizes["answers"]

    def available(self) -> dict[str, object]:
        """Return the arguments that a network gets where its signature has them."""
        return super().available() | {"outputs": self.classes, "num_classes": self.classes}

    def expected_outputs(self, targets: Tensor) -> tuple[str, list[tuple[int, ...]]]:
        """Return that logits [B, C] are expected."""
        return f"logits [B, {self.classes}], one per class", [(TRIAL, self.classes)]

    def example_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's cross-entropy in nats. Shapes: [B, C], [B] -> [B]."""
        return cross_entropy(outputs, targets)

    def example_metrics(self, outputs: Tensor, targets: Tensor) -> Tensors:
        """Return whether each example's class is predicted."""
        return {"accuracy": is_correct(outputs, targets)}

    def evaluate(self, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Compute loss (nats) and accuracy on both splits, the gaps between the splits, and accuracy under attack.

        ``test/fgsm_accuracy`` is the accuracy after every input has moved by ``fgsm_epsilon`` in the direction of the
        sign of the loss's gradient (Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial examples",
        arXiv:1412.6572, 2014); ``test/gradient_norm`` is the mean norm of that gradient, in nats per unit of input.
        Inputs that are whole numbers cannot be moved: there both are left out.
        """
        metrics = super().evaluate(nets, data, draw)
        if data["test/x"].is_floating_point():
            metrics |= self._attack(nets[self.players[0].name], data, draw)
        metrics["gap/loss"] = metrics["test/loss"] - metrics["train/loss"]
        metrics["gap/accuracy"] = metrics["train/accuracy"] - metrics["test/accuracy"]
        return metrics

    def _attack(self, net: Callable[[Tensor], Tensor], data: Tensors, draw: Tensors) -> Tensors:
        """Compute the accuracy under attack, and the mean norm of the input gradient that directs it."""
        correct, norms = [], []
        for x, y in self.chunks("test", data, draw):
            slope = slopes(lambda x, y=y: self.losses_of(self.outputs(net, x), y), x)  # type: ignore[misc]
            norms.append(torch.linalg.vector_norm(slope.flatten(start_dim=1), dim=1))
            correct.append(is_correct(self.outputs(net, x + self.fgsm_epsilon * slope.sign()), y))
        return {
            "test/fgsm_accuracy": torch.cat(correct).mean(),
            "test/gradient_norm": torch.cat(norms).mean(),
        }

    def metric_names(self, networks: Mapping[str, nn.Module]) -> frozenset[str]:
        """Return the names of all metrics."""
        add_own(("fgsm_accuracy", "gradient_norm"), self.own_metrics)
        found = frozenset(f"{split}/{name}" for split in SPLITS for name in ("loss", "accuracy"))
        if self.has_own_code:
            found |= super().metric_names(networks)
        attack = {"test/fgsm_accuracy", "test/gradient_norm"} if self.x_type.is_floating_point else set()
        return found | attack | {"gap/loss", "gap/accuracy"}


def check_epsilon(fgsm_epsilon: float) -> None:
    """Raise ``ValueError`` for a distance that is negative or not finite."""
    if not 0 <= fgsm_epsilon < math.inf:
        raise ValueError(f"model.fgsm_epsilon must be finite and >= 0, got {fgsm_epsilon}; 0.1 is usual")


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return each example's cross-entropy in nats. Shapes: logits [B, C], y [B] -> [B]."""
    # Classes come first because on a CPU log_softmax takes twenty times as long along a last axis of a few numbers.
    return -torch.log_softmax(logits.T, dim=0).gather(0, y[None]).squeeze(0)


def is_correct(logits: Tensor, y: Tensor) -> Tensor:
    """Return 1 where the class of the largest logit is correct, else 0. Shapes: logits [B, C], y [B] -> [B].

    NaN where the largest logit is not finite: ``max`` would name the first class, and no prediction was made.
    """
    largest, likeliest = logits.max(dim=1)
    return torch.where(largest.isfinite(), (likeliest == y).to(logits.dtype), torch.nan)

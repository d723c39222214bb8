"""Classification with a multilayer perceptron.

B batch, D inputs, C classes, N examples.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from gradbench.functional.input_gradients import slopes
from gradbench.models import Networks, Player, Tensors
from gradbench.models.networks.mlp import Perceptron
from gradbench.models.supervised import SupervisedModel

EVALUATION_BATCH = 2048
"""Examples that are evaluated at once; it bounds the memory that a large split takes."""


class Classifier(SupervisedModel):
    """Cross-entropy classification; the loss is the mean over the batch.

    A gradient penalty is taken of each example's cross-entropy with respect to its input (Drucker and LeCun 1992).

    Args:
        sizes: sizes of the data: ``inputs`` (D) and ``outputs`` (C).
        hidden: units per hidden layer.
        depth: number of hidden layers.
        activation: a key of ``gradbench.models.networks.mlp.ACTIVATIONS``.
        batch_size: B.
        fgsm_epsilon: distance by which an adversary moves every input coordinate, in the inputs' own units (images
            are scaled to [0, 1], columns of tables to variance 1). Moved inputs may leave [0, 1].
    """

    players = (Player("mlp"),)
    width_tolerance = 0.0

    def __init__(
        self,
        sizes: Mapping[str, int],
        hidden: int,
        depth: int,
        activation: str,
        batch_size: int,
        fgsm_epsilon: float,
    ) -> None:
        if not 0 <= fgsm_epsilon < math.inf:
            raise ValueError(f"model.fgsm_epsilon must be finite and >= 0, got {fgsm_epsilon}; 0.1 is usual")
        self.shape = (sizes["inputs"], hidden, depth, sizes["outputs"], activation)
        self.batch_size, self.fgsm_epsilon = batch_size, fgsm_epsilon

    def networks(self, fused: bool = False) -> dict[str, nn.Module]:
        """Return the perceptron."""
        return {"mlp": Perceptron(*self.shape)}

    def losses(
        self, player: str, nets: Networks, batch: Tensors, carry: Tensors
    ) -> tuple[Callable[[Tensor], tuple[Tensor, Tensors]], Tensor]:
        """Return the function inputs -> cross-entropy of each example [B], in nats, and the inputs."""
        return lambda x: (cross_entropy(nets[player], x, batch["y"]), carry), batch["x"]

    def evaluate(self, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Compute loss (nats) and accuracy on both splits, the gaps between the splits, and accuracy under attack.

        ``test/fgsm_accuracy`` is the accuracy after every input has moved by ``fgsm_epsilon`` in the direction of the
        sign of the cross-entropy's gradient (Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial
        examples", arXiv:1412.6572, 2014); ``test/gradient_norm`` is the mean norm of that gradient, in nats per unit
        of input.
        """
        metrics: Tensors = {}
        for split in ("train", "test"):
            x, y = data[f"{split}/x"], data[f"{split}/y"]
            losses, correct = [], []
            for xs, ys in zip(
                torch.split(x, EVALUATION_BATCH), torch.split(y, EVALUATION_BATCH), strict=True
            ):
                logits = nets["mlp"](xs.flatten(start_dim=1))
                losses.append(cross_entropy_from_logits(logits, ys))
                correct.append(is_correct(logits, ys))
            metrics[f"{split}/loss"] = torch.cat(losses).mean()
            metrics[f"{split}/accuracy"] = torch.cat(correct).mean()
        metrics |= self._attack(nets["mlp"], data["test/x"], data["test/y"])
        metrics["gap/loss"] = metrics["test/loss"] - metrics["train/loss"]
        metrics["gap/accuracy"] = metrics["train/accuracy"] - metrics["test/accuracy"]
        return metrics

    def _attack(self, net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensors:
        """Compute the accuracy under attack, and the mean norm of the input gradient that directs it."""
        correct, norms = [], []
        for xs, ys in zip(torch.split(x, EVALUATION_BATCH), torch.split(y, EVALUATION_BATCH), strict=True):
            slope = slopes(partial(cross_entropy, net, y=ys), xs)
            norms.append(torch.linalg.vector_norm(slope.flatten(start_dim=1), dim=1))
            correct.append(is_correct(net((xs + self.fgsm_epsilon * slope.sign()).flatten(start_dim=1)), ys))
        return {
            "test/fgsm_accuracy": torch.cat(correct).mean(),
            "test/gradient_norm": torch.cat(norms).mean(),
        }


def cross_entropy(net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Return each example's cross-entropy in nats. Shapes: x [B, ...], y [B] -> [B]."""
    # The network may run in bfloat16, which is too coarse for log_softmax: it gets logits in the inputs' precision.
    return cross_entropy_from_logits(net(x.flatten(start_dim=1)).to(x.dtype), y)


def cross_entropy_from_logits(logits: Tensor, y: Tensor) -> Tensor:
    """Return each example's cross-entropy in nats. Shapes: logits [B, C], y [B] -> [B]."""
    # Classes come first because on a CPU log_softmax takes twenty times as long along a last axis of a few numbers.
    return -torch.log_softmax(logits.T, dim=0).gather(0, y[None]).squeeze(0)


def is_correct(logits: Tensor, y: Tensor) -> Tensor:
    """Return 1 where the class of the largest logit is correct, else 0. Shapes: logits [B, C], y [B] -> [B].

    NaN where the largest logit is not finite: ``max`` would name the first class, and no prediction was made.
    """
    largest, likeliest = logits.max(dim=1)
    return torch.where(largest.isfinite(), (likeliest == y).to(logits.dtype), torch.nan)

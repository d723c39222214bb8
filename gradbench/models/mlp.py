"""A multilayer perceptron that classifies.

B batch, D inputs, C classes, N examples.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from gradbench.functional.input_gradients import slopes
from gradbench.models import MeanLoss, Networks, Player, Tensors
from gradbench.models.networks.mlp import Perceptron
from gradbench.models.sampling import epoch_indices, rows

PIECE = 2048
"""Examples that are evaluated together, which bounds memory for large splits."""


class Classifier(MeanLoss):
    """Cross-entropy classification; the loss is the mean over the batch.

    A gradient penalty is taken of each example's cross-entropy with respect to its input (Drucker and LeCun 1992).

    Args:
        sizes: of the data: ``inputs`` (D) and ``outputs`` (C).
        hidden: units per hidden layer.
        depth: number of hidden layers.
        activation: a key of ``gradbench.models.networks.mlp.ACTIVATIONS``.
        batch_size: B.
        fgsm_epsilon: how far an adversary may move every input, in the inputs' own units (images are scaled to
            [0, 1], columns of tables to variance 1). Moved inputs may leave [0, 1].
    """

    players = (Player("mlp"),)

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

    def draw(
        self, purpose: str, seed: int, first: int, count: int, data: Mapping[str, np.ndarray]
    ) -> Tensors:
        """Return the examples' indices, [count, B]; an evaluation needs none."""
        if purpose == "evaluation":
            return {}
        return {"index": epoch_indices(seed, len(data["train/x"]), self.batch_size, first, count)}

    def batch(self, player: str, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Return inputs [B, ...] and classes [B]."""
        return {name: rows(data[f"train/{name}"], draw["index"]) for name in ("x", "y")}

    def carry(self) -> Tensors:
        """Return nothing: batches are independent."""
        return {}

    def losses(
        self, player: str, nets: Networks, batch: Tensors, carry: Tensors
    ) -> tuple[Callable[[Tensor], tuple[Tensor, Tensors]], Tensor]:
        """Return the cross-entropy per example, in nats, as a function of the inputs, and the inputs."""
        return lambda x: (cross_entropy(nets[player], x, batch["y"]), carry), batch["x"]

    def evaluate(self, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Return loss (nats) and accuracy on both splits, the gaps between them, and what an adversary makes of it.

        ``test/fgsm_accuracy`` is the accuracy after every input has moved by ``fgsm_epsilon`` in the direction of the
        sign of the cross-entropy's gradient (Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial
        examples", arXiv:1412.6572, 2014); ``test/gradient_norm`` is the mean norm of that gradient, in nats per unit
        of input.
        """
        metrics: Tensors = {}
        for split in ("train", "test"):
            x, y = data[f"{split}/x"], data[f"{split}/y"]
            losses, hits = [], []
            for xs, ys in zip(torch.split(x, PIECE), torch.split(y, PIECE), strict=True):
                logits = nets["mlp"](xs.flatten(start_dim=1))
                losses.append(surprise(logits, ys))
                hits.append(right(logits, ys))
            metrics[f"{split}/loss"] = torch.cat(losses).mean()
            metrics[f"{split}/accuracy"] = torch.cat(hits).mean()
        metrics |= self._attack(nets["mlp"], data["test/x"], data["test/y"])
        metrics["gap/loss"] = metrics["test/loss"] - metrics["train/loss"]
        metrics["gap/accuracy"] = metrics["train/accuracy"] - metrics["test/accuracy"]
        return metrics

    def _attack(self, net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensors:
        """Return the accuracy under attack, and the mean norm of the gradient that leads it."""
        hits, norms = [], []
        for xs, ys in zip(torch.split(x, PIECE), torch.split(y, PIECE), strict=True):
            slope = slopes(partial(cross_entropy, net, y=ys), xs)
            norms.append(torch.linalg.vector_norm(slope.flatten(start_dim=1), dim=1))
            hits.append(right(net((xs + self.fgsm_epsilon * slope.sign()).flatten(start_dim=1)), ys))
        return {"test/fgsm_accuracy": torch.cat(hits).mean(), "test/gradient_norm": torch.cat(norms).mean()}

    def summarize(
        self,
        arrays: Mapping[str, np.ndarray],
        data: Mapping[str, np.ndarray],
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Return nothing more: every metric is a scalar."""
        return {}, {}


def cross_entropy(net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Return each example's cross-entropy in nats. Shapes: x [B, ...], y [B] -> [B]."""
    return surprise(net(x.flatten(start_dim=1)).to(x.dtype), y)  # a difference too fine for bfloat16


def surprise(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of logits. Shapes: [B, C], [B] -> [B]."""
    # classes first: on a CPU log_softmax takes twenty times as long along a last axis of a few numbers
    return -torch.log_softmax(logits.T, dim=0).gather(0, y[None]).squeeze(0)


def right(logits: Tensor, y: Tensor) -> Tensor:
    """Return 1 where the likeliest class is the right one, else 0. Shapes: [B, C], [B] -> [B].

    NaN where the largest logit is not finite: no class is the likeliest then, and ``max`` would name the first.
    """
    largest, likeliest = logits.max(dim=1)
    return torch.where(largest.isfinite(), (likeliest == y).to(logits.dtype), torch.nan)

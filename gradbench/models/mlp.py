"""A multilayer perceptron that classifies.

B batch, D inputs, C classes, N examples.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradbench.models import Model, Networks, Player, Tensors
from gradbench.models.batches import epoch_indices
from gradbench.models.perceptron import perceptron


class Classifier(Model):
    """Cross-entropy classification; the loss is the mean over the batch.

    A gradient penalty is taken of each example's cross-entropy with respect to its input (Drucker and LeCun 1992).

    Args:
        sizes: of the data: ``inputs`` (D) and ``outputs`` (C).
        hidden: units per hidden layer.
        depth: number of hidden layers.
        activation: a key of ``gradbench.models.perceptron.ACTIVATIONS``.
        batch_size: B.
    """

    players = (Player("mlp"),)

    def __init__(
        self, sizes: Mapping[str, int], hidden: int, depth: int, activation: str, batch_size: int
    ) -> None:
        self.shape = (sizes["inputs"], hidden, depth, sizes["outputs"], activation)
        self.batch_size = batch_size

    def networks(self, fused: bool = False) -> dict[str, nn.Module]:
        """Return the perceptron."""
        return {"mlp": perceptron(*self.shape)}

    def draw(
        self, purpose: str, seed: int, first: int, count: int, data: Mapping[str, np.ndarray]
    ) -> Tensors:
        """Return the examples' indices, [count, B]; an evaluation needs none."""
        if purpose == "evaluation":
            return {}
        return {"index": epoch_indices(seed, len(data["train/x"]), self.batch_size, first, count)}

    def batch(self, player: str, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Return inputs [B, ...] and classes [B]."""
        return {"x": data["train/x"][draw["index"]], "y": data["train/y"][draw["index"]]}

    def carry(self) -> Tensors:
        """Return nothing: batches are independent."""
        return {}

    def loss(self, player: str, nets: Networks, batch: Tensors, carry: Tensors) -> tuple[Tensor, Tensors]:
        """Return the mean cross-entropy, in nats."""
        return cross_entropy(nets[player], batch["x"], batch["y"]).mean(), carry

    def probe(
        self,
        player: str,
        nets: Networks,
        batch: Tensors,
        carry: Tensors,
    ) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Return the cross-entropy per example as a function of the inputs, and the inputs."""
        return lambda x: cross_entropy(nets[player], x, batch["y"]), batch["x"]

    def evaluate(self, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Return loss (nats) and accuracy on both splits, and the gaps between them."""
        metrics: Tensors = {}
        for split in ("train", "test"):
            x, y = data[f"{split}/x"], data[f"{split}/y"]
            losses, hits = [], []
            # in pieces, which bounds memory for large splits
            for xs, ys in zip(torch.split(x, 2048), torch.split(y, 2048), strict=True):
                logits = nets["mlp"](xs.flatten(start_dim=1))
                losses.append(F.cross_entropy(logits, ys, reduction="none"))
                hits.append((logits.argmax(dim=1) == ys).to(logits.dtype))
            metrics[f"{split}/loss"] = torch.cat(losses).mean()
            metrics[f"{split}/accuracy"] = torch.cat(hits).mean()
        metrics["gap/loss"] = metrics["test/loss"] - metrics["train/loss"]
        metrics["gap/accuracy"] = metrics["train/accuracy"] - metrics["test/accuracy"]
        return metrics

    def summarize(
        self,
        arrays: Mapping[str, np.ndarray],
        data: Mapping[str, np.ndarray],
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Return nothing more: every metric is a scalar."""
        return {}, {}


def cross_entropy(net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Return each example's cross-entropy in nats. Shapes: x [B, ...], y [B] -> [B]."""
    return F.cross_entropy(net(x.flatten(start_dim=1)), y, reduction="none")

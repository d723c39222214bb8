"""The classifier of ``quick`` in plain PyTorch: one cell.

B batch, D inputs, P parameters.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from peer_cell import CPU, SERIES, Perceptron, Record, Treatment, clip, flatten, join, on
from torch import Tensor

from gradbench.data import Data, images
from gradbench.functional.seeding import derive
from gradbench.models.sampling import epoch_indices

__all__ = ["SERIES", "load", "train"]


def load(name: str) -> Data:
    """Load the data as gradbench does."""
    return images.load(name, test_share=0.2, split_seed=0)


def train(
    settings: Mapping[str, Any],
    data: Data,
    treatment: Treatment,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> Record:
    """Train one cell, with the weights and batches that gradbench draws for the seed."""
    torch.manual_seed(derive(seed, "weights"))
    sizes = data.sizes["inputs"], settings["hidden"], settings["depth"], data.sizes["outputs"]
    net = Perceptron(*sizes).to(device, dtype)
    weights, parameters, forward = flatten(net), list(net.parameters()), net.forward
    optimizer = torch.optim.SGD([weights], settings["lr"])
    tensors = on(device, data, dtype)
    x_ND, y_N = tensors["train/x"].flatten(1), tensors["train/y"]
    index = epoch_indices(seed, len(x_ND), settings["batch_size"], 0, settings["steps"]).to(device)
    record = Record(**settings["divergence"], device=device)

    for step, (x, y) in enumerate(zip(x_ND[index], y_N[index], strict=True), start=1):
        if treatment.name == "gp":
            x.requires_grad_()
            loss = cross_entropy(forward(x), y)
            # The gradient of each example's own loss is B times that of the mean loss.
            (slope,) = torch.autograd.grad(loss, x, create_graph=True)
            penalty = slope.square().sum() * (treatment.strength * len(x))
            gradients = torch.autograd.grad(loss + penalty, parameters)
            penalty_value = record.read(penalty)
        else:
            loss, penalty_value = cross_entropy(forward(x), y), 0.0
            gradients = torch.autograd.grad(loss, parameters)
        weights.grad = join(gradients)
        norms = clip(weights, treatment, record, record.compares(settings))
        value = record.read(loss)
        diverged = record.diverges(value, penalty_value, norms[0])
        record.rows.append((value, penalty_value, *norms, 0.0 if diverged else settings["lr"] * norms[1]))
        if diverged:
            break
        optimizer.step()
        if step % settings["eval_every"] == 0 or step == settings["steps"]:
            if record.settle():
                break
            record.evaluations[step] = evaluate(net, tensors, dtype)
    return record


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats. Shapes: [B, C], [B] -> []."""
    # Classes first, as one image of B pixels: a CPU takes twice as long along a last axis of few numbers.
    return F.cross_entropy(logits.T[None], y[None])


@torch.no_grad()
def evaluate(net: Perceptron, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, float]:
    """Compute loss and accuracy on both splits, and the gaps between the splits."""
    metrics = {}
    for split in ("train", "test"):
        x, y = (tensors[f"{split}/{name}"] for name in "xy")
        logits = net(x.flatten(1))
        metrics[f"{split}/loss"] = F.cross_entropy(logits, y).item()
        metrics[f"{split}/accuracy"] = (logits.argmax(dim=1) == y).to(dtype).mean().item()
    metrics["gap/loss"] = metrics["test/loss"] - metrics["train/loss"]
    metrics["gap/accuracy"] = metrics["train/accuracy"] - metrics["test/accuracy"]
    return metrics

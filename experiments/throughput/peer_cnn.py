"""The convolutional classifier in plain PyTorch: one cell.

B batch, C channels, H × W pixels.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from peer_cell import BRIEF as SERIES
from peer_cell import CPU, Record, Treatment, on, update
from peer_mlp import load
from torch import Tensor, nn

from gradbench.data import Data
from gradbench.functional.seeding import derive
from gradbench.models.sampling import epoch_indices

__all__ = ["SERIES", "load", "train"]

STAGES = 3
"""Resolutions: each stage after the first halves the image and doubles the channels."""


def network(inputs: int, outputs: int, channels: int, depth: int) -> nn.Sequential:
    """Return convolutions of 3 × 3 with rectified linear units, a mean over the pixels, and a linear layer."""
    layers: list[nn.Module] = []
    stages = [index * STAGES // depth for index in range(depth)]
    for stage, last in zip(stages, [0, *stages], strict=False):
        width = channels * 2**stage
        layer = nn.Conv2d(inputs, width, 3, stride=2 if stage > last else 1, padding=1)
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, outputs))


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
    tensors = on(device, data, dtype)
    x_NCHW, y_N = tensors["train/x"], tensors["train/y"]
    net = network(x_NCHW.shape[1], data.sizes["outputs"], settings["channels"], settings["depth"])
    net.to(device, dtype)
    optimizer = torch.optim.SGD(net.parameters(), settings["lr"])
    index = epoch_indices(seed, len(x_NCHW), settings["batch_size"], 0, settings["steps"]).to(device)
    record = Record(**settings["divergence"], device=device)

    for step, (x, y) in enumerate(zip(x_NCHW[index], y_N[index], strict=True), start=1):
        row = update(net, F.cross_entropy(net(x), y), optimizer, treatment, record)
        record.rows.append(row)
        if record.diverged_at:
            break
        if step % settings["eval_every"] == 0 or step == settings["steps"]:
            if record.settle():
                break
            record.evaluations[step] = evaluate(net, settings, tensors)
    return record


def evaluate(net: nn.Module, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Compute loss and accuracy on both splits, the gaps between the splits, and accuracy under attack (FGSM)."""
    metrics = {}
    for split in ("train", "test"):
        x, y = (tensors[f"{split}/{name}"] for name in "xy")
        with torch.no_grad():
            logits = net(x)
        metrics[f"{split}/loss"] = F.cross_entropy(logits, y).item()
        metrics[f"{split}/accuracy"] = accuracy(logits, y)
    metrics["gap/loss"] = metrics["test/loss"] - metrics["train/loss"]
    metrics["gap/accuracy"] = metrics["train/accuracy"] - metrics["test/accuracy"]
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(net(x), y, reduction="sum"), x)
    metrics["test/gradient_norm"] = slope.flatten(1).norm(dim=1).mean().item()
    with torch.no_grad():
        metrics["test/fgsm_accuracy"] = accuracy(net(x + settings["fgsm_epsilon"] * slope.sign()), y)
    return metrics


def accuracy(logits: Tensor, y: Tensor) -> float:
    """Return the share of correct predictions. Shapes: [B, C], [B]."""
    return (logits.argmax(dim=1) == y).to(logits.dtype).mean().item()

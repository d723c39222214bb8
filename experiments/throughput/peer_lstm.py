"""The language model of ``quick`` in plain PyTorch: one cell.

B streams, T tokens unrolled, V vocabulary, E embedding, H hidden, L layers. Time is the first axis, which is faster.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from peer_cell import CPU, SERIES, Record, Treatment, clip, flatten, join, on
from torch import Tensor, nn

from gradbench.data import Data, text
from gradbench.functional.seeding import derive, generator
from gradbench.models.text_windows import evaluation_windows

__all__ = ["SERIES", "load", "train"]

State = tuple[Tensor, Tensor]


def load(name: str) -> Data:
    """Load the data as gradbench does."""
    return text.load(name, "character", test_share=0.1)


class LanguageModel(nn.Module):
    """Embedding, ``nn.LSTM``, decoder."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers)
        self.decoder = nn.Linear(hidden, vocabulary)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def losses(self, embedded: Tensor, targets: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Return each token's cross-entropy and the last state. Shapes: [T, B, E], [T, B] -> [T, B]."""
        outputs, state = self.lstm(embedded, state)
        logits = self.decoder(outputs).flatten(0, 1)
        return F.cross_entropy(logits, targets.flatten(), reduction="none").view(targets.shape), state


def windows(settings: Mapping[str, Any], tokens: Tensor, seed: int) -> Tensor:
    """Return the tokens of every step, [steps, T + 1, B], from streams that start at gradbench's draws."""
    T, B = settings["unroll"], settings["batch_size"]
    starts_B = torch.randint(len(tokens), (B,), generator=generator(seed, "streams"))
    time = torch.arange(settings["steps"])[:, None] * T + torch.arange(T + 1)
    return tokens[((time[..., None] + starts_B) % len(tokens)).to(tokens.device)]


def with_kernel(on: bool) -> None:
    """Use the LSTM of oneDNN or cuDNN, without second derivative, or else PyTorch's own operations, with one."""
    torch.backends.mkldnn.set_flags(on)  # type: ignore[no-untyped-call]
    torch.backends.cudnn.enabled = on


def train(
    settings: Mapping[str, Any],
    data: Data,
    treatment: Treatment,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> Record:
    """Train one cell, with the weights and batches that gradbench draws for the seed."""
    with_kernel(treatment.name != "gp")
    torch.manual_seed(derive(seed, "weights"))
    sizes = settings["embedding"], settings["hidden"], settings["layers"]
    net = LanguageModel(data.sizes["vocabulary"], *sizes).to(device, dtype)
    weights, parameters = flatten(net), list(net.parameters())
    optimizer = torch.optim.SGD([weights], settings["lr"])
    zeros = torch.zeros(
        settings["layers"], settings["batch_size"], settings["hidden"], dtype=dtype, device=device
    )
    state = (zeros, zeros)
    record = Record(**settings["divergence"], device=device)
    tensors = on(device, data, dtype)

    for step, window in enumerate(windows(settings, tensors["train/tokens"], seed), 1):
        embedded = net.embedding(window[:-1])
        losses_TB, (h, c) = net.losses(embedded, window[1:], state)
        state = (h.detach(), c.detach())
        loss, penalty_value = losses_TB.mean(), 0.0
        if treatment.name == "gp":
            # The gradient of each stream's own mean loss is B times that of the batch's mean loss.
            (slope,) = torch.autograd.grad(loss, embedded, create_graph=True)
            penalty = slope.square().sum() * (treatment.strength * window.shape[1])
            gradients = torch.autograd.grad(loss + penalty, parameters)
            penalty_value = record.read(penalty)
        else:
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
            with_kernel(True)
            record.evaluations[step] = evaluate(net, settings, data, tensors)
            with_kernel(treatment.name != "gp")
    return record


@torch.no_grad()
def evaluate(
    net: LanguageModel, settings: Mapping[str, Any], data: Data, tensors: Mapping[str, Tensor]
) -> dict[str, float]:
    """Compute loss, perplexity and bits per character on both splits, each in one pass."""
    metrics = {}
    for split in ("train", "test"):
        tokens = tensors[f"{split}/tokens"]
        tokens_per_character = len(tokens) / data.sizes[f"{split}/characters"]
        tokens = tokens[: settings["evaluation_tokens"] + 1]
        windows_BT = evaluation_windows(len(tokens) - 1, settings["unroll"], True, tokens.device)
        positions, counts = (tensor.t().contiguous() for tensor in windows_BT)
        loss = net.losses(net.embedding(tokens[positions]), tokens[positions + 1], None)[0][counts].mean()
        metrics[f"{split}/loss"] = loss.item()
        metrics[f"{split}/perplexity"] = loss.exp().item()
        metrics[f"{split}/bits_per_character"] = loss.item() * tokens_per_character / math.log(2)
    return metrics

"""The transformer language model in plain PyTorch: one cell.

B windows of text, T tokens in each, V vocabulary, E width, N heads.
"""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from peer_cell import BRIEF as SERIES
from peer_cell import CPU, Record, Treatment, on, update
from peer_lstm import load
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from gradbench.data import Data
from gradbench.functional.seeding import derive, generator
from gradbench.models.networks.transformer import TransformerLanguageModel
from gradbench.models.text_windows import ROWS, evaluation_windows
from gradbench.training.draws import CHUNK

__all__ = ["SERIES", "load", "train"]


class Block(nn.Module):
    """Attention by PyTorch's fused kernel, and a perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = (nn.LayerNorm(width, bias=False) for _ in range(2))
        self.attend = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.expand = nn.Linear(width, 4 * width, bias=False)
        self.reduce = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the new values of all positions. Shapes: [B, T, E] -> [B, T, E]."""
        parts = self.attend(self.attention_norm(x)).chunk(3, dim=-1)
        q, k, v = (part.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        hidden: Tensor = F.gelu(self.expand(self.mlp_norm(x)))
        return x + self.reduce(hidden)


class GPT(nn.Module):
    """A decoder-only transformer whose decoder has the weight of its embedding."""

    def __init__(self, vocabulary: int, length: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the next tokens. Shapes: [B, T] -> [B, T, V]."""
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.embedding.weight)


def windows(settings: Mapping[str, Any], tokens: Tensor, seed: int) -> Iterator[Tensor]:
    """Yield the windows of each step, [B, T + 1], from where gradbench draws them."""
    offsets = torch.arange(settings["unroll"] + 1)
    for first in range(0, settings["steps"], CHUNK):
        own, shape = generator(seed, "windows", first), (CHUNK, settings["batch_size"])
        at = torch.randint(len(tokens), shape, generator=own)[..., None] + offsets
        yield from tokens[(at % len(tokens)).to(tokens.device)]


def share_of_lr(taken: int, warmup: int, steps: int) -> float:
    """Return the learning rate after so many steps, as a share of the largest: a linear warm-up, then half a cosine."""
    if taken < warmup:
        return (taken + 1) / warmup
    return (1 + math.cos(math.pi * (taken - warmup) / max(steps - warmup, 1))) / 2


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
    sizes = data.sizes["vocabulary"], *(settings[key] for key in ("unroll", "width", "heads", "layers"))
    drawn, net = TransformerLanguageModel(*sizes), GPT(*sizes)
    vector_to_parameters(parameters_to_vector(drawn.parameters()), net.parameters())
    net.to(device, dtype)
    optimizer = torch.optim.AdamW(
        net.parameters(), settings["lr"], weight_decay=settings["weight_decay"], fused=True
    )
    share = partial(share_of_lr, warmup=settings["warmup"], steps=settings["steps"])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    tensors = on(device, data, dtype)
    record = Record(**settings["divergence"], device=device)

    batches = zip(
        range(1, settings["steps"] + 1), windows(settings, tensors["train/tokens"], seed), strict=False
    )
    for step, window in batches:
        loss = F.cross_entropy(net(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
        row = update(net, loss, optimizer, treatment, record)
        record.rows.append(row)
        if record.diverged_at:
            break
        schedule.step()
        if step % settings["eval_every"] == 0 or step == settings["steps"]:
            if record.settle():
                break
            record.evaluations[step] = evaluate(net, settings, tensors)
    return record


@torch.no_grad()
def evaluate(net: GPT, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Compute loss and perplexity on both splits."""
    metrics = {}
    for split in ("train", "test"):
        tokens = tensors[f"{split}/tokens"][: settings["evaluation_tokens"] + 1]
        positions, counts = evaluation_windows(len(tokens) - 1, settings["unroll"], False, tokens.device)
        total = 0.0
        for at, counted in zip(positions.split(ROWS), counts.split(ROWS), strict=True):
            losses = F.cross_entropy(
                net(tokens[at]).flatten(0, 1), tokens[at + 1].flatten(), reduction="none"
            )
            total += losses[counted.flatten()].sum().item()
        metrics[f"{split}/loss"] = loss = total / (len(tokens) - 1)
        metrics[f"{split}/perplexity"] = math.exp(loss)
    return metrics

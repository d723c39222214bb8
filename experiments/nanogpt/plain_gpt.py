"""nanoGPT's recipe for a CPU in plain PyTorch, from torch's own layers: what gradbench's transformer is held to.

    python experiments/nanogpt/plain_gpt.py --seed 0 --threshold 1

Windows are drawn anew for each step, as in nanoGPT; the text is the first 1,115,394 characters of the King James text,
as many as tiny Shakespeare has, and its last tenth is for testing.

B windows, T tokens in each, V vocabulary, E width, L layers.
"""

import argparse
import math
import time
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHARACTERS = 1_115_394
T, B = 64, 12


class GPT(nn.Module):
    """A decoder-only transformer from ``nn.TransformerEncoderLayer``, its decoder tied to its embedding."""

    def __init__(self, vocabulary: int, length: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                heads,
                4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
                bias=False,
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                ends = name.endswith(("out_proj.weight", "linear2.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if ends else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits [B, T, V] of tokens [B, T]."""
        length = tokens.shape[1]
        forbidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        x = self.embedding(tokens) + self.positions.weight[:length]
        for layer in self.layers:
            x = layer(x, src_mask=forbidden)
        return F.linear(self.norm(x), self.embedding.weight)


def lr_at(step: int, steps: int, warmup: int) -> float:
    """Return the learning rate as a share of the largest: linear warm-up, then a cosine to a tenth."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def train(
    net: nn.Module, windows: Iterable[Tensor], steps: int, warmup: int, threshold: float, lr: float = 1e-3
) -> tuple[list[float], list[float]]:
    """Train on one batch of windows [B, T + 1] per step; return the losses, and the norms before clipping."""
    matrices = [one for one in net.parameters() if one.dim() > 1]
    vectors = [one for one in net.parameters() if one.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99))
    losses, norms = [], []
    for step, window in zip(range(steps), windows, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = lr * lr_at(step, steps, warmup)
        loss = F.cross_entropy(net(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(net.parameters(), threshold)))
        losses.append(float(loss.detach()))
        optimizer.step()
    return losses, norms


@torch.no_grad()
def evaluate(net: nn.Module, text: Tensor, length: int) -> float:
    """Return the mean cross-entropy of a text in nats per token, read in windows of ``length`` side by side."""
    count = (len(text) - 1) // length
    x, y = (text[first : first + count * length].view(count, length) for first in (0, 1))
    losses = [
        F.cross_entropy(net(a).flatten(0, 1), b.flatten(), reduction="sum")
        for a, b in zip(x.split(64), y.split(64), strict=True)
    ]
    return float(sum(losses)) / (count * length)


def main() -> None:
    """Train one network, and print its losses."""
    from gradbench.config.compose import Configs
    from gradbench.config.instantiate import load_data

    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threshold", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=2000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    data = load_data(
        {"data": Configs().compose(("data=bible", "model=transformer"))[0]["data"] | {"limit": CHARACTERS}}
    )
    train_text, test_text = (
        torch.as_tensor(data.arrays[f"{split}/tokens"]).long() for split in ("train", "test")
    )
    net = GPT(data.sizes["vocabulary"], T, 128, 4, 4)

    def windows() -> Iterable[Tensor]:
        while True:
            starts = torch.randint(len(train_text) - T, (B,))
            yield train_text[starts[:, None] + torch.arange(T + 1)]

    began = time.process_time()
    _, norms = train(net, windows(), given.steps, min(100, given.steps // 10), given.threshold)
    seconds = time.process_time() - began
    test_loss = evaluate(net, test_text[:16_385], T)
    above = sum(norm > 1 for norm in norms) / len(norms)
    print(
        f"seed {given.seed}, clipped at {given.threshold:g}: test loss {test_loss:.4f} after {given.steps} steps"
    )
    print(f"norms above 1.0: {above:.1%}; {seconds:.0f} CPU-seconds")


if __name__ == "__main__":
    main()

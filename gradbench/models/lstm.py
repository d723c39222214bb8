"""Language modelling with an LSTM, trained by truncated back-propagation with carried state.

B streams of text, T tokens unrolled, V vocabulary, E embedding, H hidden, L layers.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradbench.errors import UsageError
from gradbench.functional.seeding import generator
from gradbench.models import MeanLoss, Networks, Player, Tensors
from gradbench.models.networks.lstm import LanguageModel, State

EVALUATION_STREAMS = 64
"""Streams of text that an evaluation reads in parallel, at most."""


class LanguageModelling(MeanLoss):
    """Predict the next token; the loss is the MEAN over all B × T tokens, in nats.

    Each of B streams starts at a position drawn from the cell's seed and reads T tokens per step; the state is
    carried from step to step without gradient (truncated back-propagation). A gradient penalty is
    taken of each stream's mean cross-entropy with respect to its embedded tokens.

    Args:
        sizes: sizes of the data: ``vocabulary`` (V), and the number of characters of each split.
        embedding: E.
        hidden: H.
        layers: L.
        unroll: T.
        batch_size: B.
        evaluation_tokens: tokens of each split that an evaluation reads, at most.
    """

    players = (Player("lstm"),)
    fuses = True
    width_tolerance = 0.0

    def __init__(
        self,
        sizes: Mapping[str, int],
        embedding: int,
        hidden: int,
        layers: int,
        unroll: int,
        batch_size: int,
        evaluation_tokens: int,
    ) -> None:
        if min(embedding, hidden, layers, unroll, batch_size, evaluation_tokens) < 1:
            raise ValueError(
                "model.embedding, hidden, layers, unroll, batch_size, evaluation_tokens must be >= 1"
            )
        self.sizes = sizes
        self.shape = (sizes["vocabulary"], embedding, hidden, layers)
        self.unroll, self.batch_size, self.evaluation_tokens = unroll, batch_size, evaluation_tokens

    def networks(self, fused: bool = False) -> dict[str, nn.Module]:
        """Return the language model; with ``fused``, on torch's own LSTM kernel."""
        return {"lstm": LanguageModel(*self.shape, fused=fused)}

    def draw(
        self, purpose: str, seed: int, first: int, count: int, data: Mapping[str, np.ndarray]
    ) -> Tensors:
        """Draw the position of each stream in the text, int64 [count, B]; an evaluation needs none."""
        if purpose == "evaluation":
            return {}
        tokens = len(data["train/tokens"])
        if tokens <= self.unroll:
            raise UsageError(
                f"the text has {tokens} tokens, model.unroll={self.unroll} needs more: lower model.unroll"
            )
        starts_B = torch.randint(tokens, (self.batch_size,), generator=generator(seed, "streams"))
        steps = torch.arange(first, first + count)
        return {"position": (starts_B + self.unroll * steps[:, None]) % tokens}

    def batch(self, player: str, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Cut inputs and targets out of the text, each int64 [B, T]; its end is followed by its beginning."""
        text = data["train/tokens"]
        offsets = torch.arange(self.unroll + 1, device=text.device)
        window = text[(draw["position"][:, None] + offsets) % text.shape[0]]
        return {"x": window[:, :-1], "y": window[:, 1:]}

    def carry(self) -> Tensors:
        """Return the zero state ``h``, ``c``, each [L, B, H]."""
        _, _, hidden, layers = self.shape
        zeros = torch.zeros(layers, self.batch_size, hidden)
        return {"h": zeros, "c": zeros.clone()}

    def losses(
        self, player: str, nets: Networks, batch: Tensors, carry: Tensors
    ) -> tuple[Callable[[Tensor], tuple[Tensor, Tensors]], Tensor]:
        """Return the function embedded tokens [B, T, E] -> each stream's mean cross-entropy [B], and these tokens.

        The function also returns the detached state.
        """

        def stream_losses(embedded: Tensor) -> tuple[Tensor, Tensors]:
            logits, (h, c) = nets[player](embedded, (carry["h"], carry["c"]))
            return cross_entropy(logits, batch["y"]).mean(dim=1), {"h": h.detach(), "c": c.detach()}

        return stream_losses, F.embedding(batch["x"], nets[player].get_parameter("embedding.weight"))

    def evaluate(self, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Compute loss (nats per token), perplexity per token and bits per character on both splits."""
        metrics: Tensors = {}
        for split in ("train", "test"):
            text = data[f"{split}/tokens"]
            loss = self._mean_loss(nets["lstm"], text[: self.evaluation_tokens + 1])
            tokens_per_character = text.shape[0] / self.sizes[f"{split}/characters"]
            metrics[f"{split}/loss"] = loss
            metrics[f"{split}/perplexity"] = loss.exp()
            metrics[f"{split}/bits_per_character"] = loss * tokens_per_character / math.log(2)
        return metrics

    def _mean_loss(self, net: Callable[..., tuple[Tensor, State]], text: Tensor) -> Tensor:
        """Compute the mean loss over a text [N], read in parallel streams from a zero state."""
        streams = max(1, min(EVALUATION_STREAMS, (text.shape[0] - 1) // self.unroll))
        length = (text.shape[0] - 1) // streams
        x = text[: streams * length].view(streams, length)
        y = text[1 : streams * length + 1].view(streams, length)
        state: State | None = None
        losses = []
        for xs, ys in zip(
            torch.split(x, self.unroll, dim=1), torch.split(y, self.unroll, dim=1), strict=True
        ):
            logits, state = net(xs, state)
            losses.append(cross_entropy(logits, ys))
        return torch.cat(losses, dim=1).mean()


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return each token's cross-entropy in nats. Shapes: [B, T, V], [B, T] -> [B, T]."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)

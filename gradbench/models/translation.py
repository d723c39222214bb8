"""Translation from sequence to sequence, with attention.

B pairs, S source tokens, T target tokens, E width, V target vocabulary, N pairs of a split that are evaluated.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradbench.functional.special_tokens import END, PADDING
from gradbench.models import MeanLoss, Networks, Player, Tensors
from gradbench.models.bleu import corpus_bleu
from gradbench.models.language_modelling import cross_entropy, with_output
from gradbench.models.networks.translation import RecurrentTranslator, TransformerTranslator
from gradbench.models.sampling import check_batch_size, epoch_indices, gather_rows
from gradbench.models.supervised import SPLITS, precise
from gradbench.models.transformer import check_sizes

ARCHITECTURES = ("gru", "transformer")

SHOWN = 10
"""Translations of a cell that are kept for the report."""


class Translation(MeanLoss):
    """Translate token by token, after the source and the tokens before; the loss is the MEAN over all target tokens.

    Training gives the decoder the target's own tokens (teacher forcing), shuffled in epochs. Padding counts nowhere. A
    gradient penalty is taken of each pair's summed cross-entropy, over the batch's mean number of target tokens, with
    respect to its embedded source tokens. An evaluation lets the network translate the first pairs of each split: it
    takes the likeliest token each time, until it ends the sentence.

    Args:
        sizes: sizes of the data: ``source_vocabulary``, ``target_vocabulary``, ``source_length``, ``target_length``.
        arrays: the data's arrays, read for types and shapes alone.
        architecture: ``gru`` or ``transformer``.
        width: E.
        heads: heads of each attention.
        layers: of the encoder and of the decoder.
        dropout: probability of leaving out a number, in [0, 1).
        batch_size: B.
        evaluation_examples: largest N.
    """

    players: tuple[Player, ...] = (Player("network"),)
    probe_points = ("embeddings",)
    probe_around = "embeddings"
    width_tolerance = 0.0

    def __init__(
        self,
        sizes: Mapping[str, int],
        arrays: Mapping[str, np.ndarray],
        architecture: str,
        width: int,
        heads: int,
        layers: int,
        dropout: float,
        batch_size: int,
        evaluation_examples: int,
    ) -> None:
        if architecture not in ARCHITECTURES:
            raise ValueError(
                f"model.architecture must be one of {', '.join(ARCHITECTURES)}, got {architecture}"
            )
        check_sizes(width, heads, layers, dropout)
        if width < 2:
            raise ValueError(f"model.width must be >= 2, got {width}")
        if evaluation_examples < 1:
            raise ValueError(f"model.evaluation_examples must be >= 1, got {evaluation_examples}")
        check_batch_size(batch_size, arrays["train/source"])
        vocabularies = (sizes["source_vocabulary"], sizes["target_vocabulary"])
        lengths = (sizes["source_length"], sizes["target_length"])
        self.build: Callable[[], nn.Module] = (
            (lambda: RecurrentTranslator(*vocabularies, width, heads, layers, dropout))
            if architecture == "gru"
            else (lambda: TransformerTranslator(*vocabularies, *lengths, width, heads, layers, dropout))
        )
        self.batch_size, self.evaluation_examples = batch_size, evaluation_examples

    def networks(self, fused: bool = False) -> dict[str, nn.Module]:
        """Return a new encoder and decoder."""
        return {"network": self.build()}

    def draw(
        self, purpose: str, seed: int, first: int, count: int, data: Mapping[str, np.ndarray]
    ) -> Tensors:
        """Draw the indices of the pairs, int64 [count, B]; an evaluation needs none."""
        if purpose == "evaluation":
            return {}
        return {"index": epoch_indices(seed, len(data["train/source"]), self.batch_size, first, count)}

    def batch(self, player: str, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Gather sources, int64 [B, S], and targets, int64 [B, T]."""
        return {side: gather_rows(data[f"train/{side}"], draw["index"]) for side in ("source", "target")}

    def losses(
        self, player: str, nets: Networks, batch: Tensors, carry: Tensors
    ) -> tuple[Callable[[Tensor], tuple[Tensor, Tensors]], Tensor]:
        """Return the function embedded source tokens [B, S, E] -> losses [B], whose mean is that over all tokens."""
        net, source, target = nets[player], batch["source"], batch["target"]
        embedding = net.get_submodule("source_embedding")
        is_token = target != PADDING

        def pair_losses(embedded: Tensor) -> tuple[Tensor, Tensors]:
            with with_output(embedding, embedded):
                logits = read_target(net, source, target)
            sums_B = torch.where(is_token, cross_entropy(logits, target), 0.0).sum(dim=1)
            return sums_B / (is_token.sum() / len(target)), carry

        return pair_losses, embedding(source)

    def evaluate(self, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Compute metrics on both splits, and the translations of the test split, int64 [N, T].

        Loss (nats per token) and token accuracy are of targets that the network is given up to each token; exact match
        is the share of its own translations that are the target, token by token.
        """
        net = nets["network"]
        metrics: Tensors = {}
        for split in SPLITS:
            source, target = (
                data[f"{split}/{side}"][: self.evaluation_examples] for side in ("source", "target")
            )
            logits = read_target(net, source, target)
            is_token, kind = target != PADDING, logits.dtype
            of_tokens = {
                "loss": cross_entropy(logits, target),
                "token_accuracy": logits.argmax(dim=2) == target,
            }
            for name, values in of_tokens.items():
                total = torch.where(is_token, values.to(kind), 0.0).sum()
                metrics[f"{split}/{name}"] = total / is_token.sum()
            translations = translate(net, source, target.shape[1])
            share = (translations == target).all(dim=1).to(kind).mean()
            # of logits that are not finite, the likeliest token says nothing
            is_finite = metrics[f"{split}/loss"].isfinite()
            metrics[f"{split}/exact_match"] = torch.where(is_finite, share, torch.nan)
        return metrics | {"translations": translations}

    def summarize(
        self, arrays: Mapping[str, np.ndarray], data: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Compute the BLEU of the test split's tokens, and keep the tokens of its first pairs and translations."""
        translations = arrays["translations"]
        source, target = (data[f"test/{side}"][: len(translations)] for side in ("source", "target"))
        kept = {"source_tokens": source, "target_tokens": target, "translation_tokens": translations}
        metrics = {"test/bleu": corpus_bleu(translations, target, END)}
        return metrics, {name: table[:SHOWN] for name, table in kept.items()}

    def metric_names(self, networks: Mapping[str, nn.Module]) -> frozenset[str]:
        """Return the names of all metrics."""
        names = ("loss", "token_accuracy", "exact_match")
        return frozenset(f"{split}/{name}" for split in SPLITS for name in names) | {"test/bleu"}


def read_target(net: Callable[..., Any], source: Tensor, target: Tensor) -> Tensor:
    """Return the logits of each target token, given those before it. Shapes: [B, S], [B, T] -> [B, T, V]."""
    inputs = F.pad(target[:, :-1], (1, 0), value=END)
    return precise(net(source, inputs)[0])


def translate(net: Callable[..., Any], source: Tensor, length: int) -> Tensor:
    """Translate sentences, the likeliest token each time (greedy decoding); what follows an end is padding.

    Shapes: int64 [B, S] -> int64 [B, length].
    """
    token, state = torch.full_like(source[:, :1], END), None
    ended, written = torch.zeros_like(token, dtype=torch.bool), []
    for _ in range(length):
        logits, state = net(source, token, state=state)
        token = torch.where(ended, PADDING, logits.argmax(dim=2))
        ended = ended | (token == END)
        written.append(token)
    return torch.cat(written, dim=1)

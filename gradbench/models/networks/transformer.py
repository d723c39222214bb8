"""A transformer with the normalisation before each part, as in GPT-2, and what reads texts and sequences with it.

B streams or examples, T time, D features of a step, E width, L layers, V vocabulary, C outputs.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradbench.models.networks.attention import Attention, causal_mask
from gradbench.models.networks.recurrent import project

SPREAD = 0.02
"""Standard deviation of the initial weights."""


class Block(nn.Module):
    """Self-attention and a perceptron with 4 E hidden units (GELU), each after a layer norm and added to its input.

    Nothing has a bias, as in nanoGPT's default.

    Args:
        width: E.
        heads: heads of the attention.
        dropout: probability of leaving out a number: of the attention, and of what both parts add.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = (nn.LayerNorm(width, bias=False) for _ in range(2))
        self.attention = Attention(width, heads, dropout)
        self.expand = nn.Linear(width, 4 * width, bias=False)
        self.reduce = nn.Linear(4 * width, width, bias=False)
        self.dropout = dropout

    def forward(self, x_BTE: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the new values of all positions, [B, T, E]; the mask is as of :class:`Attention`."""
        attended = self.attention(self.attention_norm(x_BTE), mask=mask)
        x_BTE = x_BTE + F.dropout(attended, self.dropout, self.training)
        hidden = F.gelu(project(self.mlp_norm(x_BTE), self.expand.weight))
        reduced = project(hidden, self.reduce.weight)
        return x_BTE + F.dropout(reduced, self.dropout, self.training)


class Transformer(nn.Module):
    """Learned positions, L blocks, and a last layer norm: [B, T, E] -> [B, T, E].

    Args:
        length: largest T.
        width: E.
        heads: heads of each attention.
        layers: L.
        dropout: as of :class:`Block`; also of the embedded inputs.
    """

    def __init__(self, length: int, width: int, heads: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        self.dropout = dropout

    def forward(self, x_BTE: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the values of all positions, [B, T, E]; the mask is as of :class:`Attention`."""
        x_BTE = x_BTE + self.positions.weight[: x_BTE.shape[1]]
        x_BTE = F.dropout(x_BTE, self.dropout, self.training)
        for block in self.blocks:
            x_BTE = block(x_BTE, mask)
        normed: Tensor = self.norm(x_BTE)
        return normed


class TransformerLanguageModel(nn.Module):
    """A decoder-only language model, whose decoder has the weight of its embedding: tokens [B, T] -> logits [B, T, V].

    Args:
        vocabulary: V.
        length: largest T; with width, heads, layers and dropout as of :class:`Transformer`.
        width: E.
        heads: heads of each attention.
        layers: L.
        dropout: as of :class:`Transformer`.
    """

    def __init__(
        self, vocabulary: int, length: int, width: int, heads: int, layers: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.transformer = Transformer(length, width, heads, layers, dropout)
        self.decoder = nn.Linear(width, vocabulary, bias=False)
        self.decoder.weight = self.embedding.weight
        self.register_buffer("mask", causal_mask(length), persistent=False)
        initialise(self, layers)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the next token after each position, [B, T, V]."""
        T = tokens.shape[1]
        mask = self.get_buffer("mask")[:T, :T]
        outputs_BTE = self.transformer(self.embedding(tokens), mask)
        logits: Tensor = self.decoder(outputs_BTE.flatten(0, 1))  # in two dimensions, as in ``project``
        return logits.view(*tokens.shape, -1)


class SequenceTransformer(nn.Module):
    """A linear embedding of each step, a transformer, and a linear layer on the mean over all steps.

    Shapes: [B, T, D] -> [B, C]. Every step may attend to every other one.

    Args:
        inputs: D.
        outputs: C.
        length: largest T; with width, heads, layers and dropout as of :class:`Transformer`.
        width: E.
        heads: heads of each attention.
        layers: L.
        dropout: as of :class:`Transformer`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        length: int,
        width: int,
        heads: int,
        layers: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Linear(inputs, width, bias=False)
        self.transformer = Transformer(length, width, heads, layers, dropout)
        self.decoder = nn.Linear(width, outputs)
        initialise(self, layers)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the outputs, [B, C]."""
        outputs: Tensor = self.decoder(self.transformer(project(x_BTD, self.embedding.weight)).mean(dim=1))
        return outputs


@torch.no_grad()
def initialise(network: nn.Module, layers: int) -> None:
    """Draw a network's matrices as GPT-2 does.

    Each of the 2 L weights that end at the sum of all blocks is smaller by √(2 L): what a sum of 2 L equal parts grows
    by.

    Args:
        network: has a :class:`Transformer`.
        layers: L.

    Reference: Radford et al., "Language models are unsupervised multitask learners", 2019; nanoGPT has the same.
    """
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            ends = name.endswith(("attention.out_proj.weight", "reduce.weight"))
            nn.init.normal_(parameter, std=SPREAD / math.sqrt(2 * layers) if ends else SPREAD)

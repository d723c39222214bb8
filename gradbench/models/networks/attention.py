"""Multi-head attention, written out.

B batch, Q queries, S positions that are attended to, E width, N heads, D = E / N.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradbench.models.networks.recurrent import project


class Attention(nn.Module):
    """``nn.MultiheadAttention(bias=False)`` from products and a softmax; weights, their names and results are the same.

    Unlike torch's kernels, it can be stacked by ``vmap`` and differentiated twice. It has no biases: the gradient of
    the keys' would be rounding errors alone, of which Adam makes steps.

    Args:
        width: E, a multiple of the number of heads.
        heads: N.
        dropout: probability of leaving out a weight of the attention, while training.

    Raises:
        ValueError: for sizes out of range.

    Reference: Vaswani et al., "Attention is all you need", arXiv:1706.03762, 2017.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        if min(width, heads) < 1 or width % heads:
            raise ValueError(f"model.width must be a multiple of model.heads, got {width} and {heads}")
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * width, width)))
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(
        self, queries_BQE: Tensor, memory_BSE: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return what each query gathers, [B, Q, E].

        Args:
            queries_BQE: what asks.
            memory_BSE: what keys and values are made of; ``None``: the queries themselves (self-attention).
            mask: bool, True where a query may attend to a position; of a shape that broadcasts to [B, N, Q, S], such as
                :func:`causal_mask`, [Q, S], or :func:`padding_mask`, [B, 1, 1, S], or both joined by ``&``. Each query
                must be left a position, or it gathers the mean of all values.
        """
        width = queries_BQE.shape[-1]
        if memory_BSE is None:
            q, k, v = project(queries_BQE, self.in_proj_weight).chunk(3, dim=-1)
        else:
            w_q, w_kv = torch.split(self.in_proj_weight, [width, 2 * width])
            q, (k, v) = project(queries_BQE, w_q), project(memory_BSE, w_kv).chunk(2, dim=-1)
        q, k, v = (part.view(*part.shape[:2], self.heads, -1).transpose(1, 2) for part in (q, k, v))
        scores_BNQS = (q * (1 / math.sqrt(q.shape[-1]))) @ k.mT
        if mask is not None:
            scores_BNQS = scores_BNQS.masked_fill(~mask, torch.finfo(scores_BNQS.dtype).min)
        weights = F.dropout(scores_BNQS.softmax(dim=-1), self.dropout, self.training)
        gathered_BQE = (weights @ v).transpose(1, 2).flatten(2)
        return project(gathered_BQE, self.out_proj.weight)


def causal_mask(length: int, device: torch.device | None = None) -> Tensor:
    """Return that a position may attend to itself and those before it, bool [length, length]."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def padding_mask(is_token_BS: Tensor) -> Tensor:
    """Return that all queries may attend to tokens and not to padding. Shapes: bool [B, S] -> [B, 1, 1, S]."""
    return is_token_BS[:, None, None, :]

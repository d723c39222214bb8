"""Windows in which an evaluation reads a text, so that it predicts every token once; and the choice of a next token.

S windows, L tokens in each, N tokens that are predicted, V vocabulary.
"""

import math

import torch
from torch import Tensor

ROWS = 32
"""Windows that are read at once, at most."""

LEAD = 128
"""Tokens that a stream reads before those that count. A network has forgotten by then that it began with the zero
state: a trained LSTM's perplexity has the first six digits of one stream through all of the text."""

SHARES = 2**40
"""Probabilities are rounded to multiples of 1 / SHARES: the sum of integers is the same in any order."""


def evaluation_windows(
    tokens: int, unroll: int, carries_state: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the positions that are read, int64 [S, L], and whether what is predicted there counts, bool [S, L].

    With a state, up to ``ROWS`` long streams are read side by side, cut without regard to ``unroll``. Each begins
    ``LEAD`` tokens early, with the zero state, but for the first, which begins the text. Without a state, windows of
    ``unroll`` tokens lie side by side. The last window ends with the text, and counts what no other one does.

    Args:
        tokens: N; the text has one more.
        unroll: tokens that a network without a state reads at once.
        carries_state: whether the network has a state.
        device: device of what is returned.
    """
    stride, lead = min(unroll, tokens), 0
    if carries_state:
        stride, lead = max(LEAD, math.ceil((tokens - LEAD) / ROWS)), LEAD
        if tokens <= stride + lead:
            stride, lead = tokens, 0
    rows = torch.arange(math.ceil((tokens - lead) / stride), device=device)
    starts = (rows * stride).clamp(max=tokens - lead - stride)
    positions = starts[:, None] + torch.arange(lead + stride, device=device)
    ends_before = torch.where(rows > 0, lead + rows * stride, 0)
    return positions, positions >= ends_before[:, None]


def choose_token(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Return a token drawn from softmax(logits / temperature), int64 []; the most likely one at temperature 0.

    Args:
        logits: [V].
        uniform: a random number in [0, 1), []: the share of the distribution that lies before the token.
        temperature: >= 0.
    """
    if temperature == 0:
        return logits.argmax()
    shares = (torch.softmax(logits / temperature, dim=0) * SHARES).long()
    below = shares.cumsum(dim=0)
    index = (below <= (uniform * below[-1]).long()).sum()
    return index.clamp(max=logits.shape[0] - 1)  # a rounded product may be the whole

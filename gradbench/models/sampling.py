"""Batches of examples: shuffled epochs as a function of the update's number, so that any update's can be drawn."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gradbench.functional.seeding import generator


def rows(table: Tensor, index: Tensor) -> Tensor:
    """Return the rows of a table at indices that are not negative. Shapes: [N, ...], [...] -> [..., ...].

    As an embedding does: it copies row by row, which takes a CPU a fourth of the time of indexing.
    """
    return F.embedding(index, table.reshape(len(table), -1)).view(*index.shape, *table.shape[1:])


def epoch_indices(seed: int, examples: int, batch_size: int, first: int, count: int) -> Tensor:
    """Return which examples updates ``first`` … ``first + count - 1`` see, epoch after shuffled epoch.

    Every example is seen once before any is seen again; a batch may straddle two epochs.

    Args:
        seed: the cell's seed; each epoch's permutation is drawn from it.
        examples: N, how many there are.
        batch_size: B.
        first: number of updates before.
        count: number of updates.

    Returns:
        int64 [count, B], each in [0, N).
    """
    positions = torch.arange(first * batch_size, (first + count) * batch_size)
    epochs = positions // examples
    indices = torch.empty_like(positions)
    for epoch in torch.unique(epochs).tolist():
        order = torch.randperm(examples, generator=generator(seed, "epoch", epoch))
        here = epochs == epoch
        indices[here] = order[positions[here] % examples]
    return indices.view(count, batch_size)

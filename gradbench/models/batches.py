"""Shuffled epochs as a function of the update's number, so that any update's batch can be drawn by itself."""

import torch
from torch import Tensor

from gradbench.seeding import generator


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

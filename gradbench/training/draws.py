"""Random numbers of training steps, drawn in chunks from the seed of each cell. U different seeds."""

from collections.abc import Sequence

import torch

from gradbench.functional.devices import bring
from gradbench.functional.flat_params import Tensors
from gradbench.training.state import StackContext

CHUNK = 50
"""Steps whose random numbers are drawn together. Part of what a seed means: another value, other numbers."""


def draw_chunk(context: StackContext, step: int) -> dict[str, Tensors]:
    """Return the random numbers of the chunk that holds ``step``, per player, each [U, CHUNK * player.batches, ...]."""
    first = step // CHUNK * CHUNK
    return {
        player.name: stack_draws(
            [
                context.model.draw(
                    player.name, seed, first * player.batches, CHUNK * player.batches, context.arrays
                )
                for seed in context.seeds
            ],
            context.device,
            context.dtype,
        )
        for player in context.players
    }


def stack_draws(draws: Sequence[Tensors], device: torch.device, dtype: torch.dtype) -> Tensors:
    """Stack the draws of U seeds and bring them to the device, floating ones in the given dtype."""
    stacked = {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}
    return {
        name: bring(tensor, device, dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in stacked.items()
    }

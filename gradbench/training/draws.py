"""Random numbers of training steps, drawn in chunks from the seed of each cell. U different seeds."""

from collections.abc import Sequence

import torch

from gradbench.functional.devices import bring
from gradbench.functional.flat_params import Tensors
from gradbench.training.state import StackContext

CHUNK = 50
"""Steps whose random numbers are drawn together. Part of what a seed means: another value, other numbers."""


def draw_chunk(context: StackContext, step: int) -> dict[str, Tensors]:
    """Return the random numbers of the chunk that holds ``step``: per purpose [U, CHUNK * draws per step, ...]."""
    first = step // CHUNK * CHUNK
    return {
        purpose: stack_draws(
            [
                context.model.draw(purpose, seed, first * count, CHUNK * count, context.arrays)
                for seed in context.seeds
            ],
            context.device,
            context.dtype,
        )
        for purpose, count in context.draws_per_step.items()
    }


def stack_draws(draws: Sequence[Tensors], device: torch.device, dtype: torch.dtype) -> Tensors:
    """Stack the draws of U seeds and bring them to the device, floating ones in the given dtype."""
    stacked = {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}
    return {
        name: bring(tensor, device, dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in stacked.items()
    }

"""Generators seeded by a cell's own seed and by what the numbers are for: all random numbers come from these.

There is no running generator: the numbers of a step are a function of (seed, purpose, step). So a cell's numbers
do not depend on its stack, cells that differ only in the regularizer share them, and a resumed run needs no
generator's state.
"""

import hashlib

import torch


def derive(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose of one cell; different purposes give unrelated seeds."""
    text = ":".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a fresh CPU generator for one purpose of one cell: the same numbers for every device."""
    return torch.Generator().manual_seed(derive(seed, *purpose))

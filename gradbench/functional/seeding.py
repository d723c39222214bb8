"""Generators seeded by a cell's own seed and by what the numbers are for: all random numbers come from these.

There is no running generator: the numbers of a step are a function of (seed, purpose, step). So a cell's numbers
do not depend on its stack, cells that differ only in the regularizer share them, and a resumed run needs no
generator's state.
"""

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def derive(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose of one cell; different purposes give unrelated seeds."""
    text = ":".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a fresh CPU generator for one purpose of one cell: the same numbers for every device."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


@contextlib.contextmanager
def all_seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python for a block, and restore them: for code that uses them."""
    number, before = derive(seed, *purpose), (random.getstate(), np.random.get_state())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        random.seed(number)
        np.random.seed(number % 2**32)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])

"""Run a function of one network for each network of a stack, one after another."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gradbench.functional.torch_internals import tree_map

ALIGNMENT = 16
"""Bytes: a CPU's kernels give other last bits where a matrix does not begin at a multiple of them."""


def sequential_vmap(function: Callable[..., Any], K: int) -> Callable[..., Any]:
    """Return a function that calls another once per network, and stacks the results: ``vmap`` as a loop.

    It is for kernels that ``vmap`` cannot stack, and for networks that fill a core by themselves.

    Args:
        function: of tensors and containers of them, for one network.
        K: number of networks; the arguments have it as their leading axis.
    """
    return lambda *args: stack([function(*pick(args, k)) for k in range(K)])


def pick(values: Any, k: int) -> Any:
    """Return network k's part of tensors [K, ...] in containers, aligned in memory for every k."""

    def row(tensor: torch.Tensor) -> torch.Tensor:
        own = tensor[k]
        return own.clone() if own.nbytes % ALIGNMENT else own

    return tree_map(row, values)


def stack(values: Sequence[Any]) -> Any:
    """Stack tensors, dicts of tensors or tuples of either along a new leading axis K."""
    first = values[0]
    if isinstance(first, dict):
        return {name: stack([value[name] for value in values]) for name in first}
    if isinstance(first, tuple):
        return tuple(stack([value[index] for value in values]) for index in range(len(first)))
    return torch.stack(list(values))

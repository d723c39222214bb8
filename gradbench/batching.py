"""Ways to run functions of stacked tensors: recorded once and replayed, or network by network."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from gradbench.compiling import compiled
from gradbench.simplify import simplify
from gradbench.tape import record

MOST = 64
"""Recordings that a process keeps for stacks to come."""

recordings: dict[Hashable, Callable[..., Any]] = {}
"""What has been recorded in this process; another stack of the same program goes on with it."""


def recorded(
    function: Callable[..., Any], name: Hashable, compiles: bool = False, given_away: int = 0
) -> Callable[..., Any]:
    """Record a function's tensor operations at its first call, simplify them, and run just these.

    ``vmap`` and ``autograd`` decide anew at every call what each operation means; a recording has decided. It is run
    from the first call on: what is computed must not depend on when a stack was gone on with.

    Args:
        function: of tensors and containers of them, pure, whose course depends on no tensor's value.
        name: functions of one name do the same, to tensors of the same shapes.
        compiles: whether to compile the recording.
        given_away: how many arguments, from the first, nobody uses afterwards: results may be written over them.
    """

    kept: list[Callable[..., Any]] = []  # for as long as the stack: graphs read a recording's constants

    def replay(*args: Any) -> Any:
        if not kept:
            if name not in recordings:
                if len(recordings) == MOST:
                    recordings.clear()
                recordings[name] = prepared(function, args, compiles, given_away)
            kept.append(recordings[name])
        # enabled, or a fused kernel would not keep what its own derivative is recorded to need
        with torch.inference_mode(), torch.enable_grad():
            return kept[0](*args)

    return replay


def prepared(
    function: Callable[..., Any], args: tuple[Any, ...], compiles: bool, given_away: int
) -> Callable[..., Any]:
    """Return a function's recording for tensors of the shapes and types of just these, simplified or compiled."""
    recording = record(function, tree_map(ordinary, args))[1]  # the result goes before anything else is made
    free = len(tree_leaves(args[:given_away]))
    simplify(recording, tree_leaves(args)[0].device.type, compiles, free)
    return compiled(recording, args) if compiles else recording


def ordinary(tensor: Tensor) -> Tensor:
    """Return a contiguous tensor that autograd may go on with; a copy where it is not yet one."""
    whole = torch.contiguous_format
    return tensor.clone(memory_format=whole) if tensor.is_inference() else tensor.contiguous()


def looped(function: Callable[..., Any], K: int) -> Callable[..., Any]:
    """Call a function once per network and stack what it returns: for kernels that ``vmap`` cannot stack.

    Args:
        function: of tensors and dicts of them, for one network.
        K: how many networks; the arguments have it as their leading axis.
    """
    return lambda *args: stack([function(*(pick(arg, k) for arg in args)) for k in range(K)])


def pick(value: Any, k: int) -> Any:
    """Return network k's part of a tensor [K, ...], or of a dict of them."""
    return {name: part[k] for name, part in value.items()} if isinstance(value, dict) else value[k]


def stack(values: Sequence[Any]) -> Any:
    """Stack tensors, dicts of tensors or tuples of either along a new leading axis K."""
    first = values[0]
    if isinstance(first, dict):
        return {name: stack([value[name] for value in values]) for name in first}
    if isinstance(first, tuple):
        return tuple(stack([value[index] for value in values]) for index in range(len(first)))
    return torch.stack(list(values))

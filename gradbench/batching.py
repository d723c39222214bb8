"""Ways to run functions of stacked tensors: recorded once and replayed, or network by network."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from gradbench.compiling import compiled
from gradbench.tape import record

aten = torch.ops.aten


RECORD_AFTER = 20
"""Calls after which a function is recorded: about as many as the recording costs, so that it never costs twice."""

MOST = 64
"""Recordings that a process keeps."""

recordings: dict[Hashable, Callable[..., Any]] = {}
"""What has been recorded in this process; another stack of the same program goes on with it."""


def recorded(
    function: Callable[..., Any], name: Hashable, after: int = RECORD_AFTER, compiles: bool = False
) -> Callable[..., Any]:
    """Record a function's tensor operations once it has been called some times, and replay just these from then on.

    ``vmap`` and ``grad`` decide anew at every call what each operation means; a recording has decided. The operations
    are the same ones in the same order, so the results have the same bits.

    Args:
        function: of tensors and containers of them, pure, whose course depends on no tensor's value.
        name: functions of one name do the same, to tensors of the same shapes.
        after: how many calls are run before.
        compiles: whether to compile the recording: then results are the same up to rounding.
    """
    calls = 0

    def replay(*args: Any) -> Any:
        nonlocal calls
        if name not in recordings:
            calls += 1
            if calls <= after:
                return function(*args)
            if len(recordings) == MOST:
                recordings.clear()
            result, recording = record(function, args)
            simplify(recording.module)
            recordings[name] = compiled(recording, args) if compiles else recording
            if not compiles:
                return result
        return recordings[name](*args)

    return replay


RESHAPES = (aten.view.default, aten._unsafe_view.default)
SAME_NUMBERS = (*RESHAPES, aten.expand.default, aten.detach.default)
"""Operations that change nothing where they do not change the shape."""

VIEWS = (*SAME_NUMBERS, aten.transpose.int, aten.unsqueeze.default, aten.select.int)
"""Operations that name numbers anew; to do so twice is once too often."""


def simplify(graph: GraphModule) -> None:
    """Remove what batching leaves behind, half of all operations: products with 1, views that change nothing.

    No arithmetic is touched, so the bits stay the same.
    """
    named: dict[tuple[Any, ...], Node] = {}
    for node in graph.graph.nodes:
        if node.target in RESHAPES and source(node).target in RESHAPES:
            origin = source(source(node))
            if can_view(origin, node):
                node.args = (origin, node.args[1])
        if (same := unchanged_by(node)) is not None:
            node.replace_all_uses_with(same)
        elif node.target in VIEWS:
            first = named.setdefault((node.target, *map(hashable, node.args)), node)
            if first is not node:
                node.replace_all_uses_with(first)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def source(node: Node) -> Node:
    """Return what an operation is given first."""
    (first, *_rest) = node.all_input_nodes
    return first


def unchanged_by(node: Node) -> Node | None:
    """Return what an operation is given, where it returns just that."""
    if node.target is aten.mul.Scalar and node.args[1] == 1:
        return source(node)
    if node.target in SAME_NUMBERS and source(node).meta["val"].shape == node.meta["val"].shape:
        return source(node)
    if node.target is aten.permute.default and node.args[1] == sorted(node.args[1]):  # type: ignore[arg-type]
        return source(node)
    if node.target is aten.transpose.int and source(node).target is aten.transpose.int:
        return source(source(node)) if node.args[1:] == source(node).args[1:] else None
    return None


def can_view(source: Node, result: Node) -> bool:
    """Return whether a tensor can be seen in the shape of another without a copy."""
    try:
        source.meta["val"].view(result.meta["val"].shape)
    except RuntimeError:
        return False
    return True


def hashable(argument: Any) -> Any:
    """Return an operation's argument as something that a dict can look up."""
    return tuple(argument) if isinstance(argument, list) else argument


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
        return {name: torch.stack([value[name] for value in values]) for name in first}
    if isinstance(first, tuple):
        return tuple(stack([value[index] for value in values]) for index in range(len(first)))
    return torch.stack(list(values))

"""Ways to run functions of stacked tensors: recorded once and replayed, or network by network."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx


def unchanged(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function itself: the alternative to :func:`traced`."""
    return function


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Record a function's tensor operations at its first call, and replay just these from then on.

    ``vmap`` and ``grad`` decide anew at every call what each operation means; a trace has decided. The operations
    are the same ones in the same order, so the results have the same bits.

    Args:
        function: of tensors and containers of them, pure, whose course depends on no tensor's value; always called
            with the same shapes.
    """
    graph: GraphModule | None = None

    def replay(*args: Any) -> Any:
        nonlocal graph
        if graph is None:
            graph = make_fx(function)(*args)
            drop_products_with_one(graph)
        return graph(*args)

    return replay


def drop_products_with_one(graph: GraphModule) -> None:
    """Remove products with the number 1, which batched ``addmm`` leaves behind, and what nobody uses."""
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.mul.Scalar and node.args[1] == 1:
            node.replace_all_uses_with(node.args[0])
    graph.graph.eliminate_dead_code()
    graph.recompile()


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

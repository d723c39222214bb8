"""Tools of all passes: shapes of results, new nodes, replacing one node by another, dead-code elimination."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from gradbench.functional.torch_internals import tree_map_only
from gradbench.tracing.aliasing import source, written_by
from gradbench.tracing.tracer import CONSTANT_SIZE, like

aten = torch.ops.aten


def value(node: Node) -> Tensor:
    """Return a tensor on ``meta`` that has the shape, strides and type of a node's result."""
    shaped: Tensor = node.meta["val"]
    return shaped


def alike(one: Node, other: Node) -> bool:
    """Return whether two results have the same shape and type."""
    return (value(one).shape, value(one).dtype) == (value(other).shape, value(other).dtype)


def insert(before: Node, operation: Any, *args: Any, **kwargs: Any) -> Node:
    """Insert a new node before another, and return it."""
    with before.graph.inserting_before(before):
        node = before.graph.call_function(operation, args, kwargs)
    node.meta["val"] = infer(node)
    return node


def ones(shape: list[int], before: Node, device: str) -> Node:
    """Insert a tensor of ones before a node, of the type of that node's result."""
    dtype = value(before).dtype
    node = insert(before, aten.ones.default, shape, dtype=dtype, device=torch.device(device))
    if value(node).numel() <= CONSTANT_SIZE:
        node.meta["fixed"] = torch.ones(shape, dtype=dtype, device=device)
    return node


def infer(node: Node) -> Any:
    """Infer the shape, strides and type of a node's result by running it on zeros.

    On ``meta`` torch would import its compiler.
    """

    def zeros(given: Node) -> Any:
        return tree_map_only(
            Tensor,
            lambda shaped: torch.empty_strided(shaped.shape, shaped.stride(), dtype=shaped.dtype).zero_(),
            given.meta["val"],  # a list where a node has several results
        )

    result = node.target(*map_arg(node.args, zeros), **map_arg(node.kwargs, zeros))  # type: ignore[operator]
    return tree_map_only(Tensor, like, result)


def replace(node: Node, by: Node) -> None:
    """Use one node in the place of another. Where strides differ, :func:`repropagate` must follow."""
    differs = value(by).stride() != value(node).stride()
    by.meta["moved"] = differs or any(one.meta.get("moved", False) for one in (node, by))
    node.replace_all_uses_with(by)


def eliminate_dead_code(graph: Graph) -> None:
    """Remove operations whose results nobody uses, by torch's own pass; those that write to their inputs stay."""
    graph.eliminate_dead_code(
        is_impure_node=lambda node: node.op in ("placeholder", "output") or bool(written_by(node))
    )


def repropagate(graph: Graph) -> None:
    """Infer anew the strides of what follows a replaced node, and copy where a view of it is no longer possible."""
    for node in graph.nodes:
        if node.op != "call_function" or not any(given.meta.get("moved") for given in node.all_input_nodes):
            continue
        try:
            after = infer(node)
        except RuntimeError:  # torch's answer to a view that does not fit the strides
            copy = insert(node, aten.clone.default, source(node), memory_format=torch.contiguous_format)
            node.args = (copy, *node.args[1:])
            after = infer(node)
        same = isinstance(after, Tensor) and after.stride() == value(node).stride()
        node.meta["moved"] = node.meta.get("moved", False) or not same
        node.meta["val"] = after


# ---- shapes of operations that several passes look for ------------------------------------------------------


def is_concatenation(node: Node) -> bool:
    """Return whether an operation concatenates tensors along their first axis."""
    return node.target is aten.cat.default and node.args[1:] in ((), (0,))


def is_batch_transpose(node: Node) -> bool:
    """Return whether an operation transposes each matrix of a stack [K, m, n]."""
    if node.target is aten.permute.default:
        return bool(node.args[1] == [0, 2, 1])
    stack = node.target is aten.transpose.int and value(node).dim() == 3
    return stack and set(node.args[1:]) in ({1, 2}, {-1, -2})


def is_copy(node: Node) -> bool:
    """Return whether an operation copies its input into contiguous memory."""
    return node.target is aten.clone.default and value(node).is_contiguous()


def is_row_slice(node: Node) -> bool:
    """Return whether an operation takes consecutive rows of a tensor [K, ...]."""
    return bool(node.target is aten.slice.Tensor and len(node.args) == 4 and node.args[1] == 0)


def bounds(piece: Node) -> tuple[int, int]:
    """Return the first index of a slice along its axis, and the one behind its last."""
    axis: Any
    _whole, axis, *ends = piece.args
    start, stop, _step = slice(*ends).indices(value(source(piece)).shape[axis])
    return start, stop


def covers(whole: Node, pieces: list[Node]) -> bool:
    """Return whether row slices, in order, are all rows of a tensor."""
    if not all(is_row_slice(piece) and source(piece) is whole for piece in pieces):
        return False
    starts, stops = zip(*map(bounds, pieces), strict=True)
    return [*starts, len(value(whole))] == [0, *stops]

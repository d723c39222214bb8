"""Which operations write to memory they were given, which return views of it, and whose memory a tensor lies in."""

from collections.abc import Collection
from functools import cache
from typing import Any

import torch
from torch.fx import Graph, Node

from gradbench.functional.torch_internals import arguments_of, schema_of, tree_leaves

aten = torch.ops.aten

RESHAPES = (aten.view.default, aten._unsafe_view.default)
"""Operations that return a contiguous tensor's numbers in another shape. The second is a view, whatever it declares."""

UNDECLARED_VIEWS = (
    *RESHAPES,
    aten.unsafe_split.Tensor,
    aten.unsafe_split_with_sizes.default,
    aten.unsafe_chunk.default,
)
"""Operations that return views; most of them do not declare it."""

RUNNING_STATISTICS = ("running_mean", "running_var")
"""Arguments that normalisations update in training; several do not declare it."""

NO_UPDATE = ("backward", "functional", "no_training", "no_update")
"""Parts of the names of normalisations that only read them."""


@cache
def written_arguments(operation: Any) -> tuple[str, ...]:
    """Return the names of the arguments that an operation writes to."""
    schema = schema_of(operation)
    if schema is None:
        return ()
    if (
        operation is aten._fused_adam_.default
    ):  # declares gradients too, which it writes to only with a grad_scale
        return ("self", "exp_avgs", "exp_avg_sqs")
    declared = tuple(one.name for one in schema.arguments if one.alias_info and one.alias_info.is_write)
    names = {one.name for one in schema.arguments}
    silent = names.issuperset(RUNNING_STATISTICS) and not any(part in schema.name for part in NO_UPDATE)
    return declared or (RUNNING_STATISTICS if silent else ())


def writes(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the tensors, or nodes, that an operation writes to, of those that it is given."""
    names = written_arguments(operation)
    if not names:
        return []
    given = arguments_of(operation, args, kwargs)
    if given.get("training") is False:  # a normalisation that only reads its running statistics
        return []
    written = tree_leaves([given.get(name) for name in names])
    return [one for one in written if isinstance(one, torch.Tensor | Node)]


def written_by(node: Node) -> list[Node]:
    """Return the nodes whose results an operation writes to."""
    return writes(node.target, node.args, node.kwargs) if node.op == "call_function" else []


def is_view(node: Node) -> bool:
    """Return whether an operation returns memory that it was given; an item of several results counts as a view."""
    if node.op != "call_function":
        return False
    schema = schema_of(node.target)
    return schema is None or node.target in UNDECLARED_VIEWS or any(one.alias_info for one in schema.returns)


def source(node: Node) -> Node:
    """Return the first node that an operation is given."""
    (first, *_rest) = node.all_input_nodes
    return first


def origin(node: Node) -> Node:
    """Return the node that made the memory in which a node's result lies."""
    while is_view(node):
        node = (*written_by(node), source(node))[0]
    return node


def owners(graph: Graph, apart: Collection[Node] = ()) -> dict[Node, Node]:
    """Return for each node the one that made the memory in which its result lies.

    Args:
        graph: of these nodes.
        apart: views that count as owners of their own memory.
    """
    found: dict[Node, Node] = {}
    for node in graph.nodes:
        own = node in apart or not is_view(node)
        found[node] = node if own else found[(*written_by(node), source(node))[0]]
    return found


def touched(graph: Graph) -> set[Node]:
    """Return the nodes whose memory the traced function itself writes to, and those that read such memory.

    Passes leave them as they are: when they run matters.
    """
    targets = [given for node in graph.nodes for given in written_by(node)]
    if not targets:
        return set()
    owner = owners(graph)
    written = {owner[given] for given in targets}
    return {
        node
        for node in graph.nodes
        if written.intersection(owner[one] for one in (node, *node.all_input_nodes))
    }


def is_unchanged(earlier: Node, later: Node) -> bool:
    """Return whether the inputs of one node still hold the same numbers when a later node runs."""
    owner = owners(later.graph)
    read, ran = {owner[given] for given in earlier.all_input_nodes}, False
    for node in later.graph.nodes:
        if node is later:
            return True
        if ran and any(owner[given] in read for given in written_by(node)):
            return False
        ran = ran or node is earlier
    return True

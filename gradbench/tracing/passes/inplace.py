"""Buffers: write a result over an input that nothing reads later.

Gain: 1.09 (MLP, clipping; WGAN, gp). Valid as far as operations declare what they alias and write to.
"""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from gradbench.functional.torch_internals import schema_of, tree_flatten, tree_unflatten
from gradbench.tracing.aliasing import is_view, owners, source
from gradbench.tracing.passes.graph import (
    alike,
    bounds,
    covers,
    insert,
    is_concatenation,
    is_row_slice,
    value,
)

aten = torch.ops.aten

IN_PLACE = {
    aten.add.Tensor: aten.add_.Tensor,
    aten.addcmul.default: aten.addcmul_.default,
    aten.baddbmm.default: aten.baddbmm_.default,
    aten.div.Scalar: aten.div_.Scalar,
    aten.div.Tensor: aten.div_.Tensor,
    aten.exp.default: aten.exp_.default,
    aten.maximum.default: aten.maximum.out,
    aten.minimum.default: aten.minimum.out,
    aten.mul.Scalar: aten.mul_.Scalar,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.neg.default: aten.neg_.default,
    aten.relu.default: aten.relu_.default,
    aten.sigmoid.default: aten.sigmoid_.default,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.tanh.default: aten.tanh_.default,
    aten.threshold_backward.default: aten.threshold_backward.grad_input,
}
"""Operations whose result can be written over their first input."""

COMMUTATIVE = (aten.add.Tensor, aten.mul.Tensor)


def reuse_buffers(graph: Graph, donated: int) -> None:
    """Run operations in place where nothing reads an input's memory afterwards: neither the graph nor the caller.

    New memory costs a CPU page faults and a place in the cache. Cells of a stack that are clipped in different ways are
    rows of one gradient: each is written where it lies, and putting them together again takes no copy.

    Args:
        graph: the operations.
        donated: number of inputs, from the first, that the caller will not read again.
    """
    buffers = Buffers(graph, donated)
    for node in graph.nodes:
        if (whole := buffers.reassembled(node)) is not None:
            buffers.rejoin(node, whole)
            node.replace_all_uses_with(whole)
        if node.target is aten.clone.default and buffers.is_free(source(node), node):
            buffers.hand_over(source(node), node)
            node.replace_all_uses_with(source(node))
        if node.target not in IN_PLACE:
            continue
        if node.target is aten.baddbmm.default and node.args[0] in node.args[1:]:
            continue  # a product is not taken in the memory of one of its factors
        first, *rest = node.args
        commutes = node.target in COMMUTATIVE and not node.kwargs
        if commutes and buffers.is_free(rest[0], node) and not buffers.is_free(first, node):
            node.args = (rest[0], first)
        if buffers.is_free(node.args[0], node):
            given = node.args[0]
            node.target = IN_PLACE[node.target]
            out = {part.name: given for part in schema_of(node.target).arguments if part.is_out}
            node.kwargs = node.kwargs | out
            buffers.hand_over(given, node)


def separate_results(graph: Graph, donated: int) -> None:
    """Copy results that will be donated to the next call where others, or other inputs, lie in the same memory.

    Args:
        graph: the operations.
        donated: number of results, from the first, that will be donated; inputs of the same number are donated now.
    """
    owner, output = owners(graph), graph.output_node()
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    leaves, form = tree_flatten(output.args[0])
    lies_in = [owner[leaf] for leaf in leaves]
    for index in range(donated):
        memory = lies_in[index]
        foreign = memory.op == "get_attr" or (memory.op == "placeholder" and memory is not inputs[index])
        if foreign or lies_in.count(memory) > 1:
            leaves[index] = lies_in[index] = insert(output, aten.clone.default, leaves[index])
    output.args = (tree_unflatten(leaves, form),)


class Buffers:
    """Track which node's memory each result lies in, while a graph is made to run in place.

    Args:
        graph: the operations, all of whose writes are declared.
        donated: as of :func:`reuse_buffers`.
    """

    def __init__(self, graph: Graph, donated: int) -> None:
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        self.donated, self.pieces = set(inputs[:donated]), cut_into_rows(graph)
        pieces = {piece for several in self.pieces.values() for piece in several}
        self.owners = owners(graph, apart=pieces)
        self.position = {node: index for index, node in enumerate(graph.nodes)}
        self.last_reader = {
            self.owners[given]: node for node in graph.nodes for given in node.all_input_nodes
        }
        self.written_over: dict[Node, Node] = {}  # node -> the owner whose memory it has taken

    def owner(self, node: Node) -> Node:
        """Return the node that stands for the memory in which a node's result lies."""
        owner = self.owners[node]
        while owner in self.written_over:
            owner = self.written_over[owner]
        return owner

    def is_free(self, given: Any, node: Node) -> bool:
        """Return whether an operation may write its result over one of its inputs."""
        if not isinstance(given, Node):
            return False
        owner = self.owner(given)
        if owner.op != "call_function" and owner not in self.donated:
            return False
        whole = owner.meta.get("val")
        return (
            self.last_reader[owner] is node
            and isinstance(whole, Tensor)
            and not whole.is_complex()  # a copy may be there to conjugate
            and whole.numel() == value(given).numel()
            and all(tensor.is_contiguous() for tensor in (whole, value(given), value(node)))
            and alike(given, node)
            and all(other is given or self.owner(other) is not owner for other in node.all_input_nodes)
        )

    def hand_over(self, given: Node, node: Node) -> None:
        """Note that a node writes its result over one of its inputs."""
        owner = self.owner(given)
        self.last_reader[owner] = self.last_reader.get(node, node)
        self.written_over[node] = owner

    def reassembled(self, node: Node) -> Node | None:
        """Return the tensor that was cut into rows, where a node concatenates what was written over all of them."""
        if not is_concatenation(node):
            return None
        parts: Any = node.args[0]
        for whole, pieces in self.pieces.items():
            if [self.owner(part) for part in parts] == pieces and all(
                alike(part, piece) and value(part).is_contiguous()
                for part, piece in zip(parts, pieces, strict=True)
            ):
                return whole
        return None

    def rejoin(self, node: Node, whole: Node) -> None:
        """Note that memory cut into rows is one again: whoever reads any of it last is its last reader."""
        memories = (node, *self.pieces[whole])
        readers = [self.last_reader[memory] for memory in memories if memory in self.last_reader]
        self.last_reader[node] = max(readers, key=self.position.__getitem__)
        self.written_over.update(dict.fromkeys([whole, *self.pieces[whole]], node))


def cut_into_rows(graph: Graph) -> dict[Node, list[Node]]:
    """Return results [K, ...] that are read only as slices of rows, which cover them: result -> slices, in order."""
    found = {}
    for node in graph.nodes:
        pieces = list(node.users)
        if node.op == "call_function" and not is_view(node) and all(map(is_row_slice, pieces)):
            pieces.sort(key=bounds)
            if pieces and covers(node, pieces) and value(node).is_contiguous():
                found[node] = pieces
    return found

"""Matrix products: take each in the order of axes in which its result is read.

Gain: 1.18 (MLP, clipping). Valid up to rounding.
"""

import torch
from torch.fx import Graph, Node

from gradbench.tracing.aliasing import touched
from gradbench.tracing.passes.graph import insert, is_batch_transpose, is_copy, replace, value

aten = torch.ops.aten

NARROW = 16
"""Columns below which a CPU takes a product's transpose faster: for a last layer of few outputs several times."""


def transpose_matmuls(graph: Graph, device: str) -> None:
    """Replace a product that is transposed and copied by the product of the transposes: (a b)' = b' a', a copy less.

    On a CPU also a product of fewer than ``NARROW`` columns and more rows. A product of a column and a row, which sums
    nothing, becomes a multiplication.
    """
    fixed_in_time = touched(graph)
    for node in list(graph.nodes):
        if node.target is not aten.bmm.default or node in fixed_in_time:
            continue
        left, right = node.args
        readers = list(node.users)
        if value(left).shape[2] == 1:
            replace(node, insert(node, aten.mul.Tensor, left, right))
        elif (
            len(readers) == 1
            and is_batch_transpose(readers[0])
            and all(map(is_copy, readers[0].users))
            and fixed_in_time.isdisjoint(readers[0].users)
        ):
            transposed = insert(node, aten.bmm.default, *transposed_factors(node))
            for copy in list(readers[0].users):
                replace(copy, transposed)
        elif device == "cpu" and value(node).shape[2] < NARROW < value(node).shape[1]:
            transposed = insert(node, aten.bmm.default, *transposed_factors(node))
            replace(node, insert(node, aten.transpose.int, transposed, 1, 2))


def transposed_factors(product: Node) -> tuple[Node, Node]:
    """Insert the factors of a product's transpose before it, and return them."""
    left, right = (insert(product, aten.transpose.int, factor, 1, 2) for factor in product.args)
    return right, left

"""Biases: add what is added to a matrix product while the product is taken.

Gain: 1.03 (MLP, clipping). Valid up to rounding, where both have the same axes and nobody else reads the product.
"""

import torch
from torch.fx import Graph, Node

from gradbench.tracing.aliasing import RESHAPES, source, touched
from gradbench.tracing.passes.graph import alike, insert, is_batch_transpose, replace, value
from gradbench.tracing.passes.products import transposed_factors

aten = torch.ops.aten


def fuse_biases(graph: Graph, _device: str) -> None:
    """Replace a product [K, m, n] and an addition to it by ``baddbmm``, which saves a pass over the product.

    The product may be transposed or reshaped in between, but nobody else may read it.
    """
    fixed_in_time = touched(graph)
    for node in graph.nodes:
        if node.target is not aten.add.Tensor or node.kwargs or node in fixed_in_time:
            continue
        for term, bias in (node.args, reversed(node.args)):
            if isinstance(term, Node) and isinstance(bias, Node) and fuse(node, term, bias, fixed_in_time):
                break


def fuse(node: Node, term: Node, bias: Node, fixed_in_time: set[Node]) -> bool:
    """Fuse an addition, if one of its terms is a product; return whether it is."""
    transposed = is_batch_transpose(term)
    product = source(term) if transposed or term.target in RESHAPES else term
    if (
        product.target is not aten.bmm.default
        or not alike(term, node)
        or not len(product.users) == len(term.users) == 1
        or product in fixed_in_time
        or value(bias).dtype != value(node).dtype
        or (shape := as_bias(bias, term, term if transposed else product)) is None
    ):
        return False
    bias = insert(node, aten.view.default, bias, shape)
    if transposed or (term is product and all(map(is_batch_transpose, node.users))):
        factors = product.args if transposed else transposed_factors(product)
        bias = insert(node, aten.transpose.int, bias, 1, 2)
        fused = insert(node, aten.baddbmm.default, bias, *factors)
        replace(node, insert(node, aten.transpose.int, fused, 1, 2))
    else:
        fused = insert(node, aten.baddbmm.default, bias, *product.args)
        replace(node, insert(node, aten.view.default, fused, list(value(node).shape)))
    return True


def as_bias(bias: Node, term: Node, product: Node) -> list[int] | None:
    """Return the shape in which a tensor can be added to a product [K, m, n]; ``None`` where no view of it can be.

    Args:
        bias: the tensor.
        term: the product, possibly reshaped, to which it is added.
        product: [K, m, n].
    """
    K, m, n = value(product).shape
    shape, sum_shape = list(value(bias).shape), list(value(term).shape)
    if len(shape) != len(sum_shape) or (sum_shape[0], sum_shape[-1]) != (K, n):
        return None  # its axes are not those of the product
    if value(bias).is_contiguous():
        if shape[0] == K and shape[-1] == n and set(shape[1:-1]) == {1}:
            return [K, 1, n]
        if shape == sum_shape:
            return [K, m, n]
    return shape if sum_shape == [K, m, n] else None

"""Scaling: clip by norm without a pass over the gradient.

|s g| = |s| |g|, and p + r (s g) = p + (r s) g: where a vector is scaled, its norm and a step along it need not wait for
the scaled vector, which then nobody reads.

Gain: 1.07 (MLP, clip_norm). Valid up to rounding, where nothing writes to the vectors in between.
"""

from typing import Any

import torch
from torch.fx import Graph, Node

from gradbench.tracing.aliasing import is_unchanged, source, touched
from gradbench.tracing.passes.graph import alike, insert, is_concatenation, ones, replace, value

aten = torch.ops.aten


def hoist_scaling(graph: Graph, device: str) -> None:
    """Rewrite norm(s g) as abs(s) norm(g), and addcmul(p, r, s g) as addcmul(p, r s, g).

    Factors s and rates r are [K, 1], vectors g and p are [K, P]. Also norm((p + r g) - p) as abs(r) norm(g): the length
    of the step as it was meant. By rounding the parameters may hold less of it: where r g is below half of p's last
    bit, p does not move. Where p is infinite there is no step, and its cell has diverged.
    """
    fixed_in_time = touched(graph)
    for node in list(graph.nodes):
        if node in fixed_in_time:
            continue
        if is_row_norm(node):
            replace(node, norm_before(node, source(node)))
        elif node.target is aten.addcmul.default and (
            scaled := scaled_vectors(node.args[2], node) or scaled_parts(node.args[2], node, device)
        ):
            vectors, factors = scaled
            rates = node.args[1]
            if alike(rates, factors):
                node.args = (node.args[0], insert(node, aten.mul.Tensor, rates, factors), vectors)


def is_row_norm(node: Node) -> bool:
    """Return whether an operation takes the norm of each of some vectors [K, P]."""
    if node.target is not aten.linalg_vector_norm.default or node.kwargs or value(source(node)).dim() != 2:
        return False
    order, *axes = node.args[1:]
    return bool(order != 0 and axes == [[1]] and value(source(node)).dtype == value(node).dtype)


def norm_before(node: Node, vectors: Node) -> Node:
    """Insert the norms of vectors [K, P] before a node, from the norms of what the vectors were made of."""
    if scaled := scaled_vectors(vectors, node) or meant_step(vectors, node):
        vectors, factors = scaled
        size = insert(node, aten.abs.default, insert(node, aten.select.int, factors, 1, 0))
        return insert(node, aten.mul.Tensor, norm_before(node, vectors), size)
    parts: Any = vectors.args[0] if is_concatenation(vectors) else ()
    same_type = all(value(part).dtype == value(vectors).dtype for part in parts)
    if parts and same_type and is_unchanged(vectors, node):
        return insert(node, aten.cat.default, [norm_before(node, part) for part in parts])
    return insert(node, aten.linalg_vector_norm.default, vectors, *node.args[1:])


def meant_step(vectors: Node, node: Node) -> tuple[Node, Node] | None:
    """Return g and r, where what a node is given is (p ± r g) - p."""
    if vectors.target is not aten.sub.Tensor or vectors.kwargs or not is_unchanged(vectors, node):
        return None
    there, here = vectors.args
    if (
        not isinstance(there, Node)
        or there.target is not aten.addcmul.default
        or not is_unchanged(there, node)
    ):
        return None
    rate: Any
    vector: Any
    start, rate, vector = there.args
    plain = start is here and there.kwargs.get("value", 1) in (1, -1)
    return (vector, rate) if plain and alike(vector, vectors) and value(rate).shape[1:] == (1,) else None


def scaled_vectors(vectors: Any, node: Node) -> tuple[Node, Node] | None:
    """Return vectors [K, P] and factors [K, 1], where what a node is given is their product."""
    if (
        not isinstance(vectors, Node)
        or vectors.target is not aten.mul.Tensor
        or not is_unchanged(vectors, node)
    ):
        return None
    vector, factor = vectors.args
    if not isinstance(vector, Node) or not isinstance(factor, Node) or value(vector).dim() != 2:
        return None
    if value(vector).dtype != value(factor).dtype:
        return None
    K, _P = value(vector).shape
    return (vector, factor) if value(factor).shape == (K, 1) else None


def scaled_parts(vectors: Any, node: Node, device: str) -> tuple[Node, Node] | None:
    """Return vectors [K, P] and factors [K, 1], where what a node is given is concatenated of products and others."""
    if not isinstance(vectors, Node) or not is_concatenation(vectors) or not is_unchanged(vectors, node):
        return None
    parts: Any = vectors.args[0]
    products = [scaled_vectors(part, node) for part in parts]
    if not any(products) or any(value(part).dim() != 2 for part in parts):
        return None
    plain, factors = [], []
    for part, product in zip(parts, products, strict=True):
        vector, factor = product or (part, ones([len(value(part)), 1], part, device))
        plain.append(vector)
        factors.append(factor)
    return insert(node, aten.cat.default, plain), insert(node, aten.cat.default, factors)

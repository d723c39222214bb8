"""Alignment: compute each cell of a stack by the same instructions, wherever it lies and however wide the stack is.

A CPU's kernels take other instructions for a matrix that does not begin at a multiple of 16 bytes, and for the last
few numbers of a tensor: which cells that concerns depends on the stack. A last bit that differs there grows.

It takes up to 3 % of a step (MLP, gp). Valid up to rounding.
"""

import math
from typing import Any

import torch
from torch.fx import Graph, Node

from gradbench.tracing.aliasing import origin, source, touched
from gradbench.tracing.passes.graph import insert, is_batch_transpose, replace, repropagate, value
from gradbench.tracing.passes.products import NARROW

aten = torch.ops.aten

ALIGNMENT = 16
"""Bytes: MKL's kernels depend on whether factors and results begin at multiples of them (tried in float32 and float64,
all layouts, up to 64 rows and columns)."""

TWO_VECTORS = 128
"""Bytes of two vectors of AVX-512: the numbers that torch's kernels handle at a time."""

TAILS_DIFFER = (
    aten.elu.default,
    aten.elu_backward.default,
    aten.gelu.default,
    aten.gelu_backward.default,
    aten.sigmoid.default,
)
"""Operations on single numbers whose last few, which fill no two vectors, may have another last bit."""

ALIKE_IN_FLOAT32 = (aten.gelu.default, aten.gelu_backward.default)
"""Those of ``TAILS_DIFFER`` that oneDNN computes in float32, all numbers alike."""


def align_cells(graph: Graph, device: str) -> None:
    """Give each cell's part of a factor or a result memory that begins at a multiple of ``ALIGNMENT`` bytes.

    On a CPU only. What is given to ``TAILS_DIFFER`` is spread out, so that each cell has its own last few numbers. A
    product with a vector is taken twice in a stack of one cell, where torch would call another kernel.
    """
    if device != "cpu":
        return
    repropagate(graph)
    fixed_in_time = touched(graph)
    copies: dict[Node, Node] = {}
    for node in list(graph.nodes):
        if node in fixed_in_time:
            continue
        if node.target in (aten.bmm.default, aten.baddbmm.default) and not node.kwargs:
            align_product(node, copies)
        elif has_own_tail(node) and bytes_of(node) % TWO_VECTORS:
            first, *rest = node.args
            call_with(node, [spread(node, first, TWO_VECTORS), *rest], twice=len(value(node)) == 1)


def has_own_tail(node: Node) -> bool:
    """Return whether the last few numbers of an operation's result may differ from what they would be elsewhere."""
    if node.target not in TAILS_DIFFER or value(node).dim() == 0 or value(node).numel() == 0:
        return False
    return not (node.target in ALIKE_IN_FLOAT32 and value(node).dtype == torch.float32)


def align_product(node: Node, copies: dict[Node, Node]) -> None:
    """Align the factors of a product [K, m, n] where it sums along memory, elsewhere its result.

    Args:
        node: the product, with a bias or without.
        copies: factor -> its aligned copy; is added to.
    """
    shape, size = list(value(node).shape), value(node).element_size()
    bias: list[Any]
    left: Any
    right: Any
    *bias, left, right = node.args
    single = value(node).dtype != torch.float64
    if single and min(shape[1:]) >= NARROW:
        return
    if is_transposed(right):
        if not (single and is_transposed(left)):
            left, right = (align_factor(node, factor, copies) for factor in (left, right))
    elif shape[2] > 1 and bytes_of(node) % ALIGNMENT:  # more rows, of zeros
        rows = -shape[1] % (ALIGNMENT // size)
        *bias, left = (  # a bias of one row is that of all
            insert(node, aten.constant_pad_nd.default, part, [0, 0, 0, rows])
            if value(part).shape[1] == shape[1]
            else part
            for part in (*bias, left)
        )
    given, twice = [*bias, left, right], shape[0] == 1 and 1 in shape[1:]
    if twice or given != list(node.args):
        call_with(node, given, twice)


def call_with(node: Node, given: list[Any], twice: bool) -> None:
    """Replace an operation by the same on other arguments, whose result may have more rows.

    Args:
        node: the operation.
        given: its new arguments.
        twice: compute a stack's only cell twice, as torch takes another kernel for one than for several.
    """
    shape = list(value(node).shape)
    if twice:
        given = [
            insert(node, aten.expand.default, part, [2, *value(part).shape[1:]])
            if isinstance(part, Node)
            else part
            for part in given
        ]
    result = insert(node, node.target, *given)
    if twice:
        result = insert(node, aten.slice.Tensor, result, 0, 0, 1)
    if list(value(result).shape) != shape:
        result = first_numbers(node, result, shape)
    replace(node, result)


def is_transposed(factor: Node) -> bool:
    """Return whether torch hands a factor [K, m, n] to MKL as a transposed one."""
    _, m, _ = value(factor).shape
    _, down, along = value(factor).stride()
    return down == 1 and along >= m


def align_factor(product: Node, factor: Node, copies: dict[Node, Node]) -> Node:
    """Return a factor [K, m, n], or an aligned copy of it where some cell's is not aligned."""
    matrix = source(factor) if is_batch_transpose(factor) else factor
    if is_aligned(matrix):
        return factor
    if matrix not in copies:
        copies[matrix] = spread(product, matrix, ALIGNMENT)
    copy = copies[matrix]
    return copy if matrix is factor else insert(product, aten.transpose.int, copy, 1, 2)


def is_aligned(stack: Node) -> bool:
    """Return whether each cell's matrix is aligned as the first one's; the answer is the same for every K."""
    K, size = len(value(stack)), value(stack).element_size()
    owner = origin(stack).meta.get("val")  # none of an operation with several results
    shares = [bytes_of(stack)]
    if isinstance(owner, torch.Tensor):
        shares.append(owner.numel() * owner.element_size() // K)
    strides = (value(stack).stride(0) * size,) if K > 1 else ()
    return not any(share % ALIGNMENT for share in (*shares, *strides))


def bytes_of(stack: Node) -> int:
    """Return the number of bytes of one cell's part of a result [K, ...]."""
    return value(stack)[0].numel() * value(stack).element_size()


def spread(node: Node, stack: Node, multiple: int) -> Node:
    """Insert a copy of a tensor [K, ...] in which each cell's part begins at a multiple of some bytes."""
    shape = list(value(stack).shape)
    whole = insert(node, aten.clone.default, stack, memory_format=torch.contiguous_format)
    gap = -bytes_of(stack) % multiple // value(stack).element_size()
    if not gap:
        return whole
    flat = insert(node, aten.view.default, whole, [shape[0], -1])
    return first_numbers(node, insert(node, aten.constant_pad_nd.default, flat, [0, gap]), shape)


def first_numbers(node: Node, stack: Node, shape: list[int]) -> Node:
    """Insert a view of the first numbers of each cell's part of a contiguous tensor [K, ...], in a given shape."""
    count = math.prod(shape[1:])
    flat = insert(node, aten.view.default, stack, [shape[0], -1])
    return insert(node, aten.view.default, insert(node, aten.slice.Tensor, flat, 1, 0, count), shape)

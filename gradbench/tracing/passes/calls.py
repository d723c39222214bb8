"""Calls: call each operation by the shortest way into torch.

Gain: 1.14 (MLP, clip_norm). Valid where a method has the name of its operation, and torch picks the overload by the
arguments.
"""

from types import BuiltinFunctionType, MethodDescriptorType
from typing import Any

import torch
from torch.fx import Graph, Node

from gradbench.functional.torch_internals import schema_of
from gradbench.tracing.aliasing import RESHAPES, source
from gradbench.tracing.passes.graph import bounds, value

aten = torch.ops.aten


def call_methods(graph: Graph, _device: str) -> None:
    """Call each operation as a tensor's method, or as torch's function, where there is one: 1 to 2 µs less each.

    torch finds the same overload for the same arguments. No pass can follow, since none knows methods.
    """
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if (method := method_of(node)) is not None:
            node.op, (node.target, node.args, node.kwargs) = "call_method", method
            continue
        schema = schema_of(node.target)
        if schema is None or any("Tensor?[]" in str(part.type) for part in schema.arguments):
            continue  # lists in which a tensor may be missing only operations take
        name = schema.name.removeprefix("aten::")
        method, function = getattr(torch.Tensor, name, None), getattr(torch, name, None)
        if name.startswith("linalg_"):
            function = getattr(torch.linalg, name.removeprefix("linalg_"), None)
        first, *rest = schema.arguments
        of_tensor = (
            first.name == "self" and str(first.type) == "Tensor" and not any(one.is_out for one in rest)
        )
        if of_tensor and isinstance(method, MethodDescriptorType):
            node.op, node.target = "call_method", name
        elif isinstance(function, BuiltinFunctionType):
            node.target = function


def method_of(node: Node) -> tuple[str, tuple[Any, ...], dict[str, Any]] | None:
    """Return a method of another name that does what an operation does, and its arguments; ``None`` without one."""
    if node.target in RESHAPES:
        return "view", node.args, {}
    if node.target is aten.slice.Tensor and len(node.args) == 4:
        start, stop = bounds(node)
        return "narrow", (*node.args[:2], start, max(stop - start, 0)), {}
    if node.target is aten.split.Tensor:
        size: Any
        axis: Any
        size, axis = (*node.args[1:], 0)[:2]
        sizes = [part.shape[axis] for part in torch.split(value(source(node)), size, axis)]
        return "split_with_sizes", (source(node), sizes, axis), {}
    if (
        node.target is aten._to_copy.default
        and node.all_input_nodes
        and value(node).dtype != value(source(node)).dtype  # else it would be no copy
        and node.kwargs.keys() <= {"dtype", "device", "layout"}
    ):
        return "to", node.args, {name: node.kwargs[name] for name in node.kwargs if name != "layout"}
    return None

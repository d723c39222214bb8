"""A function's tensor operations, written down while it runs."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import (
    keystr,
    tree_flatten,
    tree_flatten_with_path,
    tree_map,
    tree_unflatten,
)
from torch.utils.weak import WeakIdKeyDictionary

aten = torch.ops.aten

COPY, LIFT = aten.clone.default, aten.lift_fresh.default

SHAPED = (aten.full_like.default, aten.new_zeros.default, aten.ones_like.default, aten.zeros_like.default)
"""Operations that return the same for all tensors of a shape."""

LARGEST = 2**11
"""Numbers in a constant that is kept, at most: more of them are filled in as fast as they are read."""


@dataclass(frozen=True)
class Recording:
    """A function's operations, without the function.

    Attributes:
        graph: the operations; it takes the tensors of the arguments one by one, and returns the result.
        constants: tensors that it reads, by name.
        dense: returns the tensors of arguments of the same form, each contiguous: the graph relies on the strides that
            it was recorded with.
    """

    graph: Graph
    constants: dict[str, Tensor]
    dense: Callable[[tuple[Any, ...]], list[Tensor]]

    @cached_property
    def module(self) -> GraphModule:
        """The graph as a program, made when it is first run: what changes the graph afterwards is not in it."""
        module = GraphModule(self.constants, self.graph)
        # found at once there; a module's own search takes a microsecond
        vars(module).update(module.named_buffers())
        return module

    def __call__(self, *args: Any) -> Any:
        """Return what the function would, for tensors of the same shapes."""
        return self.module.forward(*self.dense(args))


def reader(args: tuple[Any, ...]) -> Callable[[tuple[Any, ...]], list[Tensor]]:
    """Return what takes the tensors out of containers like these, several times as fast as any walk through them."""
    paths, _ = tree_flatten_with_path(args)
    items = ", ".join(f"args{keystr(path)}.contiguous()" for path, _ in paths)
    read: Callable[[tuple[Any, ...]], list[Tensor]] = eval(f"lambda args: [{items}]")
    return read


def record(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, Recording]:
    """Run a function of tensors and containers of them, all contiguous; return its result and its operations."""
    leaves, form = tree_flatten(args)
    inputs = [leaf.detach() for leaf in leaves]  # one of its own for an argument that is given twice
    with Tape(inputs) as tape:
        result = function(*tree_unflatten(inputs, form))
    tape.graph.output(tree_map(tape.node_of, result))
    return result, Recording(tape.graph, tape.constants, reader(args))


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own is not annotated
    """Appends every operation that runs while it is active to a graph, whatever ``vmap`` and ``grad`` stand above.

    It does what ``torch.fx``'s ``make_fx`` does for tensors that are there, without a symbolic double of each: that
    takes a tenth of the time. A node's ``meta["val"]`` has its result's shape, strides and type, on ``meta``.

    Args:
        inputs: the tensors that the operations are a function of; any other is a constant of theirs.
    """

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = Graph()
        self.constants: dict[str, Tensor] = {}
        self.nodes: Any = WeakIdKeyDictionary()
        for index, tensor in enumerate(inputs):
            self.write(tensor, self.graph.placeholder(f"input_{index}"))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is compiled; to say so would import the compiler."""
        return False

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and write it down.

        Raises:
            RuntimeError: where a value is read.
        """
        given: Any = map_aggregate((args, kwargs or {}), self.given)
        result = operation(*args, **(kwargs or {}))
        # a constant is copied: what changes it in place must not change it for the next replay
        node = self.graph.call_function(COPY if operation is LIFT else operation, *given)
        if isinstance(result, Tensor):
            self.write(result, node)
            if is_fixed(node) and result.numel() <= LARGEST:
                node.meta["fixed"] = result
        elif isinstance(result, tuple | list):
            for index, part in enumerate(result):
                self.write(part, self.graph.call_function(operator.getitem, (node, index)))
        elif operation._schema.returns:  # else it has only written
            raise RuntimeError(f"what {operation} reads, {result}, may be another value at the next call")
        return result

    def write(self, tensor: Tensor, node: Node) -> None:
        """Take down which node a tensor comes from."""
        self.nodes[tensor] = node
        node.meta["val"] = shape_of(tensor)

    def given(self, argument: Any) -> Any:
        """Return an argument as a graph has it."""
        return self.node_of(argument) if isinstance(argument, Tensor) else argument

    def node_of(self, tensor: Tensor) -> Node:
        """Return the node that a tensor comes from."""
        if tensor not in self.nodes:
            name = f"constant_{len(self.constants)}"
            self.constants[name] = tensor.clone()  # what it is now; it may be changed in place
            self.write(tensor, self.graph.get_attr(name))
        node: Node = self.nodes[tensor]
        return node


def is_fixed(node: Node) -> bool:
    """Return whether an operation always returns the same."""
    if torch.Tag.nondeterministic_seeded in node.target.tags:  # type: ignore[union-attr]
        return False
    return node.target in SHAPED or all("fixed" in given.meta for given in node.all_input_nodes)


def shape_of(tensor: Tensor) -> Tensor:
    """Return a tensor on ``meta`` of the same shape, strides and type."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

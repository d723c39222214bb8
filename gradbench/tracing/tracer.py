"""Trace a function: run it once and write down the operations on tensors that it comes down to.

It does what ``torch.fx.experimental.proxy_tensor.make_fx`` does for tensors that hold numbers, without a symbolic
double of each of them: in a tenth of the time.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode

from gradbench.functional.noise import draws
from gradbench.functional.torch_internals import (
    DispatchMode,
    WeakIdKeyDictionary,
    keystr,
    tree_flatten,
    tree_flatten_with_path,
    tree_map,
    tree_unflatten,
)
from gradbench.tracing.aliasing import origin, writes

aten = torch.ops.aten

COPY, LIFT = aten.clone.default, aten.lift_fresh.default

SAME_FOR_A_SHAPE = (
    aten.full_like.default,
    aten.new_zeros.default,
    aten.ones_like.default,
    aten.zeros_like.default,
)
"""Operations whose result depends on their input's shape alone."""

CONSTANT_SIZE = 2**11
"""Largest number of elements of a result that is kept as a constant; filling in more takes no longer than reading."""


class UntraceableError(RuntimeError):
    """A function does what a replay of its operations could not do again. The message names the operation."""


@dataclass(frozen=True)
class Trace:
    """The operations of a function, without the function.

    Attributes:
        graph: the operations; it takes the tensors of the arguments one by one, and returns the result. The
            ``meta["val"]`` of a node is a tensor on ``meta`` of its result's shape, strides and type.
        constants: tensors that it reads, by name.
        flatten: returns the tensors in arguments of the same form, each contiguous: the graph relies on the strides
            that it was traced with.
    """

    graph: Graph
    constants: dict[str, Tensor]
    flatten: Callable[[tuple[Any, ...]], list[Tensor]]

    @cached_property
    def module(self) -> GraphModule:
        """The graph as a program, made when it is first run: later changes of the graph are not in it."""
        module = GraphModule(self.constants, self.graph)
        # as attributes they are found at once; a module's own search takes a microsecond each
        vars(module).update(module.named_buffers())
        return module

    def __call__(self, *args: Any) -> Any:
        """Replay the function for tensors of the same shapes, and return its result."""
        return self.module.forward(*self.flatten(args))


def trace(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, Trace]:
    """Run a function of contiguous tensors, and containers of them; return its result and its trace.

    Raises:
        UntraceableError: where it reads a tensor's value, returns as many elements as values decide, draws random
            numbers, or writes to a tensor that is neither an argument nor made by it.
    """
    leaves, form = tree_flatten(args)
    inputs = [leaf.detach() for leaf in leaves]  # a tensor of its own for an argument that is given twice
    with Readers(), Tracer(inputs) as tracer:
        result = function(*tree_unflatten(inputs, form))
    tracer.check_constants()
    tracer.graph.output(tree_map(tracer.node_of, result))
    return result, Trace(tracer.graph, tracer.constants, flatten_like(args))


def flatten_like(args: tuple[Any, ...]) -> Callable[[tuple[Any, ...]], list[Tensor]]:
    """Return a function that takes the tensors out of containers like these, much faster than a walk through them."""
    paths, _ = tree_flatten_with_path(args)
    items = ", ".join(f"args{keystr(path)}.contiguous()" for path, _ in paths)
    flatten: Callable[[tuple[Any, ...]], list[Tensor]] = eval(f"lambda args: [{items}]")
    return flatten


class Tracer(DispatchMode):
    """Append every operation that runs while it is active to a graph, below ``vmap`` and ``autograd``.

    Args:
        inputs: the tensors that the operations are a function of; any other tensor is a constant.
    """

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()
        self.graph = Graph()
        self.constants: dict[str, Tensor] = {}
        self.originals: dict[Any, Tensor] = {}
        self.nodes: Any = WeakIdKeyDictionary()
        for index, tensor in enumerate(inputs):
            node = self.graph.placeholder(f"input_{index}")
            node.meta["constant"] = False
            self.register(tensor, node)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and append it."""
        kwargs = kwargs or {}
        if draws(operation, args, kwargs):
            raise UntraceableError(
                f"{operation} draws random numbers inside a training step, from a generator that all cells share; "
                "a cell's numbers come from its own seed: draw them in the model's `draw`, or by dropout, torch.rand, "
                "randn, bernoulli, randint and their like"
            )
        if has_unknown_size(operation, args):
            raise UntraceableError(reads(str(operation), "to know how many elements there are"))
        given: Any = map_aggregate((args, kwargs), self.given)
        if operation is LIFT:  # of a literal, which is new at each call and may be written to
            self.originals.pop(self.node_of(args[0]).target, None)
        for tensor in writes(operation, args, kwargs):
            if origin(self.node_of(tensor)).op == "get_attr":
                raise UntraceableError(outside(str(operation)))
        result = operation(*args, **kwargs)
        # a constant is copied: an in-place change must not last until the next replay
        node = self.graph.call_function(COPY if operation is LIFT else operation, *given)
        node.meta["constant"] = all(one.meta["constant"] for one in node.all_input_nodes)
        if isinstance(result, Tensor):
            self.register(result, node)
            if is_fixed(node) and result.numel() <= CONSTANT_SIZE:
                node.meta["fixed"] = result
        elif isinstance(result, tuple | list):
            for index, part in enumerate(result):
                if isinstance(part, Tensor):  # None: a gradient that nobody asked for
                    item = self.graph.call_function(operator.getitem, (node, index))
                    item.meta["constant"] = node.meta["constant"]
                    self.register(part, item)
        elif result is not None:
            if not node.meta["constant"]:
                raise UntraceableError(reads(str(operation), str(result)))
            self.graph.erase_node(node)  # a constant's value is the same at each replay
        return result

    def register(self, tensor: Tensor, node: Node) -> None:
        """Remember which node a tensor comes from."""
        self.nodes[tensor] = node
        node.meta["val"] = like(tensor)

    def given(self, argument: Any) -> Any:
        """Return an argument as the graph has it: a node for a tensor."""
        return self.node_of(argument) if isinstance(argument, Tensor) else argument

    def node_of(self, tensor: Tensor) -> Node:
        """Return the node that a tensor comes from; a new constant's for a tensor seen for the first time."""
        if tensor not in self.nodes:
            name = f"constant_{len(self.constants)}"
            self.originals[name], self.constants[name] = tensor, tensor.clone()
            constant = self.graph.get_attr(name)
            constant.meta["constant"] = True
            self.register(tensor, constant)
        node: Node = self.nodes[tensor]
        return node

    def check_constants(self) -> None:
        """Refuse a function that has changed a constant: by an operation that does not declare what it writes to.

        Raises:
            UntraceableError: where a constant is not what it was.
        """
        for name, after in self.originals.items():
            before = self.constants[name]
            if not after.is_meta and not torch.equal(after.nan_to_num(), before.nan_to_num()):
                raise UntraceableError(outside("an operation"))


class Readers(TorchFunctionMode):
    """Refuse to read tensors' values past the dispatcher, where a :class:`Tracer` cannot see it."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function, unless it reads values."""
        if func in (Tensor.tolist, Tensor.numpy, Tensor.__array__):
            raise UntraceableError(reads(f"Tensor.{func.__name__}", "all of it"))
        return func(*args, **(kwargs or {}))


def has_unknown_size(operation: Any, args: tuple[Any, ...]) -> bool:
    """Return whether values decide how many elements an operation returns, as they do where a mask picks them."""
    if operation is aten.index.Tensor:
        masks = (torch.bool, torch.uint8)
        return any(isinstance(index, Tensor) and index.dtype in masks for index in args[1])
    return torch.Tag.dynamic_output_shape in operation.tags


def reads(operation: str, what: str) -> str:
    """Return the message about an operation whose result, or its shape, is not the same at each replay."""
    return (
        f"{operation} reads a tensor's value ({what}), which may be another one at the next step; a training step and "
        "an evaluation must not depend on values: use torch.where or a mask for .item(), if and x[mask]"
    )


def outside(operation: str) -> str:
    """Return the message about an operation that writes where a replay would not."""
    return (
        f"{operation} writes to a tensor that is no input of the training step, such as a plain attribute of a "
        "module; all cells of a stack would share it: register it as a buffer"
    )


def is_fixed(node: Node) -> bool:
    """Return whether an operation always returns the same."""
    return node.target in SAME_FOR_A_SHAPE or all("fixed" in given.meta for given in node.all_input_nodes)


def like(tensor: Tensor) -> Tensor:
    """Return a tensor on ``meta`` of the same shape, strides and type."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

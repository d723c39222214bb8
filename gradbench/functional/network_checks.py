"""Refuse networks of the user's own that would give wrong numbers without a word: what two calls of one show.

A stack of cells shares one module, and calls it with each cell's tensors: what a module keeps anywhere else would be
shared by all cells, and lost when a run is resumed.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradbench.errors import UsageError
from gradbench.functional.flat_params import Layout, Network, flatten
from gradbench.functional.noise import CounterNoise
from gradbench.functional.torch_internals import tree_leaves

WRAPPERS = {
    "DataParallel": "gradbench itself fills devices: give the module that it wraps",
    "DistributedDataParallel": "gradbench itself fills devices: give the module that it wraps",
    "OptimizedModule": "gradbench traces a step itself: leave out torch.compile",
    "ScriptModule": "its code cannot be called with other tensors: leave out torch.jit",
}
"""Class -> why a network may not contain it, and what to do."""


def refuse_unfit(network: nn.Module) -> None:
    """Refuse a new network whose parameters cannot be trained as those of other cells are.

    Raises:
        UsageError: saying why, and what to write instead; without the network's name.
    """
    for module in network.modules():
        for kind in type(module).__mro__:
            if kind.__name__ in WRAPPERS and kind.__module__.startswith("torch."):
                raise UsageError(f"has a {kind.__name__}; {WRAPPERS[kind.__name__]}")
    for name, parameter in network.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise UsageError(
                f"does not know the shape of its parameter {name} before it is called; give the layer its size, or "
                "call the network once in its constructor"
            )
        if parameter.requires_grad and parameter.dtype != torch.float32:
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise UsageError(
                f"has a parameter {name} of {dtype}, and all parameters of a cell are of one type; leave it float32, "
                "and type precision=float64 for a finer one"
            )
    parameters = list(network.parameters())
    if not any(parameter.requires_grad for parameter in parameters):
        why = "all of its parameters have requires_grad=False" if parameters else "it has no parameters"
        raise UsageError(f"has nothing to train: {why}")


def call_twice(network: nn.Module, inputs: tuple[Tensor, ...], further: dict[str, Any]) -> Any:
    """Call a network twice in training and once in evaluation mode with the same tensors; return the first outputs.

    Args:
        network: it keeps its tensors; what it writes to buffers is dropped.
        inputs: and ``further``: what it is called with.

    Raises:
        UsageError: if anything but its outputs and buffers changes, or if the second outputs differ from the first;
            without the network's name.
        Exception: whatever it raises.
    """
    layout, vector = Layout(network), flatten(network)
    before, given = vector.clone(), [one.clone() for one in inputs]
    attributes, modes = plain_attributes(network), {module: module.training for module in network.modules()}
    first = call(layout.bind(vector), inputs, further)
    if new := {name for name, _ in network.named_parameters()} - layout.shapes.keys() - layout.frozen:
        raise UsageError(
            f"makes its parameter {', '.join(sorted(new))} when it is called; make it in __init__"
        )
    if not torch.equal(before, vector):
        raise UsageError(
            "writes to its own parameters when it is called, and only an optimizer may; keep what changes in a "
            "buffer: self.register_buffer(…)"
        )
    if not all(map(torch.equal, given, inputs)):
        raise UsageError("changes its inputs in place; write x = x * 0.5 instead of x.mul_(0.5) and its like")
    if any(module.training != mode for module, mode in modes.items()):
        raise UsageError(
            "calls train() or eval() of its own; gradbench does, before training and before evaluations"
        )
    for place, value in plain_attributes(network).items():
        if place in attributes and is_changed(attributes[place], value):
            raise UsageError(
                f"keeps something in its attribute {place} from call to call: all cells would share it, and a "
                f"kill would lose it; make it a buffer: self.register_buffer('{place.rpartition('.')[2]}', …)"
            )
    again = call(layout.bind(vector), inputs, further)
    if not all(map(is_same, tree_leaves(first), tree_leaves(again))):
        raise UsageError(
            "gives other outputs when it is called again with the same inputs, weights and seed: it draws "
            "random numbers that are not torch's, or keeps something outside of its buffers; use torch.rand and its "
            "like, and self.register_buffer(…)"
        )
    with evaluating(network):
        call(layout.bind(vector), inputs, further)
    return first


def call(network: Network, inputs: tuple[Tensor, ...], further: dict[str, Any]) -> Any:
    """Call a network; its random numbers are the same at each call."""
    with CounterNoise(torch.zeros((), dtype=torch.int64, device=inputs[0].device)):
        return network(*inputs, **further)


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode for a block."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def plain_attributes(network: nn.Module) -> dict[str, Any]:
    """Return what modules keep beside parameters, buffers and modules that a call could change: numbers and tensors."""
    return {
        f"{path}.{name}" if path else name: value
        for path, module in network.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str | Tensor)
    }


def is_changed(before: Any, after: Any) -> bool:
    """Return whether an attribute has another value."""
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        return not is_same(before, after)
    return type(before) is not type(after) or before != after


def is_same(one: Any, other: Any) -> bool:
    """Return whether outputs are the same, but for the order of sums."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return type(one) is type(other)
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)


# ---- two networks, and derivatives ---------------------------------------------------------------------------


def refuse_unseeded(net: nn.Module, again: nn.Module) -> None:
    """Refuse a network whose weights differ although the seed is the same: treatments could not be compared.

    Raises:
        UsageError: naming the tensor; without the network's name.
    """
    other = again.state_dict()
    for name, tensor in net.state_dict().items():
        if not torch.equal(tensor, other[name]):
            raise UsageError(
                f"its {name} differs between two networks of one seed, so treatments would not begin with the same "
                "weights; draw from the global generator of torch, NumPy or random, which gradbench seeds"
            )


def refuse_unregistered(net: nn.Module, again: nn.Module) -> None:
    """Refuse random numbers and tensors that a module keeps as plain attributes: cells would share one cell's.

    Whole numbers may differ: they count networks.

    Args:
        net: of one seed.
        again: of another.

    Raises:
        UsageError: naming the attribute; without the network's name.
    """
    others = dict(again.named_modules())
    for path, module in net.named_modules():
        for name, value in vars(module).items():
            other = vars(others[path]).get(name)
            if not isinstance(value, float | np.ndarray | Tensor) or type(value) is not type(other):
                continue
            if not is_equal(value, other):
                place = f"{path}.{name}" if path else name
                kind = "a random number" if isinstance(value, float) else "a tensor of random numbers"
                raise UsageError(
                    f"its attribute {place} is {kind}, neither a parameter nor a buffer, so no cell would have its "
                    f"own; write self.register_buffer('{name}', …)"
                )


def is_equal(one: Any, other: Any) -> bool:
    """Return whether two numbers, arrays or tensors of one type are the same."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    return bool(np.array_equal(one, other, equal_nan=np.asarray(one).dtype.kind == "f"))


def has_once_differentiable(total: Tensor) -> bool:
    """Return whether a function that has one derivative is in a graph twice: autograd would leave its part out."""
    seen, waiting = set[Any](), [total.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            return True
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return False

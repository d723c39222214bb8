"""CUDA graphs: launch a whole training step at once instead of calling its hundreds of operations one by one.

A small cell's operations take a GPU a microsecond or two each, and calling them takes the host ten times as long. A
graph is captured once from these calls, and reads and writes the same memory whenever it is launched: so the state of a
stack stays in static buffers. Same kernels, same bits.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gradbench.functional.flat_params import Tensors
from gradbench.functional.torch_internals import tree_leaves, tree_map
from gradbench.training.draws import CHUNK
from gradbench.training.state import StackContext, State
from gradbench.training.step import EagerStepper, Rows, train_step

Launch = Callable[[], Any]
"""Run what was captured. Its result is overwritten by the next launch."""


class CudaGraphStepper(EagerStepper):
    """Run a stack on a GPU: call its operations once, capture them the second time, launch them from then on.

    Args:
        context: of the stack.
        capture: turns a function without arguments into a launch; a function that calls it anew would do.
    """

    def __init__(self, context: StackContext, capture: Callable[[Launch], Launch]) -> None:
        super().__init__(context)
        self.capture = capture
        self.launches: dict[Any, Launch] = {}
        self.called: set[Any] = set()
        self.static: State | None = None
        self.draws: dict[str, Tensors] = {}
        self.loaded: Mapping[str, Tensors] | None = None
        # where no transform changes directions, one trace serves steps that compare and steps that do not
        self.compares = any(group.regularizer.changes_direction for group in context.groups)

    def step(self, state: State, draws: Mapping[str, Tensors], compares: bool) -> Rows:
        """Take a step, with its part of a chunk's random numbers; ``state.step`` stays."""
        compares = compares and self.compares
        due = tuple(player.due(state.step) for player in self.context.players)
        if self.is_first(
            (compares, due)
        ):  # this traces the operations, and lets libraries initialise themselves
            return super().step(state, draws, compares)
        static, count = self.to_static_buffers(state), state.step
        self.load_draws(draws)
        self.step_count.fill_(count)
        # the first loss of all sets the limit, the last gradient is kept
        kind = ("step", compares, due, count == 0, count + 1 == self.context.steps)

        def captured() -> tuple[Tensors, Any]:
            after = replace(static, step=count, last=None)
            rows = train_step(self.context, after, self.of_step(), self.count, compares)
            write(tensors_of(static), tensors_of(after))
            return {name: torch.cat(found) for name, found in rows.items()}, after.last

        rows, last = self.launch(kind, captured)
        state.last = last
        return {name: [found.clone()] for name, found in rows.items()}

    def evaluate(self, state: State) -> Tensors:
        """Return metrics [K] and arrays [K, ...], until the next evaluation."""
        if self.is_first("evaluation"):
            return super().evaluate(state)
        static = self.to_static_buffers(state)
        found: Tensors = self.launch(
            "evaluation", lambda: self.context.evaluate(static.weights, static.carry)
        )
        return found

    def is_first(self, what: Any) -> bool:
        """Return whether this is called for the first time with an argument."""
        known = what in self.called
        self.called.add(what)
        return not known

    def launch(self, kind: Any, function: Launch) -> Any:
        """Launch a function of the static buffers; capture it if there is no graph of its kind yet."""
        if kind not in self.launches:
            self.launches[kind] = self.capture(function)
        return self.launches[kind]()

    def to_static_buffers(self, state: State) -> State:
        """Copy a state into the static buffers that graphs read and write, and point the state at them."""
        if self.static is None:
            self.static = replace(state, last=None)
            self.static.load_state_dict(tree_map(torch.clone, tensors_of(state)))
            self.step_count = torch.zeros((), dtype=torch.float64, device=self.context.device)
        if state.parameters is not self.static.parameters:
            write(tensors_of(self.static), tensors_of(state))
            state.load_state_dict(tensors_of(self.static))
        return self.static

    def load_draws(self, draws: Mapping[str, Tensors]) -> None:
        """Copy a chunk's random numbers to where graphs read them."""
        if self.loaded is None:
            self.draws = tree_map(torch.clone, draws)
        elif self.loaded is not draws:
            write(self.draws, draws)
        self.loaded = draws

    def count(self, steps: int, inner: int) -> Tensor:
        """Return the number of an update, as :func:`train_step` asks for it, from the device's count of steps."""
        return self.step_count * steps + (inner + 1)

    def of_step(self) -> dict[str, Tensors]:
        """Return a step's part of a chunk's random numbers, found by the device's count of steps."""
        found, first = {}, (self.step_count % CHUNK).long()
        for purpose, count in self.context.draws_per_step.items():
            index = first * count + torch.arange(count, device=first.device)
            found[purpose] = {
                name: tensor_U.index_select(1, index) for name, tensor_U in self.draws[purpose].items()
            }
        return found


def tensors_of(state: State) -> dict[str, Any]:
    """Return a state as containers of tensors, without its number of steps."""
    return {name: value for name, value in state.state_dict().items() if name != "step"}


def write(to: Any, values: Any) -> None:
    """Copy tensors into others of the same form; values that lie in the others' memory are copied first."""
    pairs = list(zip(tree_leaves(to), tree_leaves(values), strict=True))
    ours = {old.untyped_storage().data_ptr() for old, _ in pairs}
    moved = [(old, new) for old, new in pairs if new.data_ptr() != old.data_ptr()]
    apart = [new.clone() if new.untyped_storage().data_ptr() in ours else new for _, new in moved]
    for (old, _), new in zip(moved, apart, strict=True):
        old.copy_(new)


def into_graph(pool: Any) -> Callable[[Launch], Launch]:
    """Return a function that captures others as CUDA graphs, which share a pool of memory for intermediate results."""

    def capture(function: Launch) -> Launch:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            results = function()

        def launch() -> Any:
            graph.replay()
            return results

        return launch

    return capture


def make_stepper(context: StackContext) -> EagerStepper:
    """Return the stepper for a stack's device; what reads values cannot be captured in a CUDA graph."""
    if context.device.type == "cuda" and context.is_traced:
        return CudaGraphStepper(context, into_graph(torch.cuda.graph_pool_handle()))
    return EagerStepper(context)

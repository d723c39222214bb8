"""CUDA graphs: a GPU launches by itself, in one go, what a step's hundreds of calls would tell it one by one.

A small cell's operations take a GPU a microsecond or two each, and calling them takes the host ten times as long. A
graph is captured once from those calls, and reads and writes the same memory whenever it is launched: so a stack's
state has a home there, and stays. Same kernels, same bits.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gradbench.functional.flat_params import Tensors
from gradbench.functional.torch_internals import tree_leaves, tree_map
from gradbench.training.draws import CHUNK
from gradbench.training.state import Setup, State
from gradbench.training.step import Calls, Rows, take

Launch = Callable[[], Any]
"""Runs what was captured; what it returns is written over by the next launch."""


class Graphs(Calls):
    """How a stack's functions are run on a GPU: called once, captured the second time, launched from then on.

    Args:
        setup: of the stack.
        capture: makes a launch of a function that takes nothing; anything that calls it anew would do.
    """

    def __init__(self, setup: Setup, capture: Callable[[Launch], Launch]) -> None:
        super().__init__(setup)
        self.capture = capture
        self.launches: dict[Any, Launch] = {}
        self.called: set[Any] = set()
        self.home: State | None = None
        self.draws: dict[str, Tensors] = {}
        self.brought: Mapping[str, Tensors] | None = None
        # else the same trace serves both kinds of steps
        self.compares = any(span.regularizer.bends for span in setup.spans)

    def take(self, state: State, draws: Mapping[str, Tensors], compares: bool) -> Rows:
        """Take a step with its part of a chunk's random numbers."""
        compares = compares and self.compares
        if self.is_first(compares):  # traces its operations, and has libraries prepare themselves
            return super().take(state, draws, compares)
        home, count = self.settle(state), state.step
        self.bring(draws)
        self.step.fill_(count)
        # the first loss of all sets a ceiling, the last gradient is kept
        kind = ("step", compares, count == 0, count + 1 == self.setup.steps)

        def step() -> tuple[Tensors, Any]:
            after = replace(home, step=count, last=None)
            rows = take(self.setup, after, self.of_step(), self.count, compares)
            write(tensors_of(home), tensors_of(after))
            return {name: torch.cat(found) for name, found in rows.items()}, after.last

        rows, last = self.launch(kind, step)
        state.last = last
        return {name: [found.clone()] for name, found in rows.items()}

    def evaluate(self, state: State) -> Tensors:
        """Return metrics [K] and arrays [K, ...], until the next evaluation."""
        if self.is_first("evaluation"):
            return super().evaluate(state)
        home = self.settle(state)
        found: Tensors = self.launch("evaluation", lambda: self.setup.evaluate(home.parameters))
        return found

    def is_first(self, what: Any) -> bool:
        """Return whether something is asked about for the first time."""
        known = what in self.called
        self.called.add(what)
        return not known

    def launch(self, kind: Any, function: Launch) -> Any:
        """Launch a function of what is at home; capture it if there is no graph of its kind yet."""
        if kind not in self.launches:
            self.launches[kind] = self.capture(function)
        return self.launches[kind]()

    def settle(self, state: State) -> State:
        """Bring a state home: it has the tensors there from now on."""
        if self.home is None:
            self.home = replace(state, last=None)
            self.home.restore(tree_map(torch.clone, tensors_of(state)))
            self.step = torch.zeros((), dtype=torch.float64, device=self.setup.device)
        if state.parameters is not self.home.parameters:
            write(tensors_of(self.home), tensors_of(state))
            state.restore(tensors_of(self.home))
        return self.home

    def bring(self, draws: Mapping[str, Tensors]) -> None:
        """Bring a chunk's random numbers to where graphs look for them."""
        if self.brought is None:
            self.draws = tree_map(torch.clone, draws)
        elif self.brought is not draws:
            write(self.draws, draws)
        self.brought = draws

    def count(self, steps: int, inner: int) -> Tensor:
        """Return which update of all it is, as ``take`` wants it, by a count of steps that the device has."""
        return self.step * steps + (inner + 1)

    def of_step(self) -> dict[str, Tensors]:
        """Return a step's part of a chunk's random numbers, by a count that the device has."""
        found, first = {}, (self.step % CHUNK).long()
        for player in self.setup.players:
            index = first * player.steps + torch.arange(player.steps, device=first.device)
            found[player.name] = {
                name: tensor_U.index_select(1, index) for name, tensor_U in self.draws[player.name].items()
            }
        return found


def tensors_of(state: State) -> dict[str, Any]:
    """Return a state as containers of tensors, without its count of steps."""
    return {name: value for name, value in state.content().items() if name != "step"}


def write(to: Any, values: Any) -> None:
    """Copy tensors into others, none of which may be read once it is written: what shares memory is copied first."""
    pairs = list(zip(tree_leaves(to), tree_leaves(values), strict=True))
    ours = {old.untyped_storage().data_ptr() for old, _ in pairs}
    moved = [(old, new) for old, new in pairs if new.data_ptr() != old.data_ptr()]
    apart = [new.clone() if new.untyped_storage().data_ptr() in ours else new for _, new in moved]
    for (old, _), new in zip(moved, apart, strict=True):
        old.copy_(new)


def into_graph(pool: Any) -> Callable[[Launch], Launch]:
    """Return what captures functions as CUDA graphs, whose intermediate results share a pool of memory."""

    def capture(function: Launch) -> Launch:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            results = function()

        def launch() -> Any:
            graph.replay()
            return results

        return launch

    return capture


def calls_of(setup: Setup) -> Calls:
    """Return how a stack's functions are run on its device."""
    if setup.device.type == "cuda":
        return Graphs(setup, into_graph(torch.cuda.graph_pool_handle()))
    return Calls(setup)

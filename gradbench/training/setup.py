"""Set up a stack of cells, and leave out those of its cells that have diverged. K cells."""

from collections.abc import Sequence

import torch

from gradbench.data import Data
from gradbench.grid.cell import Cell
from gradbench.training.bind import bind_stack
from gradbench.training.execution import choose_execution
from gradbench.training.program import build
from gradbench.training.state import StackContext, State
from gradbench.training.trial import adapt


def build_stack(
    stack: Sequence[Cell],
    data: Data,
    device: torch.device,
    cell_indices: Sequence[int] | None = None,
    traces: bool = True,
    kind: str | None = None,
    with_telemetry: bool = True,
) -> StackContext:
    """Choose how a stack is run, and bind its cells to a device.

    Args:
        stack: the cells.
        data: what they train on.
        device: device the stack trains on.
        cell_indices: train only the cells at these ascending indices; by default all.
        traces: trace a step's functions at their first call, and replay them.
        kind: type of the device that the stack is built for; by default the device's own.
        with_telemetry: record series (False only in ``gradbench cost``).

    Raises:
        UsageError: where a network of the user's own cannot be trained in any way.
    """
    kept = list(range(len(stack)) if cell_indices is None else cell_indices)
    program = build(stack[0].config, data)
    execution = choose_execution(program, stack[kept[0]], device, kind or device.type, traces, with_telemetry)
    return bind_stack(stack, kept, program, adapt(execution, program, stack[kept[0]], data), data)


COMPACT_BELOW = 0.75
"""Share of active cells up to which the others are left out, which costs a new trace."""

LOOK_EVERY = 10
"""Steps between looks for cells to leave out: those that diverge together need one new trace, not several."""


def should_compact(context: StackContext, state: State) -> bool:
    """Return whether so many cells have diverged that the others should go on without them.

    On a CPU only: there a look costs nothing, the others keep their bits, and time grows with the number of cells.
    """
    if context.device.type != "cpu" or state.step % LOOK_EVERY:
        return False
    return int(state.active.sum()) <= COMPACT_BELOW * len(state.active)


def compact(context: StackContext, state: State, data: Data) -> tuple[StackContext, State]:
    """Return a stack and its state without the cells that have diverged."""
    kept = torch.nonzero(state.active).flatten().tolist()
    cell_indices = [context.cell_indices[k] for k in kept]
    return build_stack(context.cells, data, context.device, cell_indices), state.pick(kept, context.groups)

"""Choose how the functions of a stack are run, and bundle what they are built from."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from gradbench.functional.flat_params import Layout
from gradbench.functional.written_out import written_out
from gradbench.grid.cell import Cell
from gradbench.models import Player
from gradbench.regularizers import Regularizer
from gradbench.training.divergence import Divergence
from gradbench.training.program import Program, build_regularizer
from gradbench.training.regularize import RegularizerGroup


@dataclass(frozen=True)
class Execution:
    """The way a stack's functions are run: it changes how long they take, and their results by rounding at most.

    Attributes:
        device: device that the stack trains on.
        kind: type of the device that it is built for: another one where memory is predicted, or a step is tried out.
        fused: the networks use kernels of their own that ``vmap`` cannot stack and that have one derivative.
        one_by_one: networks run one after another; all else is stacked.
        traces: trace updates and batches at their first call, and replay them.
        traces_networks: trace the networks' passes, too.
        writes_out: recurrent layers and attention are written out, for ``vmap`` and second derivatives.
        shared: player -> names of its network's buffers that are the same for all cells, and constant.
        with_telemetry: record series.
        notes: lines for the user, such as why networks run one after another.
    """

    device: torch.device
    kind: str
    fused: bool = False
    one_by_one: bool = False
    traces: bool = True
    traces_networks: bool = True
    writes_out: bool = False
    shared: Mapping[str, frozenset[str]] = field(default_factory=dict)
    with_telemetry: bool = True
    notes: tuple[str, ...] = ()

    def kernels(self) -> contextlib.AbstractContextManager[None]:
        """Return the context in which networks are called."""
        return written_out() if self.writes_out else contextlib.nullcontext()


def choose_execution(
    program: Program,
    cell: Cell,
    device: torch.device,
    kind: str,
    traces: bool = True,
    with_telemetry: bool = True,
) -> Execution:
    """Choose how a stack is run, from what it is and the type of device: never from a stopwatch.

    Args:
        program: model, optimizer and precision.
        cell: one of the stack.
        device: device that the stack trains on.
        kind: type of the device that it is built for.
        traces: as of :class:`Execution`.
        with_telemetry: as of :class:`Execution`.
    """
    # on a CPU a fused kernel for one network beats operations over K; a GPU is only filled by the latter
    fused = (
        program.model.fuses and kind == "cpu" and program.precision != "bfloat16" and not has_penalty(cell)
    )
    one_by_one = fused or (program.model.is_heavy and kind == "cpu")
    return Execution(device, kind, fused, one_by_one, traces=traces, with_telemetry=with_telemetry)


def has_penalty(cell: Cell) -> bool:
    """Return whether a cell's regularizer adds a penalty, which is differentiated twice."""
    return bool(build_regularizer(cell.config).penalties)


@dataclass(frozen=True)
class StackProgram:
    """All that the functions of a stack's players are built from.

    Attributes:
        key: equal for stacks whose functions are equal, their number of cells aside.
        program: model, optimizer and precision.
        layouts: of each player's flat parameters.
        groups: cells that share a regularizer.
        execution: how the functions are run.
        divergence: the rule by which a cell has diverged.
    """

    key: str
    program: Program
    layouts: dict[str, Layout]
    groups: list[RegularizerGroup]
    execution: Execution
    divergence: Divergence

    def penalised(self, player: Player) -> Regularizer:
        """Return the regularizer whose penalties a player pays: cells with a penalty all have the same."""
        acting = self.acting(player)
        return acting[0].regularizer if acting else Regularizer()

    def acting(self, player: Player) -> list[RegularizerGroup]:
        """Return the groups with what acts on a player; none where nothing does in any of them."""
        groups = [group.of(player.name) for group in self.groups]
        return groups if player.regularized or any(group.regularizer.acts for group in groups) else []

"""Choose how the functions of a stack are run, and bundle what they are built from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gradbench.functional.flat_params import Layout
from gradbench.models import Player
from gradbench.training.divergence import Divergence
from gradbench.training.program import Program
from gradbench.training.regularize import RegularizerGroup


@dataclass(frozen=True)
class Execution:
    """The way a stack's functions are run: it changes how long they take, and their results by rounding at most.

    Args:
        device: device that the stack trains on.
        fused: the networks use kernels that ``vmap`` cannot stack, so cells run one after another.
        traces: trace updates and batches at their first call, and replay them.
        with_telemetry: record series.
    """

    device: torch.device
    fused: bool
    traces: bool = True
    with_telemetry: bool = True


def choose_execution(
    program: Program,
    groups: Sequence[RegularizerGroup],
    device: torch.device,
    kind: str,
    traces: bool = True,
    with_telemetry: bool = True,
) -> Execution:
    """Choose how a stack is run, from what it is and the type of device: never from a stopwatch.

    Args:
        program: model, optimizer and precision.
        groups: the stack's regularizers.
        device: device that the stack trains on.
        kind: type of the device that it is built for.
        traces: as of :class:`Execution`.
        with_telemetry: as of :class:`Execution`.
    """
    # on a CPU a fused kernel for one network beats operations over K; a GPU is only filled by the latter
    penalty = any(group.regularizer.penalty for group in groups)
    fused = program.model.fuses and kind == "cpu" and program.precision != "bfloat16" and not penalty
    return Execution(device, fused, traces, with_telemetry)


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

    def acting(self, player: Player) -> list[RegularizerGroup]:
        """Return the groups whose regularizers act on a player: all, or none."""
        return self.groups if player.regularized else []

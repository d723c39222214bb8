"""How the functions of a stack are run: stacked or one by one, traced or not. It changes rounding at most."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gradbench.training.program import Program
from gradbench.training.regularize import Span


@dataclass(frozen=True)
class Execution:
    """How a stack's functions are run: it changes how long they take, and rounding at most.

    Args:
        device: where.
        fused: the networks use kernels that ``vmap`` cannot stack, so cells are looped over.
        traces: whether updates and batches are traced, and replayed.
        measures: whether there is a row of telemetry.
    """

    device: torch.device
    fused: bool
    traces: bool = True
    measures: bool = True


def execution_of(
    program: Program,
    spans: Sequence[Span],
    device: torch.device,
    kind: str,
    traces: bool = True,
    measures: bool = True,
) -> Execution:
    """Choose how a stack is run, from what it is and on what kind of device: never from a stopwatch."""
    # on a CPU a fused kernel for one network beats operations over K; a GPU is only filled by the latter
    penalty = any(span.regularizer.penalty for span in spans)
    fused = program.model.fuses and kind == "cpu" and program.precision != "bfloat16" and not penalty
    return Execution(device, fused, traces, measures)

"""Time stacks in interleaved rounds, so that a temporary slowdown of the machine affects all of them alike."""

import copy
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from gradbench.training.bind import init_state
from gradbench.training.cuda_graphs import make_stepper
from gradbench.training.draws import CHUNK, draw_chunk
from gradbench.training.state import StackContext, State
from gradbench.training.telemetry import COMPARE_EVERY, Telemetry

MIN_SECONDS = 0.05
"""Least duration of one timing in seconds, so that the resolution of clock and scheduler matters little."""


@dataclass
class Runner:
    """A stack that runs steps from the same state again and again.

    Attributes:
        context: the stack.
        start: state from which each run begins.
        draws: player -> random numbers of one chunk of steps.
        steps: steps per run.
    """

    context: StackContext
    start: State
    draws: dict[str, dict[str, torch.Tensor]]
    steps: int = 1

    def __post_init__(self) -> None:
        self.stepper = make_stepper(self.context)

    def run(self) -> tuple[float, float]:
        """Return the seconds of one step, and of copying its telemetry to the host, per step of a chunk.

        The copy includes which cells have diverged, also without telemetry. One in COMPARE_EVERY steps compares
        transformed gradients with the original ones; its extra time is averaged over all steps.
        """
        state, telemetry = copy.deepcopy(self.start), Telemetry(self.context)
        clock = choose_clock(self.context.device)
        if self.steps < self.context.steps:  # the first step differs from all others
            self.stepper.advance(state, self.draws, telemetry)
        synchronize(self.context.device)
        began = clock()
        for _ in range(self.steps):
            self.advance(state, telemetry, compares=False)
        synchronize(self.context.device)
        stepped = clock()
        telemetry.flush(state)
        flushed = clock()
        seconds = (stepped - began) / self.steps
        if any(group.regularizer.changes_direction for group in self.context.groups):
            self.advance(state, telemetry, compares=True)
            synchronize(self.context.device)
            seconds += (clock() - flushed - seconds) / COMPARE_EVERY
        return seconds, (flushed - stepped) / CHUNK

    def advance(self, state: State, telemetry: Telemetry, compares: bool) -> None:
        """Run one step; ``compares``: whether it compares gradients before and after the transform."""
        telemetry.record(self.stepper.step(state, self.draws, compares))
        state.step += 1


def make_runner(context: StackContext) -> Runner:
    """Make a runner for a stack, trace and warm it up, and set its number of steps."""
    runner = Runner(context, init_state(context), draw_chunk(context, 0))
    runner.run()  # traces it
    seconds, _ = runner.run()
    runner.steps = min(math.ceil(MIN_SECONDS / seconds), CHUNK, max(context.steps - 1, 1))
    if context.device.type == "cuda":
        for _ in range(2):  # captures the graphs that the single step did not need
            runner.run()
    return runner


def choose_clock(device: torch.device) -> Callable[[], float]:
    """Return the clock for a device: on a CPU this process's CPU time, which other processes do not affect."""
    return time.process_time if device.type == "cpu" else time.perf_counter


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@dataclass(frozen=True)
class Timings:
    """Seconds per step, one entry per round.

    Attributes:
        steps: regularizer -> seconds of a step with telemetry, [rounds].
        telemetry: regularizer -> seconds of its telemetry, [rounds]; only for those that were timed without.
    """

    steps: dict[str, np.ndarray]
    telemetry: dict[str, np.ndarray]


def time_rounds(
    runners: Mapping[str, Runner], silent: Mapping[str, Runner], count: int, on_round: Callable[[int], None]
) -> Timings:
    """Time every stack once per round, in a new random order each round.

    Args:
        runners: regularizer -> its stack.
        silent: regularizer -> the same stack without telemetry, for some of them; timed just before or after.
        count: number of rounds.
        on_round: called with the number of rounds that are finished.
    """
    order, shuffled = list(runners), random.Random(0)
    kinds = {name: [runners, silent] if name in silent else [runners] for name in order}
    with_it, without = ({name: np.empty(count) for name in some} for some in (runners, silent))
    for index in range(count):
        shuffled.shuffle(order)
        for name in order:
            shuffled.shuffle(kinds[name])
            for kind in kinds[name]:
                step, flush = kind[name].run()
                (with_it if kind is runners else without)[name][index] = step + flush
        on_round(index + 1)
    return Timings(with_it, {name: with_it[name] - without[name] for name in silent})

"""Timing stacks in interleaved rounds: what slows the machine down for a while slows all of them alike."""

import copy
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import quantile_test

from gradbench.stats.intervals import CONFIDENCE, Interval
from gradbench.training.cuda_graphs import make_stepper
from gradbench.training.draws import CHUNK, draw_chunk
from gradbench.training.setup import init_state
from gradbench.training.state import StackContext, State
from gradbench.training.telemetry import COMPARE_EVERY, Telemetry

MIN_SECONDS = 0.05
"""Seconds that one timing should last at least, so that the clock's and the scheduler's grain matter little."""


@dataclass
class Runner:
    """A stack that can be stepped from the same state again and again."""

    context: StackContext
    start: State
    draws: dict[str, dict[str, torch.Tensor]]
    steps: int = 1

    def __post_init__(self) -> None:
        self.stepper = make_stepper(self.context)

    def run(self) -> tuple[float, float]:
        """Return the seconds of one step, and of bringing to the host what it asks for, per step of a chunk.

        That is what was recorded, and which cells have diverged: it asks for these where nothing is recorded as well.
        Of steps that compare bent gradients with what they were there is one in COMPARE_EVERY.
        """
        state, telemetry = copy.deepcopy(self.start), Telemetry(self.context)
        clock = choose_clock(self.context.device)
        if self.steps < self.context.steps:  # the first step is one of a kind
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
        """Take one step of a kind."""
        telemetry.record(self.stepper.step(state, self.draws, compares))
        state.step += 1


def make_runner(context: StackContext) -> Runner:
    """Return a stack to be timed; its functions have been recorded, its libraries are loaded."""
    runner = Runner(context, init_state(context), draw_chunk(context, 0))
    seconds = min(runner.run()[0] for _ in range(3))
    runner.steps = min(math.ceil(MIN_SECONDS / seconds), CHUNK, max(context.steps - 1, 1))
    for _ in range(2):  # of a GPU's graphs those that a single step does without are made
        runner.run()
    return runner


def choose_clock(device: torch.device) -> Callable[[], float]:
    """Return what to time with: on a CPU this process's own seconds, which no other process lengthens."""
    return time.process_time if device.type == "cpu" else time.perf_counter


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@dataclass(frozen=True)
class Timings:
    """Seconds per step, one entry per round.

    Attributes:
        steps: regularizer -> with telemetry.
        telemetry: regularizer -> spent in telemetry, where that was timed.
    """

    steps: dict[str, np.ndarray]
    telemetry: dict[str, np.ndarray]


def time_rounds(
    runners: Mapping[str, Runner], silent: Mapping[str, Runner], count: int, told: Callable[[int], None]
) -> Timings:
    """Time every stack once per round, in an order that is drawn anew each round.

    Args:
        runners: regularizer -> its stack.
        silent: of some of them -> the same stack without telemetry, timed just before or after.
        count: of rounds.
        told: is called with the number of each round that is over.
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
        told(index + 1)
    return Timings(with_it, {name: with_it[name] - without[name] for name in silent})


def median_interval(values: np.ndarray) -> Interval:
    """Return the median with its distribution-free interval between two order statistics; six values at least."""
    found = quantile_test(values, q=np.median(values), p=0.5).confidence_interval(CONFIDENCE)
    return Interval(float(np.median(values)), float(found.low), float(found.high), len(values))

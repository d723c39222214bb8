"""Timing stacks in interleaved rounds: what slows the machine down for a while slows all of them alike."""

import copy
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import quantile_test

from gradbench.stack import CHUNK, Setup, State, begin, draw_chunk
from gradbench.stats import CONFIDENCE, Interval
from gradbench.telemetry import Telemetry
from gradbench.train import advance

SHORTEST = 0.01
"""Seconds that one timing should last at least, so that the clock's and the scheduler's grain matter little."""


class Silent(Telemetry):
    """Telemetry that records nothing, to learn what recording costs."""

    def record(self, *_: object) -> None:
        """Record nothing."""


@dataclass
class Runner:
    """A stack that can be stepped from the same state again and again."""

    setup: Setup
    start: State
    draws: dict[str, dict[str, torch.Tensor]]
    steps: int = 1

    def run(self, kind: type[Telemetry]) -> tuple[float, float]:
        """Return the seconds of one step, and of bringing what was recorded to the host, per step of a chunk."""
        state, telemetry = copy.deepcopy(self.start), kind(self.setup)
        clock = clock_of(self.setup.device)
        synchronize(self.setup.device)
        began = clock()
        for _ in range(self.steps):
            advance(self.setup, state, self.draws, telemetry)
        synchronize(self.setup.device)
        stepped = clock()
        telemetry.flush(state)
        return (stepped - began) / self.steps, (clock() - stepped) / CHUNK


def ready(setup: Setup) -> Runner:
    """Return a stack to be timed; its functions have been recorded, its libraries are loaded."""
    runner = Runner(setup, begin(setup), draw_chunk(setup, 0))
    seconds = min(runner.run(Telemetry)[0] for _ in range(2))
    runner.steps = int(np.clip(np.ceil(SHORTEST / seconds), 1, min(CHUNK, setup.steps)))
    return runner


def clock_of(device: torch.device) -> Callable[[], float]:
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


def rounds(
    runners: Mapping[str, Runner], silent: Sequence[str], count: int, told: Callable[[int], None]
) -> Timings:
    """Time every stack once per round, in an order that is drawn anew each round.

    Args:
        runners: regularizer -> its stack.
        silent: those that are also timed without telemetry.
        count: of rounds.
        told: is called with the number of each round that is over.
    """
    kinds: dict[str, list[type[Telemetry]]] = {
        name: [Telemetry, Silent] if name in silent else [Telemetry] for name in runners
    }
    order, shuffled = list(runners), random.Random(0)
    seconds = {(name, kind): np.empty((count, 2)) for name in order for kind in kinds[name]}
    for index in range(count):
        shuffled.shuffle(order)
        for name in order:
            shuffled.shuffle(kinds[name])
            for kind in kinds[name]:
                seconds[name, kind][index] = runners[name].run(kind)
        told(index + 1)
    steps = {name: seconds[name, Telemetry].sum(axis=1) for name in runners}
    return Timings(steps, {name: steps[name] - seconds[name, Silent][:, 0] for name in silent})


def median_interval(values: np.ndarray) -> Interval:
    """Return the median with its distribution-free interval between two order statistics; six values at least."""
    found = quantile_test(values, q=np.median(values), p=0.5).confidence_interval(CONFIDENCE)
    return Interval(float(np.median(values)), float(found.low), float(found.high), len(values))

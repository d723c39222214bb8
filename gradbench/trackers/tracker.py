"""A listener of the training loop that hands what it hears to a thread, which writes it.

K cells of a stack.
"""

import contextlib
import math
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from gradbench.config.overrides import one_line
from gradbench.grid.cell import Cell

MAX_POINTS = 1000
"""Points of a curve, at most; a longer one is thinned out. Evaluations are all kept."""

MAX_WAITING = 10_000
"""Events that wait to be written, at most."""

WAIT_SECONDS = 10.0
"""Seconds that a stack waits, at its end, while no further event is written."""

Points = Mapping[int, Mapping[str, np.ndarray]]
"""Step -> name -> value of each cell, [K]; NaN where a cell has none."""


class Backend(Protocol):
    """Writes the runs of a stack's cells. Methods are called from one thread, and may raise or take as they like."""

    def open(self, first: int) -> None:
        """Begin a run for each cell, or go on with it, at a first step: what it has from there on is replaced."""

    def log(self, points: Points) -> None:
        """Write values of some steps."""

    def end(self, statuses: Sequence[str]) -> None:
        """End the run of each cell, with its status."""


Event = Callable[[Backend], None]


class Tracker:
    """Listens to the training of a stack; the block that it is used in ends its runs.

    Args:
        name: value of the key ``tracker``.
        make: makes what writes; called by the thread, since its package may take long to import.
        every: steps between those whose series are written.
        warn: called with one line if it fails.
        stop_errors: types of errors after which the stack will be resumed, so that its runs go on.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Backend],
        every: int,
        warn: Callable[[str], None],
        stop_errors: tuple[type[BaseException], ...] = (),
    ) -> None:
        self.name, self.make, self.every, self.warn = name, make, every, warn
        self.stop_errors = stop_errors
        self.events: queue.Queue[Event | None] = queue.Queue(MAX_WAITING)
        self.failed = threading.Event()
        self.opened = self.ended = False
        self.written = 0
        self.thread = threading.Thread(target=self._write, name=f"gradbench {name}", daemon=True)

    def __enter__(self) -> "Tracker":
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        goes_on = kind is not None and issubclass(kind, self.stop_errors)
        if self.opened and not self.ended and not goes_on:
            self.on_end([])
        self._put(None)
        while self.thread.is_alive() and not self.failed.is_set():
            before = self.written
            self.thread.join(WAIT_SECONDS)
            if self.thread.is_alive() and self.written == before:
                self._give_up("it does not answer")

    def on_chunk(self, step: int, series: Mapping[str, np.ndarray]) -> None:
        """Hand over the series of the steps up to one, name -> [steps, K]."""
        first = step - len(next(iter(series.values()))) + 1
        if not self.opened:
            self.opened = True
            self._put(lambda backend: backend.open(first))
        points = {
            at: {name: values[at - first] for name, values in series.items()}
            for at in range(first, step + 1)
            if at % self.every == 0
        }
        if points:
            self._put(lambda backend: backend.log(points))

    def on_evaluation(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Hand over the metrics of an evaluation, name -> [K]."""
        points = {step: {name: values.copy() for name, values in metrics.items()}}
        self._put(lambda backend: backend.log(points))

    def on_end(self, statuses: Sequence[str]) -> None:
        """Hand over how each cell has ended: ``completed`` or ``diverged``; nothing where the stack failed."""
        self.ended = True
        self._put(lambda backend: backend.end(statuses))

    def _put(self, event: Event | None) -> None:
        """Hand over an event, without waiting."""
        if not self.failed.is_set():
            try:
                self.events.put_nowait(event)
            except queue.Full:
                self._give_up("it takes longer than training")

    def _write(self) -> None:
        """Write events until there are no more, or one cannot be written."""
        try:
            backend = self.make()
            while (event := self.events.get()) is not None and not self.failed.is_set():
                event(backend)
                self.written += 1
        except BaseException as error:  # a tracker's package may raise anything, and must not end the worker
            self._give_up(one_line(error))

    def _give_up(self, reason: str) -> None:
        """Write nothing more, and say so once."""
        if not self.failed.is_set():
            self.failed.set()
            self.warn(f"tracker={self.name} has stopped ({reason}); training goes on without it")


def make_tracker(
    cells: Sequence[Cell],
    folder: Path,
    warn: Callable[[str], None],
    stop_errors: tuple[type[BaseException], ...] = (),
) -> contextlib.AbstractContextManager[Tracker | None]:
    """Return the tracker that a stack's cells ask for, to be entered; ``None`` for none.

    Args:
        cells: the K cells.
        folder: the results folder.
        warn: called with a line for the user.
        stop_errors: types of errors after which the stack will be resumed.
    """
    name = cells[0].runtime["tracker"]
    if name is None:
        return contextlib.nullcontext()

    def make() -> Backend:
        backend: Backend = import_module(f"gradbench.trackers.{name}").backend(cells, folder)
        return backend

    config = cells[0].config
    every = max(int(config["record_every"]), math.ceil(int(config["steps"]) / MAX_POINTS))
    return Tracker(name, make, every, warn, stop_errors)

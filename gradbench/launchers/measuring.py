"""Let the workers of a sweep measure when everything is trained. What fails costs one line, and never the sweep."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait

from gradbench.errors import ShortageError
from gradbench.launchers import Measurement
from gradbench.launchers.forkserver import Worker
from gradbench.signals import Interruption

SECONDS, SHARE = 10.0, 0.05
"""A measurement begins at most so many seconds after the first one, or after this share of the time of training."""

TICK_SECONDS = 0.1
"""Seconds between checks for signals."""


class Measuring:
    """The measurements after a sweep.

    Args:
        workers: those of the sweep, all idle; those that are started are added, those that die are removed.
        start: starts a worker on a device.
        notify: shows a line to the user.
        interruption: the user's: it ends the measurements.
    """

    def __init__(
        self,
        workers: list[Worker],
        start: Callable[[str], Worker],
        notify: Callable[[str], None],
        interruption: Interruption,
    ) -> None:
        self.workers, self.start, self.notify, self.interruption = workers, start, notify, interruption
        self.running: dict[Connection, tuple[Worker, Measurement]] = {}

    def run(self, measurements: Sequence[Measurement], places: Sequence[str], trained_seconds: float) -> None:
        """Make measurements, one at a time in a worker of each place.

        Args:
            measurements: what to measure.
            places: names of devices, once for each worker that measures.
            trained_seconds: how long training took.
        """
        waiting = deque(measurements)
        deadline = time.monotonic() + max(SECONDS, SHARE * trained_seconds)
        while (waiting or self.running) and not self.interruption.requested:
            if waiting and not waiting[0].wanted and time.monotonic() > deadline:
                self.leave_out(waiting, "the time is up; the same command goes on with it")
            try:
                for device in self.free(places):
                    if waiting:
                        self.assign(self.hire(device), waiting.popleft())
            except ShortageError as error:
                if not self.running:
                    self.leave_out(waiting, str(error))
            for pipe in wait(list(self.running), TICK_SECONDS):
                self.handle_message(*self.running.pop(pipe))  # type: ignore[call-overload]
        for worker, _ in self.running.values():
            worker.process.kill()

    def free(self, places: Sequence[str]) -> list[str]:
        """Return the places at which no worker measures."""
        left = list(places)
        for worker, _ in self.running.values():
            left.remove(worker.device)
        return left

    def hire(self, device: str) -> Worker:
        """Return an idle worker of a device, a new one if there is none.

        Raises:
            ShortageError: if the machine has no room for it.
        """
        for worker in self.workers:
            if worker.device == device and worker.pipe not in self.running:
                return worker
        self.workers.append(self.start(device))
        return self.workers[-1]

    def assign(self, worker: Worker, measurement: Measurement) -> None:
        """Send a measurement to a worker."""
        self.running[worker.pipe] = worker, measurement
        worker.send(measurement)

    def handle_message(self, worker: Worker, measurement: Measurement) -> None:
        """Handle a worker's answer, or its death."""
        try:
            _, reason = worker.pipe.recv()
        except (EOFError, ConnectionError):
            self.workers.remove(worker)
            worker.join()
            reason = f"its worker process died ({worker.exit_reason()})"
        if reason:
            self.notify(f"{measurement.title}: {NOT_MEASURED} ({reason})")

    def leave_out(self, waiting: deque[Measurement], reason: str) -> None:
        """Clear the queue, and say why."""
        self.notify(f"{waiting[0].title}{more(len(waiting) - 1)}: {NOT_MEASURED} ({reason})")
        waiting.clear()


NOT_MEASURED = "the time of a step was not measured"


def more(number: int) -> str:
    """Return how many more there are, in words; empty for none."""
    return f" and {number} more" if number else ""

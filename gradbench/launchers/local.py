"""Train stacks in worker processes on this machine: one per CPU core, or one per GPU.

If a worker dies (killed, out of memory), its stack is retried from its checkpoint, and the sweep goes on.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from gradbench.cpu_count import cores
from gradbench.errors import ShortageError, StorageError, UsageError
from gradbench.launchers import Cells, Ending, Measurement, Watcher, Work
from gradbench.launchers.forkserver import Starter, Worker, WorkerStarter
from gradbench.launchers.measuring import Measuring
from gradbench.launchers.thread import ThreadStarter
from gradbench.signals import Interruption
from gradbench.storage.locks import FinishedCells, Reservations
from gradbench.storage.provenance import now
from gradbench.storage.results import Results

MAX_TRIES = 2
"""Number of times a stack is sent to a worker before its cells count as failed."""

TICK_SECONDS = 0.1
"""Seconds between checks for signals and for reservations of other runs."""


def worker_count(devices: Sequence[str], stacks: int, jobs: int | None) -> int:
    """Return the number of workers to start, at most one per stack.

    Args:
        devices: names of the devices to train on.
        stacks: number of stacks.
        jobs: number that the user asked for; ``None`` for one per CPU core, or one per GPU.
    """
    automatic = cores() if list(devices) == ["cpu"] else len(devices)
    return max(1, min(jobs or automatic, stacks))


@dataclass(frozen=True)
class Local:
    """The launcher of this machine's worker processes.

    Args:
        parallel: number of workers; ``None`` for one per CPU core, or one per GPU.
    """

    parallel: int | None = None

    def declared_device(self) -> None:
        """Return ``None``: the devices are those of this machine."""

    def device_bytes(self) -> None:
        """Return ``None``: their memory is asked for."""

    def describe(self, devices: Sequence[str], stacks: int) -> str:
        """Return the number of workers and the kind of device."""
        count, kind = self.count_workers(devices, stacks), devices[0].partition(":")[0]
        return f"{count} worker{'s' * (count != 1)} on {kind}"

    def count_workers(self, devices: Sequence[str], stacks: int) -> int:
        """Return how many workers train so many stacks."""
        return worker_count(devices, stacks, self.parallel)

    def run(self, work: Work, watcher: Watcher, reservations: Reservations, *, detach: bool) -> Ending:
        """Train stacks here."""
        if detach:
            raise UsageError(
                "--detach leaves tasks in a cluster's queue, and launcher=local has none; leave it out, or type "
                "launcher=slurm"
            )
        complete = run(
            *(work.stacks, work.folder, work.devices, self.parallel, watcher, reservations),
            fail_fast=work.fail_fast,
            on_idle_core=work.on_idle_core,
            in_process=work.in_process,
            measurements=work.measurements,
        )
        return Ending.COMPLETE if complete else Ending.INTERRUPTED


def run(
    stacks: Sequence[Cells],
    folder: Path,
    devices: Sequence[str],
    jobs: int | None,
    watcher: Watcher,
    reservations: Reservations,
    *,
    fail_fast: bool = False,
    on_idle_core: Callable[[], None] | None = None,
    in_process: bool = False,
    measurements: Sequence[Measurement] = (),
) -> bool:
    """Train stacks in worker processes, in the given order.

    Args:
        stacks: the stacks; put the longest first.
        folder: results folder that every worker writes to.
        devices: names of the devices (one per GPU, or the CPU's); workers are assigned to them round-robin.
        jobs: number of workers; ``None`` for one per CPU core, or one per GPU.
        watcher: receives the events.
        reservations: locks on the folder's cells. A stack that another run trains is waited for.
        fail_fast: save running stacks and stop at the first failure.
        on_idle_core: called at most once, when a core becomes idle because no stack is waiting; messages of the
            workers are not read until it returns.
        in_process: train in a thread of this process, one stack after another.
        measurements: made by the same workers when all stacks are trained.

    Returns:
        ``False`` if Ctrl-C or SIGTERM interrupted the sweep; running stacks have been saved.

    Raises:
        ShortageError: if no worker can be started.
        KeyboardInterrupt: when interrupted twice, unless that ends the process.
    """
    with Interruption() as interruption:
        pool = Pool(
            *(stacks, folder, watcher, reservations, interruption),
            starter=ThreadStarter() if in_process else WorkerStarter(),
            fail_fast=fail_fast,
            on_idle_core=on_idle_core,
        )
        count = worker_count(devices, len(stacks), 1 if in_process else jobs)
        began = time.monotonic()
        try:
            pool.run([devices[index % len(devices)] for index in range(count)])
            if measurements and not pool.stopping:
                count = worker_count(devices, len(measurements), 1 if in_process else jobs)
                watcher.notify("timing what a step of each treatment costs (--no-cost leaves it out)")
                # workers that share a GPU would disturb each other
                places = ["cpu"] * count if list(devices) == ["cpu"] else list(devices)[:count]
                Measuring(pool.workers, pool.start, watcher.notify, interruption).run(
                    measurements, places, time.monotonic() - began
                )
        finally:
            pool.shutdown()
    return not interruption.requested


class Pool:
    """The workers, and the stacks that wait for them, of one call of :func:`run`."""

    def __init__(
        self,
        stacks: Sequence[Cells],
        folder: Path,
        watcher: Watcher,
        reservations: Reservations,
        interruption: Interruption,
        starter: Starter,
        *,
        fail_fast: bool = False,
        on_idle_core: Callable[[], None] | None = None,
    ) -> None:
        self.stacks, self.folder = list(stacks), folder
        self.watcher, self.reservations, self.interruption = watcher, reservations, interruption
        self.fail_fast, self.on_idle_core = fail_fast, on_idle_core
        self.waiting = deque(range(len(stacks)))
        self.tries = [0] * len(stacks)
        self.workers: list[Worker] = []
        self.starter = starter
        self.finished_cells = FinishedCells(folder)
        self.told = set[tuple[str, ...]]()
        self.stopping = self.waiting_reported = self.short = False

    def run(self, devices: Sequence[str]) -> None:
        """Train all waiting stacks, with one worker per entry of ``devices``; the workers stay."""
        while self.waiting or any(worker.stack is not None for worker in self.workers):
            if self.interruption.requested and not self.stopping:
                self.watcher.notify("stopping: what runs is being saved; once more to leave at once")
                self.stop()
            self.start_workers(devices)
            for worker in self.workers:
                if worker.stack is None:
                    self.assign(worker)
            if self.on_idle_core and self.is_core_idle():
                self.on_idle_core()
                self.on_idle_core = None
            self.poll_workers()

    def start_workers(self, devices: Sequence[str]) -> None:
        """Start workers on devices that have none, while there are more waiting stacks than idle workers.

        If the machine has no room for another one, those that there are train all stacks.
        """
        if self.short and self.workers:
            return
        free = list(devices)
        for worker in self.workers:
            free.remove(worker.device)
        idle = sum(worker.stack is None for worker in self.workers)
        for device in free[: max(0, len(self.waiting) - idle)]:
            try:
                self.workers.append(self.start(device))
            except ShortageError as error:
                if not self.workers:
                    raise
                if not self.short:
                    self.short = True
                    self.watcher.notify(f"{error}; the sweep goes on with fewer workers")
                return

    def start(self, device: str) -> Worker:
        """Start a worker on a device; raises as the starter does."""
        return self.starter.start(self.folder, device)

    def is_core_idle(self) -> bool:
        """Return whether no stack is waiting and fewer stacks run than there are cores."""
        return not self.waiting and sum(worker.stack is not None for worker in self.workers) < cores()

    def assign(self, worker: Worker) -> None:
        """Send the next stack to an idle worker, if there is one."""
        worker.stack = self.next_stack()
        if worker.stack is not None:
            self.tries[worker.stack] += 1
            worker.send(tuple(self.stacks[worker.stack]))
            self.watcher.started(worker.stack)

    def next_stack(self) -> int | None:
        """Reserve the first waiting stack that no other run trains or has finished; return its index, or ``None``."""
        refused = False
        for stack in list(self.waiting):
            if not self.reservations.acquire(self.stacks[stack]):
                refused = True
                continue
            self.waiting.remove(stack)
            if not self.skip_finished(stack):
                return stack
            self.reservations.release(self.stacks[stack])
        if refused and not self.waiting_reported:
            self.waiting_reported = True
            self.watcher.notify("waiting for cells that another gradbench run trains in this folder")
        return None

    def skip_finished(self, stack: int) -> bool:
        """Account for cells of a waiting stack that another run has finished.

        If all are finished the stack is reported as finished; if some are, it is split.

        Returns:
            Whether any cell is finished, so that the stack must not be trained as it is.
        """
        cells, known = self.stacks[stack], self.finished_cells.statuses()
        done = [cell for cell in cells if cell.id in known]
        if done:
            self.watcher.started(stack)
        if len(done) == len(cells):
            self.watcher.finished(stack, [known[cell.id] for cell in cells])
        elif done:
            rest = [cell for cell in cells if cell.id not in known]
            self.split(stack, [done, rest], "another run has finished some of its cells")
        return bool(done)

    def split(self, stack: int, pieces: Sequence[Cells], reason: str) -> None:
        """Replace a stack by smaller ones, which are put first in the queue."""
        self.watcher.split(stack, pieces, reason)
        first = len(self.stacks)
        self.stacks += pieces
        self.tries += [0] * len(pieces)
        self.waiting.extendleft(reversed(range(first, len(self.stacks))))

    def poll_workers(self) -> None:
        """Handle messages of the workers, waiting at most ``TICK_SECONDS`` for one."""
        by_pipe = {worker.pipe: worker for worker in self.workers}
        for pipe in wait(list(by_pipe), TICK_SECONDS):
            self.handle_message(by_pipe[pipe])  # type: ignore[index]

    def handle_message(self, worker: Worker) -> None:
        """Handle one message of a worker, or its death."""
        try:
            what, *about = worker.pipe.recv()
        except (EOFError, ConnectionError):
            self.on_worker_death(worker)
            return
        stack = worker.stack
        assert stack is not None
        if what == "progress":
            self.watcher.progress(stack, *about)
            return
        if what == "notify":
            if tuple(about) not in self.told:  # of a tracker that has stopped every worker tells
                self.watcher.notify(*about)
            self.told.add(tuple(about))
            return
        worker.stack = None
        if what == "done":
            self.watcher.finished(stack, *about)
        elif what == "failed":
            self.report_failure(stack, *about)
        elif what == "no room":  # the next stack could not be written either
            self.watcher.failed(stack, *about)
            if not self.stopping:
                self.stop()
        elif what == "too large" and not self.stopping:
            cells = self.stacks[stack]
            half = len(cells) // 2
            self.split(stack, [cells[:half], cells[half:]], "the device has too little memory for all of it")
        self.reservations.release(self.stacks[stack])

    def on_worker_death(self, worker: Worker) -> None:
        """Remove a dead worker; queue its stack again, or record it as failed after ``MAX_TRIES`` tries."""
        self.workers.remove(worker)
        worker.join()
        stack = worker.stack
        if stack is None or self.stopping:
            return
        death = f"its worker process died ({worker.exit_reason()})"
        if self.tries[stack] < MAX_TRIES:
            self.waiting.appendleft(stack)
            self.watcher.retried(stack, death)
            return
        from gradbench.launchers.rows import failed_rows

        reason = f"{death}, {MAX_TRIES} times"
        rows = failed_rows(self.stacks[stack], reason, worker.device, now())
        with contextlib.suppress(StorageError):  # without a row the cells count as unfinished, which is true
            Results(self.folder).write_failures(rows)
        self.reservations.release(self.stacks[stack])
        self.report_failure(stack, reason)

    def report_failure(self, stack: int, reason: str) -> None:
        """Report a failed stack; with fail-fast, stop the sweep."""
        self.watcher.failed(stack, reason)
        if self.fail_fast and not self.stopping:
            self.stop()

    def stop(self) -> None:
        """Clear the queue, and tell every worker to save its stack and exit."""
        self.stopping = True
        self.waiting.clear()
        for worker in self.workers:
            worker.send(None)

    def shutdown(self) -> None:
        """End all workers: tell idle ones to exit, kill busy ones."""
        for worker in self.workers:
            if worker.stack is not None:
                worker.process.kill()
            worker.send(None)  # sent again, in case a second Ctrl-C interrupted stop()
        for worker in self.workers:
            worker.join()

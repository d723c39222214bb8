"""Worker processes on this machine: one thread each on a CPU, one device each on GPUs.

A worker that dies (killed, out of memory) costs its stack one more try, never the sweep.
"""

import contextlib
import multiprocessing
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from gradbench.launchers import Cells, Watcher
from gradbench.provenance import now
from gradbench.results import Results
from gradbench.worker import failed_rows, serve

TRIES = 2
"""How often a stack is given to a worker before its cells count as failed."""


@dataclass
class Worker:
    """A process, the pipe to it, and the stack it is at."""

    process: BaseProcess
    pipe: Connection
    device: torch.device
    stack: int | None = None


def jobs_for(devices: Sequence[torch.device], stacks: int, jobs: int | None) -> int:
    """Return how many workers to start: as many as cores on a CPU, one per GPU, unless ``jobs`` says so."""
    automatic = len(os.sched_getaffinity(0)) if devices[0].type == "cpu" else len(devices)
    return max(1, min(jobs or automatic, stacks))


def run(
    stacks: Sequence[Cells],
    folder: Path,
    devices: Sequence[torch.device],
    jobs: int | None,
    watcher: Watcher,
    fail_fast: bool = False,
) -> None:
    """Train stacks in worker processes, the first first.

    Args:
        stacks: in the order in which they are taken; put the longest first.
        folder: the results folder, which every worker writes to.
        devices: one per GPU, or the CPU; workers take them in turn.
        jobs: number of workers; ``None`` for as many as there are cores or GPUs.
        watcher: is told what happens.
        fail_fast: stop at the first failure.

    Raises:
        KeyboardInterrupt: passed on, once every worker has been stopped; what was finished is in the tables.
    """
    Pool(stacks, folder, devices, watcher, fail_fast).run(jobs_for(devices, len(stacks), jobs))


class Pool:
    """The workers of one call of :func:`run`."""

    def __init__(
        self,
        stacks: Sequence[Cells],
        folder: Path,
        devices: Sequence[torch.device],
        watcher: Watcher,
        fail_fast: bool,
    ) -> None:
        self.stacks, self.folder, self.devices = stacks, folder, devices
        self.watcher, self.fail_fast = watcher, fail_fast
        self.waiting = deque(range(len(stacks)))
        self.tries = [0] * len(stacks)
        self.workers: list[Worker] = []
        # spawn: a forked child would inherit CUDA contexts and locked mutexes
        self.context = multiprocessing.get_context("spawn")
        os.environ["OMP_NUM_THREADS"] = "1"

    def run(self, jobs: int) -> None:
        """Train everything that waits."""
        try:
            for index in range(jobs):
                self.start(self.devices[index % len(self.devices)])
            while any(worker.stack is not None for worker in self.workers):
                by_pipe = {worker.pipe: worker for worker in self.workers}
                for pipe in wait(list(by_pipe)):
                    self.hear(by_pipe[pipe])  # type: ignore[index]
        finally:
            self.stop()

    def start(self, device: torch.device) -> None:
        """Start a worker and give it a stack."""
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=serve, args=(theirs, self.folder, str(device)), daemon=True)
        process.start()
        theirs.close()  # so that a dead worker reads as the end of the pipe
        worker = Worker(process, ours, device)
        self.workers.append(worker)
        self.feed(worker)

    def feed(self, worker: Worker) -> None:
        """Give an idle worker the next stack, if one waits."""
        worker.stack = self.waiting.popleft() if self.waiting else None
        if worker.stack is not None:
            self.tries[worker.stack] += 1
            with contextlib.suppress(OSError):  # it has just died: the end of its pipe will say so
                worker.pipe.send(tuple(self.stacks[worker.stack]))
            self.watcher.started(worker.stack)

    def hear(self, worker: Worker) -> None:
        """Act on what a worker says, or on its death."""
        try:
            message: tuple[Any, ...] = worker.pipe.recv()
        except (EOFError, ConnectionError):
            self.bury(worker)
            return
        stack = worker.stack
        assert stack is not None
        if message[0] == "progress":
            self.watcher.progress(stack, *message[1:])
            return
        if message[0] == "done":
            self.watcher.finished(stack, message[1])
        else:
            self.fail(stack, message[1])
        self.feed(worker)

    def bury(self, worker: Worker) -> None:
        """Replace a worker that died; its stack is tried again, or has failed."""
        self.workers.remove(worker)
        worker.process.join()
        stack = worker.stack
        if stack is not None and self.tries[stack] < TRIES:
            self.waiting.appendleft(stack)
        elif stack is not None:
            code = worker.process.exitcode
            reason = (
                f"its worker process died {TRIES} times (last exit code {code}; -9 is often out of memory)"
            )
            Results(self.folder).write_failures(failed_rows(self.stacks[stack], reason, worker.device, now()))
            self.fail(stack, reason)
        if self.waiting:
            self.start(worker.device)

    def fail(self, stack: int, reason: str) -> None:
        """Tell of a failure; with fail-fast nothing further is started."""
        self.watcher.failed(stack, reason)
        if self.fail_fast:
            self.waiting.clear()

    def stop(self) -> None:
        """End every worker: idle ones are asked, busy ones are stopped."""
        for worker in self.workers:
            if worker.stack is None:
                with contextlib.suppress(OSError):
                    worker.pipe.send(None)
            else:
                worker.process.terminate()
        for worker in self.workers:
            worker.process.join()
            worker.pipe.close()

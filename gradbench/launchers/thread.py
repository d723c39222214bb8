"""A worker that is a thread of this process, for code that no other process can import."""

import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from gradbench.launchers.forkserver import Worker


class WorkerThread(threading.Thread):
    """Serves as a worker; what a worker process does is done here, with this process's modules and classes."""

    exitcode = None

    def __init__(self, pipe: Connection, folder: Path, device: str) -> None:
        super().__init__(name="gradbench worker", daemon=True)
        self.pipe, self.folder, self.device = pipe, folder, device

    def run(self) -> None:
        """Train stacks until there are no more."""
        from gradbench.launchers.worker import serve_in_thread

        with self.pipe:
            serve_in_thread(self.pipe, self.folder, self.device)

    def kill(self) -> None:
        """Do nothing: a thread cannot be ended. It is told to stop, and does so at its next chunk of steps."""


class ThreadStarter:
    """Starts workers that are threads of this process."""

    def start(self, folder: Path, device: str) -> Worker:
        """Start a worker that writes to a results folder and trains on a device."""
        ours, theirs = Pipe()
        thread = WorkerThread(theirs, folder, device)
        thread.start()
        return Worker(thread, ours, device)

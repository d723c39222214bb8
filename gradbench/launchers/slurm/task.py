"""What submitit runs on a node: a process that trains stacks, and that is told to save them when time is up."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from gradbench.launchers.forkserver import describe_exit
from gradbench.signals import INTERRUPTED

TOLD_TO_STOP = (INTERRUPTED, -signal.SIGTERM)
"""Exit statuses of a process that was told to stop."""

PATIENCE_SECONDS = 600.0
"""Seconds that a task waits for its end once SLURM has told it to stop: more than the grace that clusters give."""

# The whole step gets SLURM's warning; only submitit, which runs this, is to act on it.
QUIET = ("sh", "-c", "trap '' USR2; exec \"$@\"", "gradbench")


@dataclass
class Task:
    """Trains some stacks of a plan in a process of its own; it is pickled.

    Attributes:
        arguments: of ``gradbench task``.
        process: runs it, once the task has begun.
    """

    arguments: list[str]
    process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Train, until everything is in the tables or the process is told to stop.

        Raises:
            RuntimeError: if the process ends in any other way, so that SLURM calls the task failed.
        """
        self.process = subprocess.Popen([*QUIET, sys.executable, "-m", "gradbench", "task", *self.arguments])
        # wait() holds a lock meanwhile, and checkpoint(), which interrupts it, would wait for that lock for ever
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        status = self.process.wait()
        if status in TOLD_TO_STOP:
            # SLURM cancels, preempts or requeues the task, and only one that is still there goes on afterwards
            time.sleep(PATIENCE_SECONDS)
        elif status:
            raise RuntimeError(f"gradbench has ended with {describe_exit(status)}")

    def checkpoint(self) -> Any:
        """Let the process save what it trains, and go on when SLURM starts the task again."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait()
        return DelayedSubmission(Task(self.arguments))

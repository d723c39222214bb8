"""What submitit runs on a node: a process that trains stacks, and that is told to save them when time is up."""

import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

# The whole step gets SLURM's warning; only submitit, which runs this, is to act on it.
QUIET = ("sh", "-c", "trap '' USR2; exec \"$@\"", "gradbench")


@dataclass
class Task:
    """Trains some stacks of a plan in a process of its own; it is pickled.

    Attributes:
        arguments: of ``gradbench task``.
    """

    arguments: list[str]

    def __call__(self) -> int:
        """Train, until everything is in the tables or the process is told to stop; return its exit status."""
        self.process = subprocess.Popen([*QUIET, sys.executable, "-m", "gradbench", "task", *self.arguments])
        return self.process.wait()

    def checkpoint(self) -> Any:
        """Let the process save what it trains, and go on when SLURM starts the task again."""
        from submitit.helpers import DelayedSubmission

        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        return DelayedSubmission(Task(self.arguments))

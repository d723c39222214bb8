"""Ask SLURM what it has in its queue, and cancel tasks. Accounting (``sacct``) is not needed."""

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradbench.errors import UsageError

PREFIX = "gradbench-"
"""Begin of a job's name; the rest is the token of its submission, which no other job has, whatever its number."""

SECONDS = 60.0
"""Seconds after which a command of SLURM has no answer."""

FIELDS = "%i|%j|%T|%N|%r"
"""What ``squeue`` prints of a task: id, name, state, node, reason."""

COMPLETING, COMPLETED, CANCELLED = "COMPLETING", "COMPLETED", "CANCELLED"

LIVE = frozenset(
    (
        *("PENDING", "CONFIGURING", "STAGE_OUT", "RUNNING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING"),
        *(COMPLETING, "REQUEUED", "REQUEUE_FED", "RESV_DEL_HOLD"),
    )
)
"""States of a task that may train yet."""

HELD = ("REQUEUE_HOLD", "SPECIAL_EXIT")
"""States of a task that SLURM holds until an administrator acts."""


class NoAnswerError(Exception):
    """SLURM does not answer."""


@dataclass(frozen=True)
class Task:
    """A task as ``squeue`` shows it.

    Attributes:
        id: of the job, and within an array of the task: ``17_3``.
        token: of its submission.
        index: of the task in its submission.
        state: SLURM's word.
        node: where it runs.
        reason: why it does not.
    """

    id: str
    token: str
    index: int
    state: str
    node: str
    reason: str

    @property
    def is_held(self) -> bool:
        """Whether SLURM failed to start it, and holds it for ever."""
        return self.state in HELD or "launch failed" in self.reason.replace("_", " ")

    @property
    def is_live(self) -> bool:
        """Whether it trains, or will without anybody's help."""
        return self.state in LIVE and not self.is_held

    @property
    def will_train(self) -> bool:
        """Whether it trains, or will, and is not ending: one that was cancelled ends for half a minute."""
        return self.is_live and self.state != COMPLETING


def check_available() -> None:
    """Raise ``UsageError`` if SLURM's commands are not on this machine."""
    missing = [name for name in ("sbatch", "squeue", "scancel", "srun") if shutil.which(name) is None]
    if missing:
        raise UsageError(
            f"launcher=slurm needs SLURM's commands, and {', '.join(missing)} cannot be found; type this on a login "
            "node of the cluster, or leave launcher=slurm out"
        )


def call(*command: str) -> str:
    """Return what a command of SLURM prints.

    Raises:
        NoAnswerError: if it fails, or takes too long.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoAnswerError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise NoAnswerError(f"{command[0]}: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    return done.stdout


def list_tasks(tokens: Iterable[str]) -> list[Task]:
    """Return the tasks of some submissions that SLURM knows, those that have just ended included.

    Raises:
        NoAnswerError: if SLURM does not answer.
    """
    names = ",".join(PREFIX + token for token in tokens)
    if not names:
        return []
    printed = call(
        *("squeue", "--noheader", "--array", "--states=all", f"--name={names}", f"--format={FIELDS}")
    )
    return [task for line in printed.splitlines() if (task := parse_task(line))]


def parse_task(line: str) -> Task | None:
    """Return the task of one line of ``squeue``; ``None`` for a line that names no job of ours."""
    fields = [field.strip() for field in line.split("|")]
    match = re.fullmatch(r"\d+(?:_(\d+))?", fields[0])
    if len(fields) != 5 or match is None or not fields[1].startswith(PREFIX):
        return None
    identity, name, state, node, reason = fields
    return Task(identity, name.removeprefix(PREFIX), int(match[1] or 0), state, node, reason)


def describe_tasks(tasks: Sequence[Task]) -> str:
    """Return how many tasks are in which state, and why they wait."""
    said = Counter("held by SLURM" if task.is_held else f"{task.state.lower()}{why(task)}" for task in tasks)
    return ", ".join(f"{number} {state}" for state, number in sorted(said.items())) or "none"


def why(task: Task) -> str:
    """Return why a task waits, in brackets."""
    return f" ({task.reason})" if task.state == "PENDING" and task.reason not in ("", "None") else ""


def cancel(tasks: Sequence[Task]) -> None:
    """Cancel tasks.

    Raises:
        NoAnswerError: if SLURM does not answer.
    """
    for first in range(0, len(tasks), 500):  # a command line has its limits
        ids = [task.id for task in tasks[first : first + 500]]
        call("scancel", *ids)


def largest_array() -> int:
    """Return how many tasks an array may have on this cluster.

    Raises:
        NoAnswerError: if SLURM does not answer.
    """
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", call("scontrol", "show", "config"), re.MULTILINE)
    return max(int(match[1]), 1) if match else 1001

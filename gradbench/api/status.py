"""What a results folder was asked for, what is finished, and what trains elsewhere."""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gradbench.errors import UsageError
from gradbench.launchers.slurm import queue
from gradbench.launchers.slurm.submissions import Submission, list_own_submissions
from gradbench.storage.grids import cells_of, list_grids, read_experiment
from gradbench.storage.results import FINISHED, Results
from gradbench.storage.sanitize import check_folder, escape_controls, is_command

MAX_FAILURES = 5
"""Number of failed cells that are shown."""

TO_RUN = "to run"


@dataclass(frozen=True)
class Grid:
    """A grid that the folder was asked for: its command, how many cells it has, and how many of each status."""

    command: str
    cells: int
    counts: Counter[str]


@dataclass(frozen=True)
class Submitted:
    """Tasks that were submitted together: SLURM's number of their job, when, how many, and what the queue says."""

    job: int
    submitted: str
    tasks: int
    queue: str


@dataclass(frozen=True)
class Failure:
    """A failed cell, and the last line of its error."""

    cell: str
    reason: str


@dataclass(frozen=True)
class Status:
    """The status of a results folder; ``statuses`` are the columns of the grids, in their order."""

    grids: Sequence[Grid]
    statuses: Sequence[str]
    submissions: Sequence[Submitted]
    failures: Sequence[Failure]
    notes: Sequence[str] = field(default_factory=list)
    next_commands: Sequence[str] = field(default_factory=list)


def check_results(folder: Path) -> None:
    """Raise ``UsageError`` unless a folder is a results folder."""
    if not folder.is_dir() or not Results(folder).is_results():
        raise UsageError(f"{folder} is no results folder; name one that `gradbench run` has written")
    check_folder(folder)


def read_status(folder: Path) -> Status:
    """Read the status of a results folder, and of the queue where it has submitted tasks.

    Raises:
        UsageError: if it is no results folder.
        DamagedError: if its ``experiment.yaml`` cannot be read.
    """
    check_results(folder)
    table = Results(folder).cells(["cell", "status", "error"])
    known = dict(zip(table["cell"], table["status"], strict=True)) if len(table) else {}
    grids = []
    for grid in list_grids(read_experiment(folder)):
        cells, command = cells_of(grid), grid.get("command")
        counts = Counter(known.get(cell, TO_RUN) for cell in cells)
        grids.append(Grid(str(command) if is_command(command) else "unknown", len(cells), counts))
    present = {name for grid in grids for name in grid.counts}
    failed = table[table["status"] == "failed"].itertuples(index=False) if len(table) else ()
    failures = [Failure(str(row.cell), last_line(row.error)) for row in failed]
    submissions, notes, live = read_queue(folder)
    left = sum(grid.counts[TO_RUN] + grid.counts["failed"] for grid in grids[:1])
    following = []
    if live:
        following.append(f"cancel: gradbench cancel {folder}")
    elif left and grids:
        following.append(f"train what is left: {grids[0].command}")
    elif grids:
        following.append(f"report: gradbench report {folder}")
    columns = [name for name in (*FINISHED, "failed", TO_RUN) if name in present]
    return Status(grids, columns, submissions, failures, notes, following)


def last_line(error: object) -> str:
    """Return the last line of a traceback."""
    lines = str(error).strip().splitlines()
    return escape_controls(lines[-1]) if lines else "unknown"


def read_queue(folder: Path) -> tuple[list[Submitted], list[str], int]:
    """Return a folder's submissions with what the queue says, lines for the user, and the number of living tasks."""
    submissions = list_own_submissions(folder)
    tasks: list[queue.Task] = []
    notes = []
    if submissions and shutil.which("squeue") is None:
        notes.append(
            "SLURM's squeue cannot be found here: what is in the queue is shown on a login node of the cluster"
        )
    elif submissions:
        try:
            tasks = list_waiting(submissions)
        except queue.NoAnswerError as error:
            notes.append(f"SLURM does not answer ({error})")
    found = []
    for one in submissions:
        mine = [task for task in tasks if task.token == one.token]
        said = "unknown" if notes else queue.describe_tasks(mine)
        found.append(Submitted(one.job, one.submitted, len(one.tasks), said))
    return found, notes, len(tasks)


def list_waiting(submissions: Sequence[Submission]) -> list[queue.Task]:
    """Return the tasks of submissions that train, wait or are held.

    Raises:
        NoAnswerError: if SLURM does not answer.
    """
    tasks = queue.list_tasks(one.token for one in submissions)
    return [task for task in tasks if task.is_live or task.is_held]


def cancel_tasks(folder: Path) -> list[queue.Task]:
    """Cancel the tasks of a results folder that SLURM has, and return them.

    Raises:
        UsageError: if it is no results folder, or SLURM does not answer.
    """
    check_results(folder)
    submissions = list_own_submissions(folder)
    if not submissions:
        return []
    queue.check_available()
    try:
        tasks = list_waiting(submissions)
        queue.cancel(tasks)
    except queue.NoAnswerError as error:
        raise UsageError(f"SLURM does not answer ({error}); nothing was cancelled, try again") from error
    return tasks

"""What was submitted from a results folder: ``jobs/<token>/submission.json``, beside the logs of its tasks."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gradbench.atomic import write_atomically
from gradbench.errors import DamagedError
from gradbench.storage.plans import read_ids
from gradbench.storage.sanitize import open_regular

JOBS = "jobs"
"""Folder of the submissions in a results folder."""

MAX_BYTES = 2**26
"""Bytes of the largest file of a submission that is read."""


@dataclass(frozen=True)
class Submission:
    """Tasks that were submitted together.

    Attributes:
        token: names it, its folder and its jobs.
        plan: id of the plan whose stacks the tasks train.
        tasks: numbers of the stacks of each task, by index.
        submitted: when, as text.
        results: path of the results folder, which the tasks write to.
        job: SLURM's number of the job array; 0 if it is not known.
    """

    token: str
    plan: str
    tasks: Sequence[Sequence[int]]
    submitted: str
    results: str
    job: int = 0

    def write(self, folder: Path) -> None:
        """Write it, over what was written before.

        Raises:
            StorageError: if it cannot be written.
        """
        text = json.dumps(asdict(self)).encode()
        write_atomically(self.folder(folder) / "submission.json", lambda file: file.write(text))

    def folder(self, folder: Path) -> Path:
        """Return its folder in a results folder."""
        return folder / JOBS / self.token

    def log(self, folder: Path, index: int) -> Path | None:
        """Return the log of one of its tasks; ``None`` if it has not begun."""
        only = len(self.tasks) == 1
        name = f"{self.job}_0_log.out" if only else f"{self.job}_{index}_0_log.out"
        path = self.folder(folder) / name
        return path if path.is_file() else None


def list_submissions(folder: Path) -> list[Submission]:
    """Return the submissions of a results folder, the oldest first; unreadable ones are left out."""
    found = []
    for path in (folder / JOBS).glob("*/submission.json"):
        try:
            with open_regular(path, MAX_BYTES) as file:
                submission = Submission(**json.loads(file.read()))
        except (OSError, ValueError, TypeError, RecursionError, DamagedError):
            continue
        if submission.token == path.parent.name and is_well_formed(submission):
            found.append(submission)
    return sorted(found, key=lambda submission: submission.submitted)


def list_own_submissions(folder: Path) -> list[Submission]:
    """Return the submissions whose tasks write to a results folder, and not to another one that it is a copy of."""
    own = str(folder.resolve())
    return [one for one in list_submissions(folder) if one.results == own]


def is_well_formed(submission: Submission) -> bool:
    """Return whether what was read has the types of a submission: a results folder is data that anybody may send."""
    tasks = submission.tasks
    return (
        re.fullmatch(r"[0-9a-f]{8}", submission.token) is not None
        and re.fullmatch(r"[0-9a-f]{16}", str(submission.plan)) is not None
        and type(submission.job) is int
        and isinstance(submission.submitted, str)
        and isinstance(submission.results, str)
        and isinstance(tasks, list)
        and all(isinstance(one, list) and all(type(number) is int for number in one) for one in tasks)
    )


def cells_of_tasks(folder: Path, submissions: Sequence[Submission]) -> dict[tuple[str, int], set[str]]:
    """Return (token, index) of each task -> ids of the cells that it trains."""
    plans = {one: ids for one in {each.plan for each in submissions} if (ids := read_ids(folder, one))}
    found: dict[tuple[str, int], set[str]] = {}
    for one in submissions:
        stacks = dict(enumerate(plans.get(one.plan, ())))
        for index, numbers in enumerate(one.tasks):
            found[one.token, index] = {cell for number in numbers for cell in stacks.get(number, ())}
    return found


def last_log(folder: Path, cell: str) -> Path | None:
    """Return the log of the last task that was to train a cell; ``None`` if none has begun."""
    submissions = list_submissions(folder)
    tasks = cells_of_tasks(folder, submissions)
    for one in reversed(submissions):
        for index in range(len(one.tasks)):
            if cell in tasks.get((one.token, index), ()) and (log := one.log(folder, index)):
                return log
    return None

"""What was submitted from a results folder: ``jobs/<token>/submission.json``, beside the logs of its tasks."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gradbench.atomic import write_atomically
from gradbench.storage.plans import read_ids

JOBS = "jobs"
"""Folder of the submissions in a results folder."""


@dataclass(frozen=True)
class Submission:
    """Tasks that were submitted together.

    Attributes:
        token: names it, its folder and its jobs.
        plan: id of the plan whose stacks the tasks train.
        tasks: numbers of the stacks of each task, by index.
        submitted: when, as text.
        job: SLURM's number of the job array; 0 if it is not known.
        cancelled: whether its tasks were cancelled by ``gradbench cancel``.
    """

    token: str
    plan: str
    tasks: Sequence[Sequence[int]]
    submitted: str
    job: int = 0
    cancelled: bool = False

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
            found.append(Submission(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue
    return sorted(found, key=lambda submission: submission.submitted)


def cells_of_tasks(folder: Path, submissions: Sequence[Submission]) -> dict[tuple[str, int], set[str]]:
    """Return (token, index) of each task -> ids of the cells that it trains."""
    plan = {one: ids for one in {each.plan for each in submissions} if (ids := read_ids(folder, one))}
    return {
        (one.token, index): {cell for number in numbers for cell in plan[one.plan][number]}
        for one in submissions
        if one.plan in plan
        for index, numbers in enumerate(one.tasks)
    }

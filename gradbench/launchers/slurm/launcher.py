"""The launcher ``slurm``: submit tasks, and watch the tables and the queue until every stack is in the tables."""

import contextlib
import io
import math
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gradbench.atomic import make_shared_folder
from gradbench.errors import StorageError, UsageError
from gradbench.grid.stacks import deal
from gradbench.launchers import Cells, Ending, Watcher, Work
from gradbench.launchers.slurm import queue
from gradbench.launchers.slurm.queue import NoAnswerError
from gradbench.launchers.slurm.submissions import JOBS, Submission, cells_of_tasks, list_own_submissions
from gradbench.launchers.slurm.task import Task
from gradbench.signals import Interruption
from gradbench.storage.locks import FinishedCells, Reservations
from gradbench.storage.provenance import now
from gradbench.storage.results import Results

POLL_SECONDS = 5.0
"""Seconds between two looks at the queue."""

TICK_SECONDS = 0.2
"""Seconds between two looks for Ctrl-C."""

SETTLE_SECONDS = 20.0
"""Seconds after a task has left the queue until what it wrote is seen on every node: NFS remembers old listings."""

UNKNOWN_TASKS = 64
"""Number of tasks, at most, for stacks whose time is not known, where ``parallel`` does not say it."""

SIGNAL_SECONDS = 90
"""Seconds before the time limit at which a task is told to save what it trains; for short limits, a quarter of them."""


OWN_OPTIONS = {
    **dict.fromkeys(("job-name", "array", "nodes", "ntasks", "ntasks-per-node"), ", to know its tasks"),
    **dict.fromkeys(("output", "error", "open-mode"), ", to find their logs"),
    **dict.fromkeys(("signal", "requeue", "no-requeue"), ", so that what trains is saved and goes on"),
    **dict.fromkeys(("parsable", "test-only", "wait", "wrap"), ", or not at all"),
    **{"time": " by launcher.minutes", "cpus-per-task": " by launcher.cpus"},
}
"""Option of sbatch that is not the user's -> how gradbench says it, or why."""

OWN_VARIABLES = tuple(
    "SBATCH_" + name
    for name in (
        *("JOB_NAME", "ARRAY_INX", "OUTPUT", "ERROR", "OPEN_MODE"),
        *("SIGNAL", "REQUEUE", "NO_REQUEUE", "TIMELIMIT", "WAIT"),
    )
)
"""Variables by which sbatch would overrule what gradbench says to it."""


@dataclass(frozen=True)
class Slurm:
    """The launcher of a SLURM cluster; the arguments are described in ``conf/launcher/slurm.yaml``."""

    parallel: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int = 0
    cpus: int = 1
    memory_gb: float | None = None
    minutes: int = 60
    task_minutes: float = 10.0
    device: str | None = None
    device_memory_gb: float | None = None
    tries: int = 3
    setup: Sequence[str] = ()
    python: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def declared_device(self) -> str:
        """Return the kind of device of the nodes."""
        return self.device or ("cuda" if self.gpus else "cpu")

    def device_bytes(self) -> int | None:
        """Return the memory of a GPU of the nodes, if it is said."""
        return None if self.device_memory_gb is None else int(self.device_memory_gb * 2**30)

    @property
    def workers(self) -> int:
        """Number of stacks that a task trains at the same time."""
        return max(self.gpus, 1) if self.declared_device() == "cuda" else self.cpus

    def describe(self, devices: Sequence[str], stacks: int) -> str:
        """Return the number of tasks at a time, and the kind of device."""
        most = (
            f"at most {self.parallel} at a time" if self.parallel else "as many at a time as the cluster lets"
        )
        return f"tasks of SLURM on {self.declared_device()}, {most}"

    def count_workers(self, devices: Sequence[str], stacks: int) -> int:
        """Return how many stacks train at the same time, at most."""
        return max(1, min(stacks, self.workers * (self.parallel or UNKNOWN_TASKS)))

    def count_tasks(self, stacks: int, seconds: float | None, limit: int) -> int:
        """Return into how many tasks stacks are put: each is to last ``task_minutes``, where that can be told.

        Args:
            stacks: number of stacks.
            seconds: expected time of one worker for all of them, if it is known.
            limit: number of tasks that the cluster takes in one array.
        """
        if seconds is None:
            wanted = 4 * self.parallel if self.parallel else UNKNOWN_TASKS
        else:
            wanted = math.ceil(seconds / (60 * self.task_minutes * self.workers))
        return max(1, min(wanted, stacks, limit))

    def check(self, *, in_process: bool, detach: bool) -> None:
        """Refuse what cannot go elsewhere, and a machine that cannot submit."""
        if in_process:
            raise UsageError(
                "launcher=slurm: code that only this process has cannot go to other machines; put it into a module in "
                "the folder where you type, or leave launcher=slurm out"
            )
        if find_spec("submitit") is None:
            raise UsageError(
                "launcher=slurm needs the package submitit; type: pip install 'gradbench[slurm]'"
            )
        for name in self.options:
            if (option := str(name).replace("_", "-")) in OWN_OPTIONS:
                raise UsageError(
                    f"launcher.options.{name}: gradbench says --{option} to sbatch itself{OWN_OPTIONS[option]}; leave "
                    "it out"
                )
        queue.check_available()

    def run(self, work: Work, watcher: Watcher, reservations: Reservations, *, detach: bool) -> Ending:
        """Submit what no task of this folder trains yet; unless detached, wait until everything is in the tables."""
        with Interruption() as interruption:
            watch = Watch(self, work, watcher, reservations)
            try:
                watch.submit_untaken(set(watch.left))
            except NoAnswerError as error:
                raise UsageError(f"launcher=slurm: {error}; nothing was submitted, see: sinfo") from error
            if detach:
                return Ending.DETACHED
            while watch.left and not interruption.requested:
                watch.look()
                until = time.monotonic() + POLL_SECONDS
                while watch.left and time.monotonic() < until and not interruption.requested:
                    time.sleep(TICK_SECONDS)
        if interruption.requested:
            watcher.notify(
                "the tasks stay in the queue: gradbench cancel takes them out, the same command goes on"
            )
        return Ending.INTERRUPTED if interruption.requested or watch.cancelled else Ending.COMPLETE

    def submit(self, folder: Path, submission: Submission) -> int:
        """Submit tasks; return SLURM's number of their job.

        Raises:
            UsageError: if SLURM refuses them.
        """
        import submitit

        own = submission.folder(folder)
        names = ("partition", "account", "qos", "constraint")
        given = {name: str(value) for name in names if (value := getattr(self, name)) is not None}
        if self.memory_gb is not None:
            given["mem"] = f"{math.ceil(self.memory_gb * 1024)}M"
        if self.gpus:
            given["gpus_per_node"] = str(self.gpus)
        python = None if self.python is None else str(self.python)
        executor = submitit.SlurmExecutor(own, max_num_timeout=10**6, python=python)
        arguments = [
            *(str(folder), submission.plan),
            *("--kind", self.declared_device(), "--workers", str(self.workers)),
        ]
        try:
            executor.update_parameters(
                job_name=queue.PREFIX + submission.token,
                time=self.minutes,
                cpus_per_task=self.cpus,
                signal_delay_s=min(SIGNAL_SECONDS, 15 * self.minutes),
                array_parallelism=self.parallel or len(submission.tasks),
                stderr_to_stdout=True,
                setup=list(map(str, self.setup)),
                additional_parameters={"requeue": True, **self.options},
                **given,
            )
            # an error has what sbatch says, and submitit prints it besides
            with without_own_options(), contextlib.redirect_stderr(io.StringIO()), executor.batch():
                jobs = [
                    executor.submit(Task([*arguments, "--stacks", ",".join(map(str, one))]))
                    for one in submission.tasks
                ]
        except Exception as error:  # submitit's own, and what sbatch says
            shutil.rmtree(own, ignore_errors=True)
            raise UsageError(f"launcher=slurm: SLURM took no task: {reason_in(error)}") from error
        return int(str(jobs[0].job_id).partition("_")[0])


class Watch:
    """The tasks of a run, and what is known of its stacks.

    Args:
        launcher: submits tasks.
        work: what is to be trained.
        watcher: receives the events.
        reservations: of the folder; one run at a time submits.
    """

    def __init__(self, launcher: Slurm, work: Work, watcher: Watcher, reservations: Reservations) -> None:
        self.launcher, self.watcher, self.reservations = launcher, watcher, reservations
        self.work = replace(work, folder=work.folder.resolve())
        self.folder = self.work.folder
        self.seconds = work.expect_seconds()
        self.left = dict(enumerate(work.stacks))
        self.tries = dict.fromkeys(self.left, 0)
        self.finished = FinishedCells(self.folder)
        self.failed_before = self.failures()
        self.gone: dict[tuple[str, int], float] = {}
        self.tasks: dict[tuple[str, int], set[int]] = {}
        self.told = ""
        self.cancelled = False

    def failures(self) -> dict[str, int]:
        """Return the cells that have a row of failure, and when it was written."""
        found = {}
        for path in (self.folder / "cells").glob("failed-*.parquet"):
            with contextlib.suppress(OSError):  # a success has just removed it
                found[path.stem.removeprefix("failed-")] = path.stat().st_mtime_ns
        return found

    def submit_untaken(self, stacks: set[int]) -> None:
        """Submit tasks for those of some stacks that no living task trains, whichever run submitted it.

        Raises:
            NoAnswerError: if SLURM does not answer.
            UsageError: if it refuses.
            StorageError: if the folder cannot be written.
        """
        if stacks:
            with self.reservations.exclusive():
                self.submit(self.untaken(stacks))

    def untaken(self, stacks: set[int]) -> list[int]:
        """Return the stacks that no living task of this folder trains, and follow the tasks that train the others.

        Raises:
            NoAnswerError: if SLURM does not answer.
        """
        submissions = list_own_submissions(self.folder)
        live = [task for task in queue.list_tasks(one.token for one in submissions) if task.will_train]
        tokens = {task.token for task in live}
        cells = cells_of_tasks(self.folder, [one for one in submissions if one.token in tokens])
        trained_by = {
            cell: (task.token, task.index)
            for task in live
            for cell in cells.get((task.token, task.index), ())
        }
        taken: set[int] = set()
        followed = set(self.tasks)
        for one in sorted(stacks):
            for key in {trained_by[cell.id] for cell in self.left[one] if cell.id in trained_by}:
                self.tasks.setdefault(key, set()).add(one)
                taken.add(one)
        if self.tasks.keys() - followed:
            self.watcher.notify(
                f"{count(len(self.tasks.keys() - followed), 'task')} of an earlier run are in the queue; they go on"
            )
        return sorted(stacks - taken)

    def submit(self, stacks: Sequence[int]) -> None:
        """Submit tasks for stacks.

        Raises:
            NoAnswerError: if SLURM does not answer.
            UsageError: if it refuses.
            StorageError: if the folder cannot be written.
        """
        if not stacks:
            return
        costs = [self.work.costs[one] for one in stacks]
        seconds = self.seconds and self.seconds * sum(costs) / (sum(self.work.costs) or 1.0)
        number = self.launcher.count_tasks(len(stacks), seconds, queue.largest_array())
        shares = [[stacks[index] for index in one] for one in deal(costs, number)]
        submission = Submission(
            secrets.token_hex(4),
            self.work.plan,
            [[self.work.numbers[one] for one in share] for share in shares],
            now(),
            str(self.folder),
        )
        try:
            make_shared_folder(self.folder / JOBS)
            make_shared_folder(submission.folder(self.folder))
        except OSError as error:
            raise StorageError(f"cannot make {submission.folder(self.folder)} ({error.strerror})") from error
        submission.write(self.folder)  # before there are tasks: a kill in between forgets none
        job = self.launcher.submit(self.folder, submission)
        replace(submission, job=job).write(self.folder)
        for index, mine in enumerate(shares):
            self.tasks[submission.token, index] = set(mine)
        for one in stacks:
            self.tries[one] += 1
        self.watcher.notify(
            f"{count(number, 'task')} submitted as job {job}; logs: {submission.folder(self.folder)}"
        )

    def look(self) -> None:
        """Read tables and queue once: tell what has ended, and submit again what was lost."""
        try:
            known = {
                (task.token, task.index): task for task in queue.list_tasks({key[0] for key in self.tasks})
            }
        except NoAnswerError as error:
            self.tell(f"SLURM does not answer ({error}); waiting")
            self.read_tables()
            return
        self.read_tables()
        live: list[queue.Task] = []
        lost: set[int] = set()
        for key, stacks in list(self.tasks.items()):
            task, left = known.get(key), stacks & self.left.keys()
            if not left:
                del self.tasks[key]
            elif task is not None and task.is_live:
                live.append(task)
                self.gone.pop(key, None)
            elif time.monotonic() - self.gone.setdefault(key, time.monotonic()) >= SETTLE_SECONDS:
                del self.tasks[key]
                lost |= self.give_up(task, left)
        if live:
            self.tell(f"tasks: {queue.describe_tasks(live)}")
        self.submit_again(sorted(lost))

    def give_up(self, task: queue.Task | None, stacks: set[int]) -> set[int]:
        """Handle a task that has left the queue without finishing its stacks; return those to submit again."""
        if task is not None and task.is_held:
            with contextlib.suppress(NoAnswerError):
                queue.cancel([task])
        if task is not None and task.state == queue.CANCELLED and not task.is_held:
            self.tell("tasks were cancelled; what they have not finished is left: the same command goes on")
            for one in stacks:
                del self.left[one]
            self.cancelled = True
            return set()
        again = {one for one in stacks if self.tries[one] < self.launcher.tries}
        end = describe_end(task)
        for one in sorted(stacks - again):
            self.fail(one, f"{end} without a result, {count(self.tries[one], 'time')}")
        for one in sorted(again):
            self.watcher.retried(one, end)
        return again

    def submit_again(self, stacks: Sequence[int]) -> None:
        """Submit lost stacks; if that cannot be now, at a later look."""
        try:
            self.submit_untaken(set(stacks))
        except (NoAnswerError, UsageError) as error:
            self.tell(f"{error}; trying again")
            self.tasks["", -1] = {*stacks, *self.tasks.get(("", -1), ())}

    def fail(self, stack: int, reason: str) -> None:
        """Record that a stack has failed, and report it."""
        from gradbench.launchers.rows import failed_rows

        cells = self.left.pop(stack)
        with contextlib.suppress(StorageError):  # without a row the cells count as unfinished, which is true
            rows = failed_rows(cells, reason, self.launcher.declared_device(), now())
            Results(self.folder).write_failures(rows)
        self.watcher.started(stack)
        self.watcher.failed(stack, reason)

    def read_tables(self) -> None:
        """Tell of the stacks whose cells are in the tables."""
        statuses, failed = self.finished.statuses(), self.failures()
        new = {cell for cell, written in failed.items() if self.failed_before.get(cell) != written}
        for stack, cells in list(self.left.items()):
            ids = [cell.id for cell in cells]
            if all(cell in statuses for cell in ids):
                del self.left[stack]
                self.watcher.started(stack)
                self.watcher.finished(stack, [statuses[cell] for cell in ids])
            elif all(cell in statuses or cell in new for cell in ids):
                del self.left[stack]
                self.watcher.started(stack)
                self.watcher.failed(stack, reason_of(self.folder, cells))
                if self.work.fail_fast:
                    self.stop()
                    break

    def stop(self) -> None:
        """Cancel all tasks, and wait for none."""
        with contextlib.suppress(NoAnswerError):
            queue.cancel([task for task in queue.list_tasks({key[0] for key in self.tasks}) if task.is_live])
        self.left.clear()

    def tell(self, line: str) -> None:
        """Notify the user, once."""
        if line != self.told:
            self.told = line
            self.watcher.notify(line)


@contextlib.contextmanager
def without_own_options() -> Iterator[None]:
    """Take the variables that overrule gradbench's own options out of the environment for the block."""
    taken = {name: os.environ.pop(name) for name in OWN_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)


def reason_in(error: Exception) -> str:
    """Return the line of an error of submitit that says why: the last that sbatch calls an error."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in reversed(lines) if "error:" in line or "unrecognized" in line), lines[-1])


def describe_end(task: queue.Task | None) -> str:
    """Return how a task has ended that has not finished its stacks."""
    if task is None or task.state == queue.COMPLETED:
        return "its task left the queue"
    return "SLURM could not start its task" if task.is_held else f"its task ended as {task.state.lower()}"


def reason_of(folder: Path, cells: Cells) -> str:
    """Return the last line of the error that a stack's rows have."""
    table = Results(folder).cells(["cell", "status", "error"])
    errors = table[table["cell"].isin([cell.id for cell in cells])]["error"].dropna()
    return str(errors.iloc[0]).strip().splitlines()[-1] if len(errors) else "it failed"


def count(number: int, noun: str) -> str:
    """Return ``1 task``, ``2 tasks``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

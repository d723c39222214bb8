"""Launchers: train the stacks of a plan somewhere, on this machine (``local``) or in a cluster (``slurm``).

What trains a stack writes its results to the tables itself, and these alone say what came of it. Here belongs how
processes and tasks start, stop and speak to each other. Nothing here prints.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the command line starts the forkserver before it imports anything heavy
    import torch

    from gradbench.grid.cell import Cell
    from gradbench.storage.locks import Reservations

Cells = Sequence["Cell"]
"""The cells of a stack that are sent to a worker: those that are not finished yet."""


class Measurement(Protocol):
    """What a worker is asked to measure when everything is trained; it is pickled."""

    @property
    def title(self) -> str:
        """What is measured, in a few words."""

    @property
    def wanted(self) -> bool:
        """Whether it is made however long the others took."""

    def __call__(self, folder: Path, device: "torch.device", stop: Callable[[], bool]) -> None:
        """Measure, and write to the results folder. It may raise; a UsageError is a reason in words.

        Args:
            folder: the results folder.
            device: the worker's device.
            stop: returns whether to leave now, by raising a StoppedError.
        """


class Watcher(Protocol):
    """Callbacks for the events of a sweep. ``stack`` is the index of a stack."""

    def started(self, stack: int) -> None:
        """Handle that a worker has started to train the stack."""

    def progress(self, stack: int, step: int, losses: list[float]) -> None:
        """Handle that the stack has reached a step; the loss of a diverged cell is NaN."""

    def finished(self, stack: int, statuses: list[str]) -> None:
        """Handle that the stack's cells are in the tables, as ``completed`` or ``diverged``."""

    def failed(self, stack: int, reason: str) -> None:
        """Handle that the stack's cells are in the tables as ``failed``."""

    def retried(self, stack: int, reason: str) -> None:
        """Handle that the stack's worker died; the stack will be resumed from its checkpoint."""

    def split(self, stack: int, pieces: Sequence[Cells], reason: str) -> None:
        """Handle that the stack is replaced by several smaller ones, which get the next free indices."""

    def notify(self, line: str) -> None:
        """Show a message to the user."""


@dataclass(frozen=True)
class Work:
    """What a launcher is to train.

    Attributes:
        stacks: the unfinished cells of each stack, the most expensive stack first.
        numbers: the number of each stack in the stored plan.
        costs: expected cost of training each stack, in a unit of its own.
        expect_seconds: returns the expected time of one worker for all of them; ``None`` if that is not known.
        plan: id of the plan in the results folder.
        folder: the results folder.
        devices: names of the devices to train on.
        fail_fast: save what runs and stop at the first failure.
        on_idle_core: called at most once, when a core of this machine becomes idle because no stack is waiting.
        in_process: the code is only in this process.
        measurements: made when everything is trained.
    """

    stacks: Sequence[Cells]
    numbers: Sequence[int]
    costs: Sequence[float]
    expect_seconds: Callable[[], float | None]
    plan: str
    folder: Path
    devices: Sequence[str]
    fail_fast: bool = False
    on_idle_core: Callable[[], None] | None = None
    in_process: bool = False
    measurements: Sequence[Measurement] = ()


class Ending(Enum):
    """How a launcher ended."""

    COMPLETE = "complete"
    """Every stack was trained, or failed."""

    INTERRUPTED = "interrupted"
    """Ctrl-C or SIGTERM ended it."""

    DETACHED = "detached"
    """Everything is submitted, and trains elsewhere."""


class Launcher(Protocol):
    """Trains stacks somewhere. A config ``launcher/NAME.yaml`` names its class, whose arguments are the keys."""

    def declared_device(self) -> str | None:
        """Return the kind of device that the cells are declared to train on; ``None`` for those of this machine."""

    def device_bytes(self) -> int | None:
        """Return the memory of a declared device; ``None`` if it is not said."""

    def describe(self, devices: Sequence[str], stacks: int) -> str:
        """Return what would train so many stacks on devices, in a few words."""

    def count_workers(self, devices: Sequence[str], stacks: int) -> int:
        """Return how many stacks train at the same time, at most."""

    def run(self, work: Work, watcher: Watcher, reservations: "Reservations", *, detach: bool) -> Ending:
        """Train stacks.

        Args:
            work: the stacks.
            watcher: receives the events.
            reservations: locks of this process in the results folder.
            detach: leave once everything is submitted.

        Raises:
            UsageError: if that cannot be done here.
            ShortageError: if this machine has no room for it.
        """

"""Launchers: train stacks in worker processes, which write their results to the tables themselves.

Here belongs how processes start, stop and speak to each other. Nothing here prints.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the command line starts the forkserver before it imports anything heavy
    import torch

    from gradbench.grid.cell import Cell

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

"""Run stacks somewhere, and hand back nothing but what became of them: results go straight to the tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # a run starts its workers' server before it has imported what cells are
    from gradbench.grid.cell import Cell

Cells = Sequence["Cell"]
"""What is sent to a worker: a stack's cells that are not finished yet."""


class Watcher(Protocol):
    """Is told what happens, as it happens. Stacks are named by their index."""

    def started(self, stack: int) -> None:
        """A worker has taken the stack."""

    def progress(self, stack: int, step: int, losses: list[float]) -> None:
        """The stack has reached a step; a loss is NaN for a cell that has diverged."""

    def finished(self, stack: int, statuses: list[str]) -> None:
        """The stack's cells stand in the tables, ``completed`` or ``diverged``."""

    def failed(self, stack: int, reason: str) -> None:
        """The stack's cells stand in the tables as ``failed``."""

    def retried(self, stack: int, reason: str) -> None:
        """The stack waits to be gone on with from its checkpoint: its worker died."""

    def split(self, stack: int, pieces: Sequence[Cells], reason: str) -> None:
        """The stack goes on as several, whose indices are the next ones."""

    def notify(self, line: str) -> None:
        """A person should know this."""

"""Who trains which cell, among all the runs that write to one results folder.

A reservation is a lock on one byte of the file ``.reservations``: the byte whose number is the cell's id. The operating
system lets go of a process's locks when it ends, however it ends, so none is ever stale; over NFS the locks hold
between machines. On a file system without locks everything is granted: a cell may then be trained twice, to the
same values.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from gradbench.errors import DamagedError, UsageError
from gradbench.grid.cell import Cell
from gradbench.storage.parquet import read_table
from gradbench.storage.results import FINISHED
from gradbench.storage.schema import part_paths

CELLS = 1 << 60
"""Bytes below this number stand for cells."""

PRESENCE, EXCLUSIVE = CELLS, CELLS + 1
"""Bytes that every run shares while it lasts, and that one run at a time holds."""

HELD_ELSEWHERE = (errno.EACCES, errno.EAGAIN)
"""How the system says that somebody else has the lock."""


class Reservations:
    """This process's reservations in a results folder; all are let go of at the end of the block.

    Attributes:
        alone: whether no other run was there when this one came.

    Raises:
        UsageError: where the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".reservations"

    def __enter__(self) -> Self:
        try:
            self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise UsageError(
                f"cannot open {self.path} ({error.strerror}); choose another folder with --results DIR"
            ) from error
        self.alone = self.lock(PRESENCE, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.lock(PRESENCE, fcntl.LOCK_SH)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.file)

    def acquire(self, cells: Sequence[Cell]) -> bool:
        """Reserve all of the cells, or none where another run has one of them; return which."""
        for position, cell in enumerate(cells):
            if not self.lock(byte_of(cell), fcntl.LOCK_EX | fcntl.LOCK_NB):
                self.release(cells[:position])
                return False
        return True

    def release(self, cells: Sequence[Cell]) -> None:
        """Let go of cells."""
        for cell in cells:
            self.lock(byte_of(cell), fcntl.LOCK_UN)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold what one run at a time may hold; wait for it."""
        self.lock(EXCLUSIVE, fcntl.LOCK_EX)
        try:
            yield
        finally:
            self.lock(EXCLUSIVE, fcntl.LOCK_UN)

    def lock(self, byte: int, how: int) -> bool:
        """Change the lock of one byte; return whether no other process stands in the way."""
        try:
            fcntl.lockf(self.file, how, 1, byte)
        except OSError as error:  # any other error: a file system without locks
            return error.errno not in HELD_ELSEWHERE
        return True


def byte_of(cell: Cell) -> int:
    """Return the number of the byte that stands for a cell."""
    return int(cell.id, 16) % CELLS


class FinishedCells:
    """What stands in a folder's table of cells, whoever put it there; each part is read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "cells"
        self.read: set[Path] = set()
        self.known: dict[str, str] = {}

    def statuses(self) -> dict[str, str]:
        """Return cell -> status, of the cells that are finished now."""
        for path in part_paths(self.folder):
            if path not in self.read:
                self.read.add(path)
                with contextlib.suppress(DamagedError):  # or gone: a failure that was followed by a success
                    rows = read_table(path, ["cell", "status"]).to_pylist()
                    self.known |= {row["cell"]: row["status"] for row in rows if row["status"] in FINISHED}
        return self.known

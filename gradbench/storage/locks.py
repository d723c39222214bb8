"""Locks on cells, so that several runs can share one results folder.

A reservation is a lock on one byte of the file ``.reservations``, at the offset given by the cell's id. The operating
system releases a process's locks when it ends, however it ends, so none is ever stale; over NFS the locks also hold
between machines. On a file system without locks every request is granted: a cell may then be trained twice, to the
same values.
"""

import contextlib
import errno
import fcntl
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from gradbench.atomic import share_with_users_of
from gradbench.errors import DamagedError, UsageError
from gradbench.grid.cell import Cell
from gradbench.storage.parquet import read_table
from gradbench.storage.results import FINISHED
from gradbench.storage.schema import part_names

CELLS = 1 << 60
"""Byte offsets below this number stand for cells."""

PRESENCE, EXCLUSIVE = CELLS, CELLS + 1
"""Offsets of the byte that every run locks (shared) while it lasts, and of the byte that one run at a time locks."""

HELD_ELSEWHERE = (errno.EACCES, errno.EAGAIN)
"""Error numbers that mean: another process holds the lock."""

FLOCK = "@hhqqi4x"
"""Layout of ``struct flock`` on Linux: type, whence, start, length, process id."""


class Reservations:
    """Hold this process's reservations in a results folder; all are released at the end of the block.

    Raises:
        UsageError: if the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".reservations"

    def __enter__(self) -> Self:
        try:
            self.file = self.open()
        except OSError as error:
            ask = (
                "ask its owner for permission (chmod g+w), or " if isinstance(error, PermissionError) else ""
            )
            raise UsageError(
                f"cannot open {self.path} ({error.strerror}); {ask}choose another folder with --results DIR"
            ) from error
        self.lock(PRESENCE, fcntl.LOCK_SH)
        return self

    def open(self) -> int:
        """Open the file, for all who may write to the folder; return its descriptor.

        A file that another user made for themselves alone is replaced, where the folder permits and no run uses it.

        Raises:
            OSError: if the file cannot be written.
        """
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            file = os.open(self.path, flags)
        except FileNotFoundError:
            return self.make(flags)
        except PermissionError:
            if self.is_used():
                raise
            with contextlib.suppress(PermissionError):
                self.path.unlink()
                return self.make(flags)
            raise
        if os.fstat(file).st_uid == os.getuid():  # perhaps of an earlier version, for one user
            share_with_users_of(self.path.parent, self.path)
        return file

    def make(self, flags: int) -> int:
        """Make the file, with its permissions from its first instant; return its descriptor."""
        umask = os.umask(0)
        try:
            file = os.open(self.path, flags | os.O_CREAT, self.path.parent.stat().st_mode & 0o666)
        finally:
            os.umask(umask)
        share_with_users_of(self.path.parent, self.path)
        return file

    def is_used(self) -> bool:
        """Return whether a run holds a lock on a file that only others may write; ``True`` if that cannot be known."""
        if sys.platform != "linux":  # the request's layout differs between systems
            return True
        file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            request = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            answer = fcntl.fcntl(file, fcntl.F_GETLK, request)
        finally:
            os.close(file)
        return bool(struct.unpack(FLOCK, answer)[0] != fcntl.F_UNLCK)

    def __exit__(self, *_: object) -> None:
        os.close(self.file)

    def acquire(self, cells: Sequence[Cell]) -> bool:
        """Reserve all of the cells, or none if another run holds one of them; return whether they were reserved."""
        for position, cell in enumerate(cells):
            if not self.lock(byte_of(cell), fcntl.LOCK_EX | fcntl.LOCK_NB):
                self.release(cells[:position])
                return False
        return True

    def release(self, cells: Sequence[Cell]) -> None:
        """Release the reservations of cells."""
        for cell in cells:
            self.lock(byte_of(cell), fcntl.LOCK_UN)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Wait for and hold the lock that only one run at a time may hold, for the block."""
        self.lock(EXCLUSIVE, fcntl.LOCK_EX)
        try:
            yield
        finally:
            self.lock(EXCLUSIVE, fcntl.LOCK_UN)

    def lock(self, byte: int, operation: int) -> bool:
        """Lock or unlock one byte; return ``False`` if another process holds it.

        Args:
            byte: offset in the file.
            operation: ``fcntl.LOCK_EX``, ``LOCK_SH`` or ``LOCK_UN``, with or without ``LOCK_NB``.
        """
        try:
            fcntl.lockf(self.file, operation, 1, byte)
        except OSError as error:  # any other error means a file system without locks, where all is granted
            return error.errno not in HELD_ELSEWHERE
        return True


@contextlib.contextmanager
def hold_alone(folder: Path) -> Iterator[None]:
    """Keep all runs out of a results folder for the block: one that starts meanwhile waits.

    Raises:
        UsageError: if a run is at work in the folder, or it cannot be written.
    """
    with Reservations(folder) as reservations:
        if not reservations.lock(PRESENCE, fcntl.LOCK_EX | fcntl.LOCK_NB):
            raise at_work(folder)
        yield


def refuse_run_in(folder: Path) -> None:
    """Refuse a results folder that a run is at work in; nothing in it is written.

    Raises:
        UsageError: if there is a run.
    """
    reservations = Reservations(folder)
    try:
        file = os.open(reservations.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    except OSError:  # it is another user's, or on a disk that is read-only
        with contextlib.suppress(OSError):
            if reservations.is_used():
                raise at_work(folder) from None
        return
    reservations.file = file
    try:
        if not reservations.lock(PRESENCE, fcntl.LOCK_EX | fcntl.LOCK_NB):
            raise at_work(folder)
    finally:
        os.close(file)


def at_work(folder: Path) -> UsageError:
    """Return the error to raise for a folder that a run is at work in."""
    return UsageError(
        f"a run is at work in {folder}; wait until it ends, or interrupt it (Ctrl-C), then type this again"
    )


def byte_of(cell: Cell) -> int:
    """Return the offset of the byte that stands for a cell."""
    return int(cell.id, 16) % CELLS


class FinishedCells:
    """Track which cells of a folder are finished, by any run; each part of the table is read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "cells"
        self.read: set[str] = set()
        self.known: dict[str, str] = {}

    def statuses(self) -> dict[str, str]:
        """Return cell id -> status of all cells that are finished now."""
        for name in part_names(self.folder):
            if name not in self.read:
                self.read.add(name)
                # also raised if a failure's part was removed after a success
                with contextlib.suppress(DamagedError):
                    rows = read_table(self.folder / name, ["cell", "status"]).to_pylist()
                    self.known |= {row["cell"]: row["status"] for row in rows if row["status"] in FINISHED}
        return self.known

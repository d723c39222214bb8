"""Write files atomically, and rename damaged ones."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from gradbench import signals
from gradbench.errors import StorageError


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file so that a kill at any instant leaves either the old file or the whole new one.

    Args:
        path: the file.
        write: called with the open temporary file, which then replaces ``path``.

    Raises:
        StorageError: if the disk is full or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with signals.temporary(temporary):
            temporary.unlink(missing_ok=True)  # left by a dead process that had this process id
            with temporary.open("xb") as file:  # x: never follow a link that someone has put there
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # the rename itself must survive a power cut
        finally:
            os.close(directory)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> StorageError:
    """Return the error to raise for a file that could not be written."""
    return StorageError(
        f"cannot write {path} ({error.strerror or error}); make room or repair the folder, then type the same "
        "command again: what is finished stays"
    )


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that it is neither used nor lost; return its new path.

    The new name begins with an underscore, because pandas reads every other file of a table's folder.

    Raises:
        StorageError: if the disk cannot be written.
    """
    number = 1
    while os.path.lexists(aside := path.with_name(f"_{path.name}.damaged-{number}")):
        number += 1
    try:
        path.rename(aside)
    except OSError as error:
        raise unwritable(path, error) from error
    return aside


def reason(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]

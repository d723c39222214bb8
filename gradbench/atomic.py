"""Write files so that a kill leaves the old one or the new one, and set damaged ones aside."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from gradbench.errors import StorageError


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file so that at any instant either the old one or the whole new one is there.

    Raises:
        StorageError: where the disk is full, or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a dead process that had our number
        try:
            with temporary.open("xb") as file:  # x: never through a link that someone has laid there
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # the rename itself must survive a power cut
        finally:
            os.close(directory)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> StorageError:
    """Return what to tell a person about a file that could not be written."""
    return StorageError(
        f"cannot write {path} ({error.strerror or error}); make room or repair the folder, then type the same "
        "command again: what is finished stays"
    )


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that it is neither used nor lost; return its new path.

    It begins with an underscore: pandas reads every other file of a table's folder.

    Raises:
        StorageError: where the disk cannot be written.
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
    """Return the first line of what went wrong."""
    return (str(error).splitlines() or [type(error).__name__])[0]

"""Write files atomically, and rename damaged ones."""

import contextlib
import hashlib
import os
import platform
import re
import secrets
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import IO, Any

from gradbench import signals
from gradbench.errors import ShortageError, StorageError, UsageError, shortage

TEMPORARY = re.compile(r"\..+\.(?P<place>[0-9a-f]{8})-[0-9a-f]{8}\.(?P<pid>\d+)\.tmp")
"""Name of a file that is still being written: where its writer runs, a random part, the writer's process id."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file so that a kill at any instant leaves either the old file or the whole new one.

    Args:
        path: the file.
        write: called with the open temporary file, which then replaces ``path``.

    Raises:
        StorageError: if the disk is full or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{process_place()}-{secrets.token_hex(4)}.{os.getpid()}.tmp")
    try:
        with signals.temporary(temporary):
            with temporary.open("xb") as file:  # x: never follow a link that someone has put there
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error


def remove(path: Path) -> None:
    """Remove a file, if it is there; durable like a write.

    Raises:
        StorageError: if the disk cannot be written.
    """
    try:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder survive a power cut."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@cache
def process_place() -> str:
    """Return 8 hex digits that differ wherever equal process ids may be different processes.

    Those places are hosts, containers (process id namespaces) and boots.
    """
    known = [platform.node()]
    with contextlib.suppress(OSError):  # only Linux has these
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        known.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115 - the link leads to no path
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:8]


def make_shared_folder(folder: Path) -> None:
    """Make a folder, if it is not there, that whoever may write to its parent may write to."""
    try:
        folder.mkdir()
    except FileExistsError:
        return
    share_with_users_of(folder.parent, folder)


def share_with_users_of(parent: Path, path: Path) -> None:
    """Give a new file or folder the group and the permissions of the folder that it lies in.

    It is as private as its folder: what the umask took away is given back to those who may write to the folder.
    """
    allowed = parent.stat().st_mode & (0o7777 if path.is_dir() else 0o666)
    with contextlib.suppress(OSError):  # not every file system has users
        os.chown(path, -1, parent.stat().st_gid)
    with contextlib.suppress(OSError):
        path.chmod(allowed)


def unwritable(path: Path, error: OSError) -> StorageError:
    """Return the error to raise for a file that could not be written."""
    return StorageError(
        f"cannot write {path} ({error.strerror or error}); make room or repair the folder, then type the same "
        "command again: what is finished stays"
    )


def unreadable(path: Path, error: OSError) -> UsageError | ShortageError:
    """Return the error to raise for a file or folder that cannot be read, which says nothing of its content."""
    if lacking := shortage(error):
        return ShortageError(lacking)
    return UsageError(
        f"cannot read {path} ({error.strerror or error}); make it readable, or give another results folder"
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

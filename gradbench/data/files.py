"""Find a user's file or folder, and say in one line what is wrong with a name."""

import os
from pathlib import Path

from gradbench.errors import UsageError, nearest

HEADS = {
    b"PAR1": ("a Parquet file", "data=parquet"),
    b"PK\x03\x04": ("a zip archive", "data=npz, if np.savez made it"),
    b"\x93NUMPY": ("a single array", "np.savez('mine.npz', x=x, y=y) and data=npz"),
    b"\x89PNG": ("an image", "data=images with a folder"),
    b"\xff\xd8\xff": ("an image", "data=images with a folder"),
    b"\x1f\x8b": ("compressed", "gunzip first"),
}
"""First bytes of a file -> what it is, and what to use."""


def existing_file(path: str, key: str = "data.path") -> Path:
    """Return the path of a plain file.

    Raises:
        UsageError: if there is none of that name.
    """
    found = existing(path, key)
    if found.is_dir():
        raise UsageError(
            f"{key}={path} is a folder, expected a file; a folder of images is read by data=images"
        )
    if not found.is_file():  # reading a pipe or a device may never end
        raise UsageError(f"{key}={path} is not a plain file; name an existing file")
    if not os.access(found, os.R_OK):
        raise UsageError(f"cannot read {key}={path} (Permission denied); allow it: chmod u+r {path}")
    return found


def existing_folder(path: str, key: str = "data.path") -> Path:
    """Return the path of a folder.

    Raises:
        UsageError: if there is none of that name.
    """
    found = existing(path, key)
    if not found.is_dir():
        raise UsageError(f"{key}={path} is a file, expected a folder with a folder per class")
    return found


def existing(path: str, key: str) -> Path:
    """Return an existing path; raise ``UsageError`` that names the most similar one if there is none."""
    found = Path(path).expanduser()
    try:
        if found.exists():
            return found
        beside = [str(one) for one in found.parent.iterdir()] if found.parent.is_dir() else []
    except (OSError, ValueError) as error:  # a name that is too long, or has a NUL
        raise UsageError(f"cannot read {key}={path} ({error})") from error
    raise UsageError(
        f"there is no {key}={path}{nearest(str(found), beside)} (it is relative to the folder where the command is "
        "typed)"
    )


def refuse_other_kind(path: Path, expected: str) -> None:
    """Raise ``UsageError`` for a file whose first bytes say that it is something else.

    Args:
        path: an existing file.
        expected: what it should be, for the message.
    """
    with path.open("rb") as file:
        head = file.read(8)
    for mark, (kind, remedy) in HEADS.items():
        if head.startswith(mark):
            raise UsageError(f"{path} is {kind}, expected {expected}; use {remedy}")

"""Checks on results folders from untrusted sources: links, ids, commands and text for terminals.

A results folder is data, never code. These checks run before its files are read and its text is shown.
"""

import os
import re
import shlex
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from gradbench.errors import UsageError

CELL = re.compile(r"[0-9a-f]{16}")
"""Pattern of a cell's id; any other string could be a path."""

USED = ("experiment.yaml", ".reservations", "cells", "curves", "arrays", "checkpoints", "report")
"""Files and folders that gradbench reads or writes in a results folder."""

BARE = re.compile(r"[\w@%+=:,./-]+( [\w@%+=:,./-]+)*", re.ASCII)
"""Unquoted words between single spaces: splitting there equals ``shlex.split``, and is a hundred times faster."""


def is_cell(value: object) -> bool:
    """Return whether a value has the form of a cell's id."""
    return isinstance(value, str) and CELL.fullmatch(value) is not None


def check_folder(folder: Path, used: Sequence[str] = USED) -> None:
    """Refuse a folder in which gradbench would follow a link leading outside, or open a pipe or a device.

    Every command calls this before it reads or writes anything in a results folder. It opens nothing, and follows no
    link that leads outside. How large a file may be is checked by what reads it.

    Args:
        folder: a results folder, or one that a report is written to.
        used: names in it that are read or written; what lies beside them does not matter.

    Raises:
        UsageError: if there is such a link, pipe or device.
    """
    root = Path(os.path.realpath(folder))
    remedy = f"remove it, or choose another folder than {folder}"
    for path in walk_names(folder, used):
        try:
            kind = path.lstat().st_mode
        except FileNotFoundError:  # it is absent, or another run has just renamed a temporary file
            continue
        except OSError as error:
            raise UsageError(f"cannot read {path} ({error.strerror}); {remedy}") from error
        if stat.S_ISLNK(kind):
            target = Path(os.path.realpath(path))
            if not target.is_relative_to(root):
                raise UsageError(f"{path} is a link to {target}, out of its results folder; {remedy}")
        elif not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise UsageError(f"{path} is neither a file nor a folder; {remedy}")


def walk_names(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """List the paths of names in a folder, and everything below them."""
    for name in names:
        yield folder / name
        for where, folders, files in os.walk(folder / name):
            yield from (Path(where, inner) for inner in (*folders, *files))


def escape_controls(text: str) -> str:
    r"""Escape characters that a terminal would interpret, such as ``\x1b`` and the right-to-left mark ``\u202e``."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def is_command(text: object) -> bool:
    """Return whether a stored command is a single ``gradbench run`` that is safe to paste into a shell.

    Commands with ``_target_`` are not: a target is code to be called, which must come from configs alone.
    """
    if not isinstance(text, str):
        return False
    if BARE.fullmatch(text):
        words = text.split(" ")
    else:
        try:
            words = shlex.split(text)
        except ValueError:
            return False
    is_run = words[:2] == ["gradbench", "run"] and shlex.join(words) == text
    return is_run and not any("_target_" in word for word in words)

"""Checks on results folders from untrusted sources: links, ids, commands and text for terminals.

A results folder is data, never code. These checks run before its files are read and its text is shown.
"""

import os
import re
import shlex
import stat
from pathlib import Path

from gradbench.errors import UsageError

CELL = re.compile(r"[0-9a-f]{16}")
"""Pattern of a cell's id; any other string could be a path."""

BARE = re.compile(r"[\w@%+=:,./-]+( [\w@%+=:,./-]+)*", re.ASCII)
"""Unquoted words between single spaces: splitting there equals ``shlex.split``, and is a hundred times faster."""


def is_cell(value: object) -> bool:
    """Return whether a value has the form of a cell's id."""
    return isinstance(value, str) and CELL.fullmatch(value) is not None


def refuse_links(folder: Path) -> None:
    """Refuse a folder that contains a link leading outside, a pipe or a device.

    Raises:
        UsageError: if it contains one.
    """
    root = Path(os.path.realpath(folder))
    remedy = f"remove it, or choose another folder than {folder}"
    for where, folders, files in os.walk(folder):
        for path in (Path(where, name) for name in (*folders, *files)):
            try:
                kind = path.lstat().st_mode
            except FileNotFoundError:  # a temporary file that another run has just renamed
                continue
            if stat.S_ISLNK(kind) and not Path(os.path.realpath(path)).is_relative_to(root):
                raise UsageError(
                    f"{path} is a link to {os.path.realpath(path)}, out of its results folder; {remedy}"
                )
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind) or stat.S_ISLNK(kind)):
                raise UsageError(f"{path} is neither a file nor a folder; {remedy}")


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

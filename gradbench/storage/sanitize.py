"""A results folder may come from a stranger: it is data, never code, and leads nowhere else.

What is done to its files, names and commands before anything is read, written or shown.
"""

import os
import re
import shlex
import stat
from pathlib import Path

from gradbench.errors import UsageError

CELL = re.compile(r"[0-9a-f]{16}")
"""What a cell's id looks like; anything else could be a path."""

BARE = re.compile(r"[\w@%+=:,./-]+( [\w@%+=:,./-]+)*", re.ASCII)
"""Words without a quote between single spaces: a shell splits them there, and so do we, a hundred times faster."""


def is_cell(value: object) -> bool:
    """Return whether a value is a cell's id."""
    return isinstance(value, str) and CELL.fullmatch(value) is not None


def refuse_links(folder: Path) -> None:
    """Refuse a folder in which a link leads outside, or a pipe or device waits to be opened.

    Raises:
        UsageError: where there is one.
    """
    root = Path(os.path.realpath(folder))
    remedy = f"remove it, or choose another folder than {folder}"
    for where, folders, files in os.walk(folder):
        for path in (Path(where, name) for name in (*folders, *files)):
            try:
                kind = path.lstat().st_mode
            except FileNotFoundError:  # the temporary file of another run
                continue
            if stat.S_ISLNK(kind) and not Path(os.path.realpath(path)).is_relative_to(root):
                raise UsageError(
                    f"{path} is a link to {os.path.realpath(path)}, out of its results folder; {remedy}"
                )
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind) or stat.S_ISLNK(kind)):
                raise UsageError(f"{path} is neither a file nor a folder; {remedy}")


def escape_controls(text: str) -> str:
    r"""Return a text with what a terminal would obey, and what would reverse it, written out: ``\x1b``, ``\u202e``."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def is_command(text: object) -> bool:
    """Return whether a stored command is a ``gradbench run`` that can be pasted: one command, naming no target.

    A target is code to be called; those come from configs, never from a results folder.
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

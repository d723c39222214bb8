"""Checks on results folders from untrusted sources: links, ids, commands and text for terminals.

A results folder is data, never code. These checks run before its files are read and its text is shown.
"""

import contextlib
import functools
import os
import re
import shlex
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from gradbench.errors import DamagedError, UsageError

CELL = re.compile(r"[0-9a-f]{16}")
"""Pattern of a cell's id; any other string could be a path."""

USED = (
    "experiment.yaml",
    ".reservations",
    "cells",
    "curves",
    "arrays",
    "costs",
    "checkpoints",
    "plans",
    "report",
)
"""Files and folders that gradbench reads or writes in a results folder."""

CONFIG_OPTIONS = {"--config-dir"}
"""Options of ``gradbench run`` whose value is a folder of configs."""

CODE_KEYS = {"network", "networks", "loader"}
"""Keys whose value is a dotted name of code, or its arguments."""

DOTTED = re.compile(r"[^\W\d]\w*\.[^\W\d]")
"""Pattern of a dotted name within a value."""

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
        except OSError:  # it is absent, or renamed by another run; if it cannot be read, who reads it says so
            continue
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


@contextlib.contextmanager
def open_regular(path: Path, most: float) -> Iterator[IO[bytes]]:
    """Open a regular file of at most so many bytes for reading; a pipe or a device is never waited for.

    Raises:
        DamagedError: if it is larger, or not a regular file.
        OSError: if it cannot be opened.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise DamagedError(path, "it is no file")
        if found.st_size > most:
            raise DamagedError(path, f"it has {found.st_size:,} bytes, more than a run writes")
        yield file


def escape_controls(text: str) -> str:
    r"""Escape characters that a terminal would interpret, such as ``\x1b`` and the right-to-left mark ``\u202e``."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def is_command(text: object) -> bool:
    """Return whether a stored command is a single ``gradbench run``: only such a one is shown.

    It is offered for pasting only if :func:`caution` has nothing to say against it.
    """
    if not isinstance(text, str):
        return False
    try:
        words = split_command(text)
    except ValueError:
        return False
    return words[:2] == ["gradbench", "run"] and shlex.join(words) == text


def split_command(text: str) -> list[str]:
    """Split a command into words as a shell would.

    Raises:
        ValueError: if a quotation is not closed.
    """
    return text.split(" ") if BARE.fullmatch(text) else shlex.split(text)


def caution(command: str) -> str:
    """Return a sentence on the code and the files that a command names, which is why it is not offered for pasting.

    It is empty if the command may be pasted.

    Pasting a command runs the code that its words name, or that configs name which they lead to. The file of an
    experiment names none, but another file of this name may lie where the command is typed. A folder does not tell
    whether a stranger made it, so its owner's commands are treated alike.
    """
    words = split_command(command) if command else []
    named = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if before in CONFIG_OPTIONS or names_code(word)
    ]
    files = [word for word in words if is_experiment_file(word) and word not in named]
    does = [f"runs code named by {' '.join(named)}"] if named else []
    does += [f"reads {' '.join(files)}"] if files else []
    return f"It {' and '.join(does)}, which is looked for in the folder where it is typed." if does else ""


def is_offered(text: object) -> bool:
    """Return whether a stored command may be pasted."""
    return is_command(text) and not caution(str(text))


@functools.lru_cache(maxsize=4096)
def names_code(word: str) -> bool:
    """Return whether a word of a ``gradbench run`` names code, or configs beyond those that gradbench ships.

    Those are a config folder, a ``_target_``, a key that takes code, and a value that is no path and holds a dotted
    name like ``my_pkg.Net`` or leads out of the folder of configs.
    """
    key, equals, value = word.partition("=")
    if not equals or key.startswith("--"):
        return key in CONFIG_OPTIONS
    parts = re.split(r"[.@/]", key.lstrip("+"))
    if "_target_" in word or not CODE_KEYS.isdisjoint(parts):
        return True
    return parts[-1] not in ("path", "weights") and ("../" in value or DOTTED.search(value) is not None)


def is_experiment_file(word: str) -> bool:
    """Return whether a word of a ``gradbench run`` is the file of an experiment."""
    return "=" not in word and not word.startswith("-") and word.endswith((".yaml", ".yml"))

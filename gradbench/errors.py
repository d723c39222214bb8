"""Errors that the command line prints as one line: user mistakes, damaged files, unwritable disks."""

import contextlib
import difflib
import errno
import re
import signal
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

MAX_LENGTH = 4096
"""Characters of a name, a key or a value: as many as the longest path has."""


class UsageError(Exception):
    """The request cannot be fulfilled; the message is one line that says what to type instead.

    The command line prints it and exits with status 2, without a traceback.
    """


class DamagedError(UsageError):
    """A file of a results folder differs from what was written.

    Args:
        path: the file.
        reason: the symptom, in a few words.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} is damaged ({reason}); type the command that made it again: it sets the file aside and trains its "
            "cells anew"
        )
        self.path, self.reason = path, reason


class StorageError(Exception):
    """A file cannot be written: the disk is full or read-only. An older version of the file stays intact.

    The command line prints the message, one line, and exits with status 1.
    """


class ExitError(Exception):
    """Code of the user's own asked for the end of the process; the message says how and where."""


@contextlib.contextmanager
def exits_as_errors() -> Iterator[None]:
    """Turn what would end this process, raised by code of the user's own in the block, into an ``ExitError``.

    A Ctrl-C of the user's stays what it is.

    Raises:
        ExitError: in place of ``SystemExit``, ``KeyboardInterrupt`` and other exceptions that are no ``Exception``.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and hears_interrupts():
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        did = f"raised {type(error).__name__}"
        if isinstance(error, SystemExit):
            did = f"called sys.exit({error.code!r})"
        raise ExitError(f"{did} ({Path(frame.filename).name}:{frame.lineno})") from error


def hears_interrupts() -> bool:
    """Return whether Ctrl-C raises ``KeyboardInterrupt`` in this process."""
    heard = signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return heard and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def excerpt(text: str, most: int = 500) -> str:
    """Return the beginning of a text that is too long for a message."""
    return text if len(text) <= most else f"{text[:most]}…"


def check_length(text: str, what: str) -> None:
    """Refuse a name, a key or a value of more than ``MAX_LENGTH`` characters.

    Args:
        text: as it was given.
        what: what it is, for the message.

    Raises:
        UsageError: if it is longer.
    """
    if len(text) > MAX_LENGTH:
        raise UsageError(
            f"{what} {excerpt(text, 40)} has {len(text):,} characters; give at most {MAX_LENGTH:,}"
        )


class ShortageError(Exception):
    """The machine lacks memory, processes or file descriptors.

    The command line prints the message, one line, and exits with status 1.
    """


def shortage(error: BaseException) -> str | None:
    """Return what the machine lacks, and what to do, if an error says that it does; otherwise ``None``."""
    text = str(error)
    code = error.errno if isinstance(error, OSError) else None
    if isinstance(error, ShortageError):
        return text
    if code in (errno.EMFILE, errno.ENFILE):
        return "too many open files; allow more of them (ulimit -n)"
    if code == errno.EAGAIN or (isinstance(error, RuntimeError) and "start new thread" in text):
        return "too many processes or threads; end some, or allow more of them (ulimit -u)"
    if (
        isinstance(error, MemoryError)
        or code == errno.ENOMEM
        or (isinstance(error, ImportError) and NO_MEMORY.search(text))
    ):
        return "too little memory; end other programs, or allow more of it (ulimit -v)"
    return None


NO_MEMORY = re.compile("failed to map segment|cannot allocate memory", re.IGNORECASE)
"""What the dynamic linker says of a library that does not fit."""


LIKE = 0.5
"""Ratio of ``difflib`` from which two names are alike."""


def _is_like(given: str, name: str, start: int) -> bool:
    return difflib.SequenceMatcher(None, given[start:], name[start:]).ratio() >= LIKE


def nearest(given: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name most like ``given`` but for case, or an empty string.

    What both begin with up to a dot or a slash, such as ``test/``, makes no name alike.
    """
    names = {name.lower(): name for name in known}
    lowered = given.lower()
    head = lowered[: max(lowered.rfind("."), lowered.rfind("/")) + 1]
    rest = [name for name in names if not name.startswith(head) or _is_like(lowered, name, len(head))]
    close = difflib.get_close_matches(lowered, rest, n=1, cutoff=LIKE)
    return f"; did you mean '{names[close[0]]}'?" if close else ""


def nearest_first(given: str, known: Iterable[str], most: int = 12) -> str:
    """Return the known names as text, those most like ``given`` first; of many, how many more there are."""
    names = sorted(
        known, key=lambda name: -difflib.SequenceMatcher(None, given.lower(), name.lower()).ratio()
    )
    rest = len(names) - most
    return (", ".join(map(excerpt, names[:most])) or "none") + (f" and {rest} more" if rest > 0 else "")

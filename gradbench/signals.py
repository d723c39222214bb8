"""Handle Ctrl-C and SIGTERM.

The command line leaves at the first one: an exception could be swallowed by the library that it is raised in. Only
while a sweep trains, the first lets it save its stacks and end. This module is the first to be imported, and imports
little.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

INTERRUPTED = 130
"""Exit status of an interrupted command."""

FAREWELL = "interrupted: everything finished is kept; the same command goes on"

SHOW_CURSOR = "\x1b[?25h"  # bars and spinners hide a terminal's cursor

_unfinished: set[os.PathLike[str]] = set()
"""Files to remove when this process leaves."""


def leave_on_interrupt() -> None:
    """Let Ctrl-C and SIGTERM end this process at once, as :func:`leave` does."""
    for number in _heard():
        signal.signal(number, _on_signal)


def _heard() -> list[signal.Signals]:
    """Return the signals that this process was not started to ignore, as nohup and a script's ``&`` do.

    In a thread there are none: Python hears signals in the main one alone.
    """
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def _on_signal(number: int, _frame: FrameType | None) -> None:
    """Leave, or if the signal is blocked and reached another thread, wait until it is not."""
    if number in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        signal.raise_signal(number)
    else:
        leave()


def leave() -> None:
    """End this process and its children at once, with one line on stderr and status 130."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing:
        with contextlib.suppress(Exception):
            for child in multiprocessing.active_children():
                child.kill()
    server = sys.modules.get("multiprocessing.forkserver")
    if server:
        with contextlib.suppress(Exception):  # it would first import for seconds
            os.kill(server._forkserver._forkserver_pid, signal.SIGKILL)
    for path in _unfinished:
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108 - pathlib takes long to import
    with contextlib.suppress(OSError):
        os.write(2, f"{SHOW_CURSOR + os.linesep if os.isatty(2) else ''}{FAREWELL}\n".encode())
    os._exit(INTERRUPTED)


@contextlib.contextmanager
def temporary(path: os.PathLike[str]) -> Iterator[None]:
    """Remove a file at the end of the block, however it ends."""
    _unfinished.add(path)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - pathlib takes long to import
        _unfinished.discard(path)


def ignore() -> None:
    """Ignore the signals from now on."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def ignore_hangup() -> None:
    """Go on when the terminal is closed, and let the processes started from now on do so too."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def hear_once() -> None:
    """Let a sweep that saves what it trains go on saving, however often it is told to end."""
    for number in SIGNALS:
        signal.signal(number, lambda _number, _frame: None)


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Make signals wait until the end of the block; processes started in it never receive them.

    Ctrl-C reaches a whole process group, and the parent decides what it means.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Interruption:
    """Catch the first signal during the block; what comes after it is handled as before the block.

    Attributes:
        requested: whether a signal has arrived.

    Raises:
        KeyboardInterrupt: at the second signal, if there was no handler before.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "Interruption":
        self.before = {number: signal.signal(number, self.on_signal) for number in _heard()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Record the first signal; pass on the second."""
        if not self.requested:
            self.requested = True
            return
        handler = self.before[signal.Signals(number)]
        if not callable(handler):
            raise KeyboardInterrupt
        handler(number, frame)

"""Ctrl-C and SIGTERM: asked once, a sweep saves what runs and ends; asked twice, it ends at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Hears the signals while in the block.

    Attributes:
        asked: whether there was one.

    Raises:
        KeyboardInterrupt: from wherever the process is, at the second.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Self:
        # a process that was started to ignore a signal (nohup, a script's background) goes on ignoring it
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self.before = {number: signal.signal(number, self.on_signal) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def signals_ignored() -> Iterator[None]:
    """Start processes that ignore the signals from their first instant: what Ctrl-C means is their parent's to say.

    This process ignores them too while in the block: keep it to milliseconds.
    """
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Handle Ctrl-C and SIGTERM: the first lets a sweep save its stacks and end, the second ends it at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Catch the signals during the block.

    Attributes:
        requested: whether a signal has arrived.

    Raises:
        KeyboardInterrupt: at the second signal, at whatever statement runs then.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Self:
        # a signal that is ignored from the start (nohup, background jobs of a script) must stay ignored
        caught = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self.before = {number: signal.signal(number, self.on_signal) for number in caught}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Record the first signal; raise at the second."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def signals_ignored() -> Iterator[None]:
    """Ignore the signals during the block, so that processes started in it ignore them from their first instant.

    Children must ignore them because the parent decides what Ctrl-C means. The parent misses signals that arrive during
    the block, so keep it to milliseconds.
    """
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

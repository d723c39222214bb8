"""Standard streams that can fail: a full disk or a closed pipe or terminal costs what is printed, and nothing else."""

import contextlib
import errno
import io
import os
import sys
from typing import Any, TextIO, cast

BROKEN_PIPE = 141
"""Exit status of a command whose reader has had enough, as of one that SIGPIPE ends."""


class Output(io.FileIO):
    """A file descriptor that keeps its first error; all that is written from then on goes to the null device."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes."""
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            with contextlib.suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.fileno())  # other libraries write here too
                os.close(null)
            return len(data)


def protect() -> None:
    """Replace stdout and stderr by streams that never raise: failed writes are dropped, unknown characters replaced."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file to be opened would get its number, and whatever is printed
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)
    sys.stdout, sys.stderr = _protected(sys.stdout, 1), _protected(sys.stderr, 2)


def _protected(stream: TextIO | None, descriptor: int) -> TextIO:
    """Return a text stream like a given one, or one for a descriptor that was closed, for which Python has none."""
    like: Any = stream or io.TextIOWrapper(io.BytesIO())
    return io.TextIOWrapper(
        io.BufferedWriter(Output(descriptor, "w", closefd=False)),
        encoding=like.encoding,
        errors="replace",
        line_buffering=like.line_buffering,
        write_through=like.write_through,
    )


def failures() -> dict[str, OSError]:
    """Return the first error of each protected stream that has failed: ``stdout`` or ``stderr`` -> error."""
    found = {}
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        stream.flush()
        if error := cast("Output", stream.buffer.raw).error:
            found[name] = error
    return found


def report_failures(training: bool) -> int:
    """Say on the other stream which one has failed.

    Args:
        training: whether the command's product are tables; otherwise it is what was printed.

    Returns:
        The exit status of a command that otherwise succeeded.
    """
    failed = failures()
    for name, error in failed.items():
        if training or error.errno != errno.EPIPE:  # `| head` has been shown what it asked for
            other = sys.stderr if name == "stdout" else sys.stdout
            print(
                f"cannot write to {name} ({error.strerror}): what was printed there is lost",
                file=other,
                flush=True,
            )
    if training or "stdout" not in failed:
        return 0
    return BROKEN_PIPE if failed["stdout"].errno == errno.EPIPE else 1

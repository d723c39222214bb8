"""Where the command line prints: answers to stdout, notes and errors to stderr."""

from rich.console import Console

from gradbench.storage.sanitize import escape_controls

out = Console()
err = Console(stderr=True)


def print_line(line: str) -> None:
    """Print a line without markup, and without wrapping it, so that it can be copied."""
    out.print(line, highlight=False, markup=False, soft_wrap=True)


def print_note(line: str) -> None:
    """Print a note to stderr, without markup or control characters."""
    err.print(escape_controls(line), highlight=False, markup=False, soft_wrap=True)

"""The one exception that a user's mistake raises."""

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """What was asked for cannot be done; the message is one line that says what to type instead.

    The command line prints it and exits with status 2, without a traceback.
    """


def nearest(given: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name most like ``given``, or an empty string."""
    close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""

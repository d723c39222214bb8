"""Say on one line what the user's own code raised, and where."""

import os
import traceback
from importlib.util import find_spec
from pathlib import Path

from gradbench.errors import ExitError


def described(error: BaseException) -> str:
    """Return on one line what the user's code did: raised which error, its first line, and where; or exited."""
    if isinstance(error, ExitError):
        return str(error)
    reason = (str(error).strip().splitlines() or [""])[0]
    return f"raised {type(error).__name__}{f': {reason}' if reason else ''}{place_of(error)}"


def place_of(error: BaseException) -> str:
    """Return where the user's code raised an error, as `` (file:line)``; nothing, if that is nowhere."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_foreign(frame.filename)]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


KNOWN = tuple(
    f"{Path(str(spec.origin)).parent}{os.sep}"
    for spec in map(find_spec, ("torch", "inspect", "gradbench"))
    if spec
)
"""Folders of torch, the standard library and gradbench, whose lines tell a user nothing."""


def is_foreign(file: str) -> bool:
    """Return whether a file is neither gradbench's nor torch's nor the standard library's."""
    return not file.startswith((*KNOWN, "<"))

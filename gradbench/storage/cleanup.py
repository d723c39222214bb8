"""What a killed process leaves behind in a results folder, and nobody needs."""

import os
import re
from pathlib import Path

TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")
"""Name of a file that is being written; the number is its process."""


def remove_stale_files(folder: Path) -> None:
    """Remove unfinished files whose process is gone, and checkpoints of stacks that are finished.

    Only where no other run is at work in the folder: one on another machine has processes that are not seen here.
    """
    for path in [*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")]:
        named = TEMPORARY.fullmatch(path.name)
        if named and not is_running(int(named[1])):
            path.unlink(missing_ok=True)
    for path in folder.glob("checkpoints/*.pt"):
        if (folder / "cells" / f"{path.stem}.parquet").exists():  # a worker outlived its killed parent
            path.unlink(missing_ok=True)


def is_running(process: int) -> bool:
    """Return whether there is such a process on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True

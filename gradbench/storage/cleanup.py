"""Remove what a killed process left behind in a results folder."""

import os
import re
from pathlib import Path

TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")
"""Name of a file that is still being written; the number is the process id of its writer."""


def remove_stale_files(folder: Path) -> None:
    """Remove unfinished files whose writer has ended, and checkpoints of finished stacks.

    Call this only while no other run uses the folder: processes of another machine cannot be checked from here.
    """
    for path in [*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")]:
        match = TEMPORARY.fullmatch(path.name)
        if match and not is_running(int(match[1])):
            path.unlink(missing_ok=True)
    for path in folder.glob("checkpoints/*.pt"):
        # a worker that outlived its killed parent may have saved it late
        if (folder / "cells" / f"{path.stem}.parquet").exists():
            path.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Return whether a process with this id exists on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True

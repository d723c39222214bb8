"""Remove what a killed process left behind in a results folder."""

import contextlib
import json
import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from gradbench.atomic import TEMPORARY, process_place
from gradbench.errors import DamagedError
from gradbench.storage.results import FINISHED
from gradbench.storage.sanitize import open_regular
from gradbench.storage.schema import part_paths

OLD = 24 * 3600.0
"""Seconds after which nobody still writes an unfinished file, wherever its writer ran."""

EARLIER = re.compile(r"\..+\.\d+\.tmp")
"""Name of an unfinished file in earlier versions."""

MAX_HEADER = 1 << 20
"""Bytes of a checkpoint in which its first line ends."""


def remove_stale_files(folder: Path) -> None:
    """Remove unfinished files whose writer has ended: those of this host's dead processes, and those a day old."""
    for path in folder.rglob(".*.tmp"):
        with contextlib.suppress(OSError):  # gone, or another user's: it disturbs nobody
            if is_abandoned(path):
                path.unlink()


def is_abandoned(path: Path) -> bool:
    """Return whether nobody writes an unfinished file any more."""
    match = TEMPORARY.fullmatch(path.name)
    if match and match["place"] == process_place():
        return not is_running(int(match["pid"]))
    # process ids of another host, container or boot mean nothing here, nor do those of earlier versions' names
    known = match or EARLIER.fullmatch(path.name)
    return known is not None and time.time() - path.lstat().st_mtime > OLD


def is_running(pid: int) -> bool:
    """Return whether a process with this id exists on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def remove_stale_checkpoints(folder: Path, statuses: Mapping[str, str]) -> None:
    """Remove the checkpoints of stacks one of whose cells is finished: no stack of just these cells trains again.

    A worker that outlived its killed parent may have saved it late, or its cells were trained in other stacks.

    Args:
        folder: the results folder.
        statuses: cell id -> status, of the folder's cells.
    """
    finished = {cell for cell, status in statuses.items() if status in FINISHED}
    for path in part_paths(folder / "checkpoints", ".pt"):
        if not finished.isdisjoint(checkpoint_cells(path)):
            with contextlib.suppress(OSError):
                path.unlink()


def checkpoint_cells(path: Path) -> list[str]:
    """Return the cells of a checkpoint, from its first line; none if that cannot be read."""
    try:
        with open_regular(path, math.inf) as file:
            header = json.loads(file.readline(MAX_HEADER))
        return list(map(str, json.loads(header["fingerprint"])["cells"]))
    except (DamagedError, OSError, ValueError, LookupError, TypeError, RecursionError):
        return []

"""Provenance of results: versions, device and commit, and warnings where a folder mixes them."""

import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from gradbench import __version__
from gradbench.grid.cell import Cell

COLUMNS = ("gradbench", "torch", "python", "device", "device_name", "git_commit", "git_dirty")
"""Columns of the table of cells that tell which code ran on which device."""

COMPARED = ("gradbench", "torch", "device")
"""Provenance columns that are compared: where one differs, the same cell may come out with other numbers."""

WARNED_OF = ["cell", "status", "data", "data_sha256", *COMPARED]
"""Columns of the table of cells that warnings are made of."""


@cache
def git_state(folder: Path = Path(__file__).parent) -> tuple[str | None, bool | None]:
    """Return the commit of the code and whether it has uncommitted changes; ``(None, None)`` outside a git checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", folder, *words], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no", "--", "."))
    except (OSError, subprocess.SubprocessError):
        return None, None


def provenance(name: str) -> dict[str, Any]:
    """Return the columns ``COLUMNS`` of a cell that is trained now.

    Args:
        name: the device, for example ``cuda:0``.
    """
    import torch  # here, because most sweeps call this in their workers alone: the parent need not import torch

    from gradbench.functional.devices import name_of

    device = torch.device(name)
    commit, dirty = git_state()
    return {
        "gradbench": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device.type,
        "device_name": name_of(device),
        "git_commit": commit,
        "git_dirty": dirty,
    }


def now() -> str:
    """Return the current time in UTC, as ISO 8601 with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance_warnings(stored: pd.DataFrame, cells: Sequence[Cell], device: str) -> list[str]:
    """Warn about rows from other grids, and about finished cells made with other versions or devices.

    Other data or another config change a cell's id, so such rows never count as this sweep's. Other versions or
    another type of device do not change it: the finished cell is kept, and the user is told.

    Args:
        stored: the folder's table of cells; a column that it lacks is not compared.
        cells: the cells of this sweep.
        device: device that this sweep would train on.

    Returns:
        One line per difference.
    """
    if stored.empty:
        return []
    lines = []
    own = stored["cell"].isin([cell.id for cell in cells])
    content = {cell.data_sha256: str(cell.config["data"]["name"]) for cell in cells}
    others, finished = stored[~own], stored[own & (stored["status"] != "failed")]
    if {"data", "data_sha256"} <= set(stored):
        changed = others["data"].isin(content.values()) & ~others["data_sha256"].isin(content)
        if changed.any():
            names = ", ".join(sorted(map(str, others.loc[changed, "data"].unique())))
            lines.append(
                f"this folder also holds cells of other content of data={names}: {changed.sum()}, in the report, too"
            )
        others = others[~changed]
    if len(others):
        lines.append(
            f"this folder also holds cells of another grid or config: {len(others)}, in the report, too"
        )
    now_made_by = provenance(device)
    for column in COMPARED:
        for value, rows in finished.groupby(column) if column in finished else ():
            if value != now_made_by[column]:
                lines.append(
                    f"finished cells whose {column} was {value}, and is {now_made_by[column]} now: {len(rows)}, kept; "
                    "to train them anew choose another folder with --results DIR"
                )
    return lines

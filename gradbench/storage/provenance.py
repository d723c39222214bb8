"""Where numbers came from: versions, device, commit; and which of a folder's came from elsewhere."""

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

COMPARED = ("gradbench", "torch", "device")
"""Columns in which rows that differ are pointed out: the same cell may come out differently there."""


@cache
def git_state(folder: Path = Path(__file__).parent) -> tuple[str | None, bool | None]:
    """Return the commit of the code and whether it has uncommitted changes; nothing outside a checkout."""

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
    """Return the columns that say which code ran on which device."""
    import torch  # most sweeps ask for this in their workers alone, and their own process is spared the import

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
    """Return the time as ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance_warnings(stored: pd.DataFrame, cells: Sequence[Cell], device: str) -> list[str]:
    """Say which rows of a results folder are not of this sweep, and which of its own were made elsewhere.

    Nothing is mixed: other data or another config make another cell. Other versions or another kind of device do
    not, so a finished cell stays what it is; a person should know.

    Args:
        stored: the folder's table of cells; a column that it lacks is not compared.
        cells: the sweep's.
        device: what it would train on now.

    Returns:
        A line on each difference; none where there is none.
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
                f"this folder also holds cells of other content of data={names}: {changed.sum()}, left alone"
            )
        others = others[~changed]
    if len(others):
        lines.append(f"this folder also holds cells of another grid or config: {len(others)}, left alone")
    now_made_by = provenance(device)
    for column in COMPARED:
        for value, rows in finished.groupby(column) if column in finished else ():
            if value != now_made_by[column]:
                lines.append(
                    f"finished cells whose {column} was {value}, and is {now_made_by[column]} now: {len(rows)}, kept; "
                    "to train them anew choose another folder with --results DIR"
                )
    return lines

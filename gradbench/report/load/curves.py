"""The curves of a folder, read part by part: what tables and pages need of every cell, whole rows of a few.

A sweep of 10,000 cells leaves millions of rows; no more than one part of them is held at a time.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from gradbench.errors import DamagedError
from gradbench.report.load import read as stored
from gradbench.report.load.sparklines import Sketch, sketches
from gradbench.storage.parquet import read_table
from gradbench.storage.sanitize import escape_controls

ACTION = ("clipped", "ratio", "cosine", "penalty_share")


@dataclass(frozen=True)
class Curves:
    """What is known of the curves.

    Attributes:
        action: how each cell's treatment acted over its recorded steps (index: cell; columns: ACTION).
        sketches: each cell's curves, small enough for the page.
        rows: the whole rows of the cells that were asked for.
        notes: which parts were left out, and which cells have no curve.
    """

    action: pd.DataFrame
    sketches: dict[str, Sketch]
    rows: pd.DataFrame
    notes: tuple[str, ...] = field(default=())

    def of(self, cells: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of these cells, of those that were asked for."""
        return self.rows[self.rows["cell"].isin(cells["cell"])]


def scan(path: Path, cells: pd.DataFrame, wanted: Collection[str], points: int) -> Curves:
    """Read every part of the curves once.

    Args:
        path: the results folder.
        cells: its cells; rows of any other cell are left out.
        wanted: ids of the cells whose rows are kept.
        points: how many points a sketch may have. With 0, none are made.

    """
    metrics = dict(zip(cells["cell"], cells["model.metric"], strict=True))
    acted: list[pd.DataFrame] = []
    drawn: dict[str, Sketch] = {}
    kept: list[pd.DataFrame] = []
    notes: list[str] = []
    for part in _parts(path, notes):
        rows = stored.whole(part, metrics)
        if len(rows):
            acted.append(action(rows))
            drawn |= sketches(rows, metrics, points) if points else {}
            kept.append(rows[rows["cell"].isin(wanted)])
    whole = pd.concat(acted) if acted else pd.DataFrame(columns=[*ACTION], dtype=float)
    whole = whole[~whole.index.duplicated(keep="last")]
    silent = len(cells) - int(cells["cell"].isin(whole.index).sum())
    if silent:
        notes.append(f"{silent} {'cell' if silent == 1 else 'cells'} without curves")
    return Curves(whole, drawn, _joined(kept), tuple(map(escape_controls, notes)))


def action(rows: pd.DataFrame) -> pd.DataFrame:
    """Return, per cell, how its treatment acted over the recorded steps.

    ``clipped`` is the mean share of coordinates changed, ``ratio`` the geometric mean of used over raw norm,
    ``cosine`` the mean cosine between the two gradients, ``penalty_share`` the mean of
    ``penalty / (|loss| + penalty)``. Steps where a quantity is not finite are left out of its mean.
    """
    raw, used = (rows[name].to_numpy(dtype=float) for name in ("grad_norm", "grad_norm_used"))
    loss, penalty = (np.abs(rows[name].to_numpy(dtype=float)) for name in ("loss", "penalty"))
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = {
            "clipped": rows["clipped"].to_numpy(dtype=float),
            "ratio": np.log(used) - np.log(raw),
            "cosine": rows["cosine"].to_numpy(dtype=float),
            "penalty_share": penalty / (loss + penalty),
        }
    finite = {name: np.where(np.isfinite(values), values, np.nan) for name, values in columns.items()}
    code, names = pd.factorize(rows["cell"])
    means = pd.DataFrame(finite).groupby(code).mean().set_axis(names.astype(object))
    means["ratio"] = np.exp(means["ratio"])
    return means


def _parts(path: Path, notes: list[str]) -> Iterator[pd.DataFrame]:
    for part in stored.parts(path / "curves"):
        try:
            yield read_table(part).to_pandas()
        except DamagedError as error:
            notes.append(f"left out: {error}")


def _joined(kept: list[pd.DataFrame]) -> pd.DataFrame:
    """Put the kept rows of all parts together; of a row in two parts the later one's stays."""
    parts = [rows.astype({"cell": object}).dropna(axis="columns", how="all") for rows in kept if len(rows)]
    joined = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["cell", "step"])
    joined = joined.drop_duplicates(["cell", "step"], keep="last")
    absent = {name: np.nan for name in stored.CURVES if name not in joined}
    return joined.assign(**absent).sort_values(["cell", "step"]).reset_index(drop=True)

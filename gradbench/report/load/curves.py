"""Read the curves of a results folder: a summary and sparklines of every cell, full rows of a few.

A sweep of 10,000 cells has millions of rows, so the parts are read and reduced one at a time.
"""

import itertools
import os
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from gradbench.errors import DamagedError
from gradbench.report.load.read import CURVES, LEFT_OUT, clean_curves
from gradbench.report.load.sparklines import Sparklines, encode_curves
from gradbench.storage.parquet import read_table
from gradbench.storage.sanitize import escape_controls
from gradbench.storage.schema import current_parts

ACTION = ("clipped", "touched", "ratio", "cosine", "penalty_share", "measured")


@dataclass(frozen=True)
class Curves:
    """The curves of a results folder, reduced to what a report needs.

    Attributes:
        action: how each cell's treatment acted over its recorded steps (index: cell; columns: ACTION).
        sparklines: cell -> its curves, small enough for the page.
        rows: full rows of the requested cells.
        notes: parts left out, and the number of cells without curves.
    """

    action: pd.DataFrame
    sparklines: dict[str, Sparklines]
    rows: pd.DataFrame
    notes: tuple[str, ...] = field(default=())
    _selected: dict[tuple[str, ...], pd.DataFrame] = field(default_factory=dict, init=False, repr=False)

    def rows_of(self, cells: pd.DataFrame) -> pd.DataFrame:
        """Select the rows of these cells, which must be among the requested ones; figures ask more than once."""
        wanted = tuple(cells["cell"])
        if wanted not in self._selected:
            self._selected[wanted] = self.rows[self.rows["cell"].isin(wanted)]
        return self._selected[wanted]


def scan_curves(
    path: Path, cells: pd.DataFrame, wanted: Container[str], points: int, listed: int | None = None
) -> Curves:
    """Read every part of the curves once and reduce it.

    Args:
        path: the results folder.
        cells: its table of cells; rows of other cells are left out.
        wanted: ids of the cells whose full rows are kept.
        points: maximal number of points of a sparkline; 0 makes none.
        listed: only the first so many cells get one.

    """
    metrics = dict(zip(cells["cell"], cells["model.metric"], strict=True))
    sketched = dict(itertools.islice(metrics.items(), listed)) if points else {}
    actions: list[pd.DataFrame] = []
    encoded: dict[str, Sparklines] = {}
    kept: list[pd.DataFrame] = []
    notes: list[str] = []
    for part in _read_parts(path, notes):
        rows = clean_curves(part, metrics)
        if len(rows):
            actions.append(summarize_action(rows))
            kept.append(_select_cells(rows, wanted))
            if len(drawn := _select_cells(rows, sketched)):
                encoded |= encode_curves(drawn, sketched, points)
    whole = pd.concat(actions) if actions else pd.DataFrame(columns=[*ACTION], dtype=float)
    whole = whole[~whole.index.duplicated(keep="last")]
    silent = len(cells) - int(cells["cell"].isin(whole.index).sum())
    if silent:
        notes.append(f"{silent} {'cell' if silent == 1 else 'cells'} without curves")
    return Curves(whole, encoded, _join_rows(kept), tuple(map(escape_controls, notes)))


def summarize_action(rows: pd.DataFrame) -> pd.DataFrame:
    """Summarize per cell how its treatment acted over the recorded steps.

    ``clipped`` is the mean share of coordinates changed, ``touched`` the share of steps at which any was, ``ratio``
    the geometric mean of used over raw norm, ``cosine`` the mean cosine between the two gradients, ``penalty_share``
    the mean of ``penalty / (|loss| + penalty)``. Steps at which a quantity is not finite are left out of its mean.
    ``measured`` is the share of the recorded steps at which it was measured how many coordinates changed.
    """
    raw, used = (rows[name].to_numpy(dtype=float) for name in ("grad_norm", "grad_norm_used"))
    loss, penalty = (np.abs(rows[name].to_numpy(dtype=float)) for name in ("loss", "penalty"))
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = {
            "clipped": rows["clipped"].to_numpy(dtype=float),
            "touched": np.where(np.isfinite(rows["clipped"]), rows["clipped"] > 0, np.nan),
            "ratio": np.log(used) - np.log(raw),
            "cosine": rows["cosine"].to_numpy(dtype=float),
            "penalty_share": penalty / (loss + penalty),
            "measured": np.isfinite(rows["clipped"]).to_numpy(dtype=float),
        }
    finite = {name: np.where(np.isfinite(values), values, np.nan) for name, values in columns.items()}
    code, names = pd.factorize(rows["cell"])
    means = pd.DataFrame(finite).groupby(code).mean().set_axis(names.astype(object))
    means["ratio"] = np.exp(means["ratio"])
    return means


def _read_parts(path: Path, notes: list[str]) -> Iterator[pd.DataFrame]:
    for part in current_parts(path / "curves"):
        try:
            yield read_table(part).to_pandas()
        except DamagedError as error:
            if os.path.lexists(part):  # otherwise another process has removed it
                notes.append(f"{LEFT_OUT}: {error}")


def _select_cells(rows: pd.DataFrame, cells: Container[str]) -> pd.DataFrame:
    """Select the rows of these cells by looking up each cell of a part once, however many others there are."""
    named = rows["cell"].cat
    chosen = np.array([name in cells for name in named.categories], dtype=bool)
    return rows[chosen[named.codes.to_numpy()]]


def _join_rows(kept: list[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate the kept rows of all parts; of a row in two parts the later one is kept."""
    parts = [rows.astype({"cell": object}).dropna(axis="columns", how="all") for rows in kept if len(rows)]
    joined = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["cell", "step"])
    joined = joined.drop_duplicates(["cell", "step"], keep="last")
    absent = {name: np.nan for name in CURVES if name not in joined}
    return joined.assign(**absent).sort_values(["cell", "step"]).reset_index(drop=True)

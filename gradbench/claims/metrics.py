"""From tables to one number per cell."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gradbench.claims.schema import Claim, Selector


@dataclass(frozen=True)
class Evidence:
    """The tables of a results folder, and which columns of ``cells`` are keys of a config."""

    cells: pd.DataFrame
    curves: pd.DataFrame
    keys: Sequence[str]


def select(cells: pd.DataFrame, selector: Selector) -> pd.DataFrame:
    """Return the cells whose columns have the values asked for; numbers are compared as numbers."""
    for column, wanted in selector.items():
        if column not in cells:
            return cells.iloc[:0]
        cells = cells[_matches(cells[column], wanted)]
    return cells


def _matches(column: pd.Series, wanted: Sequence[object]) -> np.ndarray:
    """Return which values are among those wanted."""
    numbers = np.array([one for one in wanted if _is_number(one)], dtype=np.float64)
    words = [str(one) for one in wanted if not _is_number(one)]
    found = column.astype(str).isin(words).to_numpy(dtype=bool)
    if len(numbers):
        values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
        found = found | np.isclose(values[:, None], numbers, atol=0).any(axis=1)
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def conditions(cells: pd.DataFrame, keys: Sequence[str]) -> list[Selector]:
    """Return every combination of values that occurs, in order; one that asks for nothing without keys."""
    if not keys:
        return [{}]
    if not set(keys) <= set(cells):
        return []
    found = cells[list(keys)].dropna().drop_duplicates().sort_values(list(keys))
    return [
        {key: (value,) for key, value in zip(keys, values, strict=True)}
        for values in found.itertuples(index=False, name=None)
    ]


def measure(claim: Claim, cells: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of one condition with ``value``, ``lost`` and ``tuned``: what is judged, and chosen by.

    ``tuned`` is a score: lower is better, inf is lost, nan absent.
    """
    ran = cells["status"] != "failed"
    diverged = cells["status"] == "diverged"
    if claim.metric == "diverged":
        value = diverged.astype(float)
    elif claim.take == "final":
        value = _column(cells, claim.metric)
    elif claim.take == "distance":
        value = (_column(cells, claim.metric) - float(claim.level or 0.0)).abs()
    else:
        value, diverged = _along_curves(claim, cells, curves, diverged)
    value = value.where(ran)
    endless = np.isinf(value)
    lost = (diverged | endless) & ran
    if claim.keeps_losses:
        lost &= value.isna() | endless
    value = value.mask(lost | endless)
    if claim.tune == "metric":
        tuned = (-value if claim.goal == "max" else value).mask(lost, np.inf)
    else:
        tuned = _outcome(cells).where(ran)
    return cells.assign(value=value, lost=lost, tuned=tuned)


def _column(cells: pd.DataFrame, name: str) -> pd.Series:
    if name not in cells:
        return pd.Series(np.nan, index=cells.index)
    return pd.to_numeric(cells[name], errors="coerce")


def _outcome(cells: pd.DataFrame) -> pd.Series:
    """Return scores of the model's own metric."""
    scores = pd.Series(np.nan, index=cells.index)
    for (metric, goal), group in cells.groupby(["model.metric", "model.goal"]):
        values = _column(group, str(metric))
        scores[group.index] = -values if goal == "max" else values
    scores[cells["status"] == "diverged"] = np.inf
    return scores


def _along_curves(
    claim: Claim, cells: pd.DataFrame, curves: pd.DataFrame, diverged: pd.Series
) -> tuple[pd.Series, pd.Series]:
    """Return value and loss of what the curves tell."""
    if claim.metric not in curves:
        return pd.Series(np.nan, index=cells.index), diverged
    rows = curves.loc[curves["cell"].isin(cells["cell"]), ["cell", "step", claim.metric]]
    rows = rows.astype({claim.metric: float})  # a mean of large 32-bit numbers overflows
    rows = rows[np.isfinite(rows[claim.metric])]
    if claim.take == "mean":
        return cells["cell"].map(rows.groupby("cell")[claim.metric].mean()), diverged
    if claim.take == "steps_to":
        level = float(claim.level or 0.0)
        reached = rows[claim.metric] <= level if claim.goal == "min" else rows[claim.metric] >= level
        first = cells["cell"].map(rows[reached].groupby("cell")["step"].min()).astype(float)
        return first, first.isna() & (cells["status"] != "failed")
    limit = _equal_seconds(cells)
    until = rows["cell"].map(dict(zip(cells["cell"], limit, strict=True)))
    last = rows[rows["step"] <= until].sort_values("step").groupby("cell")[claim.metric].last()
    stopped = _column(cells, "diverged_at") <= limit
    return cells["cell"].map(last).astype(float), diverged & stopped


def _equal_seconds(cells: pd.DataFrame) -> pd.Series:
    """Return the step that each cell had reached when the regularizer that ends first was done.

    A regularizer's time per step is the median over its cells: cells of one stack share a stopwatch.
    """
    time = cells.groupby("regularizer")["step_seconds"].transform("median").astype(float)
    steps: pd.Series = (time * cells["steps"]).min() / time
    return steps.fillna(0.0)

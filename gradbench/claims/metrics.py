"""Compute the number that a claim reads of each cell, from the tables of cells and curves."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from gradbench.claims.schema import STEP_RATIO, Claim, Selector


@dataclass(frozen=True)
class Evidence:
    """The tables of a results folder.

    Attributes:
        cells: the table of cells.
        curves: the table of curves.
        keys: columns of ``cells`` that are config keys.
        rounds: the table of costs, a row per program and round; empty where nothing was timed.
    """

    cells: pd.DataFrame
    curves: pd.DataFrame
    keys: Sequence[str]
    rounds: pd.DataFrame = field(default_factory=pd.DataFrame)


def select_cells(cells: pd.DataFrame, selector: Selector) -> pd.DataFrame:
    """Select the cells that have one of the wanted values in each column; numbers are compared as numbers."""
    for column, wanted in selector.items():
        if column not in cells:
            return cells.iloc[:0]
        cells = cells[_matches(cells[column], wanted)]
    return cells


def _matches(column: pd.Series, wanted: Sequence[object]) -> np.ndarray:
    """Mask the values of a column that are among those wanted."""
    numbers = np.array([one for one in wanted if _is_number(one)], dtype=np.float64)
    words = [str(one) for one in wanted if not _is_number(one)]
    found = column.astype(str).isin(words).to_numpy(dtype=bool)
    if len(numbers):
        values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
        found = found | np.isclose(values[:, None], numbers, atol=0).any(axis=1)
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def list_conditions(cells: pd.DataFrame, keys: Sequence[str]) -> list[Selector]:
    """List every combination of the keys' values that occurs, sorted; ``[{}]`` without keys."""
    if not keys:
        return [{}]
    if not set(keys) <= set(cells):
        return []
    found = cells[list(keys)].dropna().drop_duplicates().sort_values(list(keys))
    return [
        {key: (value,) for key, value in zip(keys, values, strict=True)}
        for values in found.itertuples(index=False, name=None)
    ]


def rounds_as_seeds(cells: pd.DataFrame, rounds: pd.DataFrame) -> pd.DataFrame:
    """Return a row per program and round, as the table of cells has one per cell and seed; empty where none was timed.

    What was timed does not depend on strength, learning rate and seed: one cell stands for all of its program.
    """
    program = ["step_program", "device"]
    if rounds.empty or not set(program) <= set(cells):
        return cells.iloc[:0]
    one = cells[cells["status"] != "failed"].drop_duplicates(program)
    timed = rounds[[*program, "round", "step_ratio"]].rename(
        columns={"round": "seed", "step_ratio": STEP_RATIO}
    )
    named = one.drop(columns=["seed", STEP_RATIO], errors="ignore").merge(timed, on=program)
    return named.assign(status="completed")


def add_claim_values(claim: Claim, cells: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Add the columns ``value``, ``lost`` and ``tuned`` to the cells of one condition.

    ``value`` is the number that is judged (nan if lost or absent), ``lost`` whether the cell has none because it
    diverged or never reached one, ``tuned`` the score that settings are chosen by (lower is better, inf lost, nan
    absent).
    """
    ran = cells["status"] != "failed"
    diverged = cells["status"] == "diverged"
    if claim.metric == "diverged":
        value = diverged.astype(float)
    elif claim.take == "final":
        value = _numeric_column(cells, claim.metric)
    elif claim.take == "distance":
        value = (_numeric_column(cells, claim.metric) - float(claim.level or 0.0)).abs()
    else:
        value, diverged = _read_curves(claim, cells, curves, diverged)
    value = value.where(ran)
    infinite = np.isinf(value)
    lost = (diverged | infinite) & ran
    if claim.counts_diverged:
        lost &= value.isna() | infinite
    value = value.mask(lost | infinite)
    if claim.tune == "metric":
        tuned = (-value if claim.goal == "max" else value).mask(lost, np.inf)
    else:
        tuned = _model_scores(cells).where(ran)
    return cells.assign(value=value, lost=lost, tuned=tuned)


def _numeric_column(cells: pd.DataFrame, name: str) -> pd.Series:
    if name not in cells:
        return pd.Series(np.nan, index=cells.index)
    return pd.to_numeric(cells[name], errors="coerce")


def _model_scores(cells: pd.DataFrame) -> pd.Series:
    """Compute scores of the model's own metric: lower is better, inf diverged."""
    scores = pd.Series(np.nan, index=cells.index)
    for (metric, goal), group in cells.groupby(["model.metric", "model.goal"]):
        values = _numeric_column(group, str(metric))
        scores[group.index] = -values if goal == "max" else values
    scores[cells["status"] == "diverged"] = np.inf
    return scores


def _read_curves(
    claim: Claim, cells: pd.DataFrame, curves: pd.DataFrame, diverged: pd.Series
) -> tuple[pd.Series, pd.Series]:
    """Compute value and loss of each cell from its curve, as the claim's ``take`` says."""
    if claim.metric not in curves:
        return pd.Series(np.nan, index=cells.index), diverged
    rows = curves.loc[curves["cell"].isin(cells["cell"]), ["cell", "step", claim.metric]]
    rows = rows.astype({claim.metric: float})  # the mean of large float32 numbers overflows
    rows = rows[np.isfinite(rows[claim.metric])]
    if claim.take == "mean":
        return cells["cell"].map(rows.groupby("cell")[claim.metric].mean()), diverged
    if claim.take == "steps_to":
        level = float(claim.level or 0.0)
        reached = rows[claim.metric] <= level if claim.goal == "min" else rows[claim.metric] >= level
        first = cells["cell"].map(rows[reached].groupby("cell")["step"].min()).astype(float)
        return first, first.isna() & (cells["status"] != "failed")
    limit = _steps_at_equal_seconds(cells)
    until = rows["cell"].map(dict(zip(cells["cell"], limit, strict=True)))
    last = rows[rows["step"] <= until].sort_values("step").groupby("cell")[claim.metric].last()
    stopped = _numeric_column(cells, "diverged_at") <= limit
    return cells["cell"].map(last).astype(float), diverged & stopped


def _steps_at_equal_seconds(cells: pd.DataFrame) -> pd.Series:
    """Compute the step that each cell had reached when the fastest regularizer finished.

    A regularizer's time per step is the one that was timed beside the others' after the sweep; without such timings the
    median over its cells, because cells of one stack are timed together.
    """
    timed = "cost/step_seconds" in cells and bool(cells["cost/step_seconds"].notna().all())
    seconds = cells.groupby("regularizer")["cost/step_seconds" if timed else "step_seconds"]
    time = seconds.transform("median").astype(float)
    steps: pd.Series = (time * cells["steps"]).min() / time
    return steps.fillna(0.0)

"""The numbers behind the figures, one table each, as they are written to ``tables/*.csv``."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from gradbench.report.compare import Comparison, Setting, judge, step_ratio
from gradbench.report.tables import NONE, Results
from gradbench.stats import Interval, interquartile_mean, mean_interval, share_interval

Row = Callable[[Comparison, Setting], Mapping[str, object]]
ACTION = ("clipped", "ratio", "cosine", "penalty_share")


def tables(results: Results, comparisons: Sequence[Comparison]) -> dict[str, pd.DataFrame]:
    """Return every table by file name."""
    acted = action(results)
    return {
        "cells.csv": results.cells,
        "strengths.csv": _per_setting(comparisons, _strength),
        "divergence.csv": _per_setting(comparisons, _divergence),
        "cost.csv": _per_setting(comparisons, _cost),
        "action.csv": _per_setting(comparisons, lambda c, s: _action(acted, c, s)),
        "comparisons.csv": pd.DataFrame(
            [_judged(c, t) for c in comparisons for t in c.treatments if t != NONE], columns=JUDGED
        ),
    }


def action(results: Results) -> pd.DataFrame:
    """Return, per cell, how its treatment acted over the recorded steps (index: cell; columns: ACTION).

    ``clipped`` is the mean share of coordinates changed, ``ratio`` the geometric mean of used over raw norm,
    ``cosine`` the mean cosine between the two gradients, ``penalty_share`` the mean of
    ``penalty / (|loss| + penalty)``. Steps where a quantity is not finite are left out of its mean.
    """
    curves = results.curves
    raw, used = (curves[name].to_numpy(dtype=float) for name in ("grad_norm", "grad_norm_used"))
    loss, penalty = (np.abs(curves[name].to_numpy(dtype=float)) for name in ("loss", "penalty"))
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = {
            "clipped": curves["clipped"].to_numpy(dtype=float),
            "ratio": np.log(used) - np.log(raw),
            "cosine": curves["cosine"].to_numpy(dtype=float),
            "penalty_share": penalty / (loss + penalty),
        }
    finite = {name: np.where(np.isfinite(values), values, np.nan) for name, values in columns.items()}
    means = pd.DataFrame(finite).groupby(curves["cell"].to_numpy()).mean()
    means["ratio"] = np.exp(means["ratio"])
    return means


def spread(interval: Interval, name: str) -> dict[str, float]:
    """Name an interval's parts as columns."""
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def timings(comparison: Comparison, setting: Setting) -> pd.Series:
    """Return the distinct step times of a setting, over the median of ``none``; a stack shares one time."""
    cells = comparison.cells
    if "step_seconds" not in cells:
        return pd.Series(dtype=float)
    control = comparison.at(Setting(NONE, "", None))["step_seconds"].median()
    found = comparison.at(setting)["step_seconds"].dropna().drop_duplicates()
    return found / control if control > 0 else pd.Series(dtype=float)


def _per_setting(comparisons: Sequence[Comparison], row: Row) -> pd.DataFrame:
    rows = []
    for comparison in comparisons:
        for setting in comparison.settings:
            where = {"comparison": comparison.label, **setting._asdict()}
            rows.append({**where, **row(comparison, setting)})
    return pd.DataFrame(rows)


def _strength(comparison: Comparison, setting: Setting) -> Mapping[str, object]:
    cells = comparison.at(setting)
    return {
        "metric": comparison.metric,
        "goal": comparison.goal,
        "cells": len(cells),
        "completed": int((cells["status"] == "completed").sum()),
        "diverged": int((cells["status"] == "diverged").sum()),
        "failed": int((cells["status"] == "failed").sum()),
        **spread(mean_interval(cells["value"]), "mean"),
        **spread(interquartile_mean(cells["value"]), "iqm"),
    }


def _divergence(comparison: Comparison, setting: Setting) -> Mapping[str, object]:
    interval = diverged(comparison, setting)
    return {
        "n": interval.n,
        "diverged": round(interval.estimate * interval.n) if interval.n else 0,
        **spread(interval, "share"),
    }


def diverged(comparison: Comparison, setting: Setting) -> Interval:
    """Return the share of a setting's cells that diverged, failed ones aside."""
    statuses = comparison.at(setting)["status"]
    ran = statuses[statuses != "failed"]
    return share_interval(int((ran == "diverged").sum()), len(ran))


def _cost(comparison: Comparison, setting: Setting) -> Mapping[str, object]:
    ratios = timings(comparison, setting)
    return {
        "timings": len(ratios),
        "ratio": step_ratio(comparison, setting),
        "lowest": ratios.min(),
        "highest": ratios.max(),
    }


def _action(acted: pd.DataFrame, comparison: Comparison, setting: Setting) -> Mapping[str, object]:
    rows = acted.reindex(comparison.at(setting)["cell"])
    row: dict[str, object] = {"n": int(rows.notna().any(axis=1).sum())}
    for name in ACTION:
        row |= spread(mean_interval(rows[name]), name)
    return row


JUDGED = (
    *("comparison", "treatment", "metric", "goal", "quantity", "chosen", "n", "diverged"),
    *("mean", "mean_low", "mean_high", "none_n", "none_diverged", "none", "none_low", "none_high"),
    *("pairs", "difference", "difference_low", "difference_high"),
    *("share_difference", "share_difference_low", "share_difference_high", "step_ratio", "verdict"),
)


def _judged(comparison: Comparison, treatment: str) -> Mapping[str, object]:
    """Judge one treatment alone, its strength chosen on the other seeds."""
    judged = judge(comparison, [treatment])
    return {
        "comparison": comparison.label,
        "treatment": treatment,
        "metric": comparison.metric,
        "goal": comparison.goal,
        "quantity": comparison.chosen(treatment).quantity,
        "chosen": " ".join(str(fold.strength) for fold in judged.folds if fold.strength is not None),
        "n": judged.n,
        "diverged": judged.diverged,
        **spread(judged.value, "mean"),
        "none_n": judged.control_n,
        "none_diverged": judged.control_diverged,
        **spread(judged.control, "none"),
        "pairs": judged.difference.n,
        **spread(judged.difference, "difference"),
        **spread(judged.finishing, "share_difference"),
        "step_ratio": step_ratio(comparison, comparison.chosen(treatment)),
        "verdict": judged.verdict,
    }

"""The numbers behind the figures, one table each, as they are written to ``tables/*.csv``."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from gradbench.report.analysis.comparison import Comparison, Setting, judge, step_ratio
from gradbench.report.load.cells import NONE, Results
from gradbench.report.load.curves import ACTION
from gradbench.report.load.read import STATUSES
from gradbench.stats.intervals import (
    Interval,
    interquartile_mean,
    mean_interval,
    probability_of_improvement,
    share_interval,
)

Row = Callable[[Comparison, Setting], Mapping[str, object]]


def tables(
    results: Results, comparisons: Sequence[Comparison], acted: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Return every table by file name; ``acted`` is the action of :class:`Curves`."""
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


def spread(interval: Interval, name: str) -> dict[str, float]:
    """Name an interval's parts as columns."""
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def timings(comparison: Comparison, setting: Setting) -> pd.Series:
    """Return the distinct step times of a setting, over the median of ``none``; a stack shares one time."""
    cells = comparison.cells
    if "step_seconds" not in cells:
        return pd.Series(dtype=float)
    found = comparison.at(setting)["step_seconds"].dropna().drop_duplicates()
    control = comparison.control_seconds
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
    statuses, values = cells["status"].tolist(), cells["value"].to_numpy()
    return {
        "metric": comparison.metric,
        "goal": comparison.goal,
        "cells": len(cells),
        **{status: statuses.count(status) for status in STATUSES},
        **spread(mean_interval(values), "mean"),
        **spread(interquartile_mean(values), "iqm"),
        **spread(_improvement(comparison, setting), "improvement"),
    }


def _improvement(comparison: Comparison, setting: Setting) -> Interval:
    """Return the probability that a cell of the setting is better than one of ``none``."""
    if setting.treatment == NONE:
        return Interval(np.nan, np.nan, np.nan, 0)
    control = comparison.at(Setting(NONE, "", None))
    return probability_of_improvement(comparison.at(setting)["score"], control["score"])


def _divergence(comparison: Comparison, setting: Setting) -> Mapping[str, object]:
    interval = diverged(comparison, setting)
    return {
        "n": interval.n,
        "diverged": round(interval.estimate * interval.n) if interval.n else 0,
        **spread(interval, "share"),
    }


def diverged(comparison: Comparison, setting: Setting) -> Interval:
    """Return the share of a setting's cells that diverged, failed ones aside."""
    statuses = comparison.at(setting)["status"].tolist()
    return share_interval(statuses.count("diverged"), len(statuses) - statuses.count("failed"))


def _cost(comparison: Comparison, setting: Setting) -> Mapping[str, object]:
    ratios = timings(comparison, setting)
    return {
        "timings": len(ratios),
        "ratio": step_ratio(comparison, setting),
        "lowest": ratios.min(),
        "highest": ratios.max(),
    }


def _action(acted: pd.DataFrame, comparison: Comparison, setting: Setting) -> Mapping[str, object]:
    means = acted.reindex(comparison.at(setting)["cell"]).to_numpy(dtype=float)  # [cells, ACTION]
    row: dict[str, object] = {"n": int((~np.isnan(means)).any(axis=1).sum())}
    for name, values in zip(ACTION, means.T, strict=True):
        row |= spread(mean_interval(values), name)
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

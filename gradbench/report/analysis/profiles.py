"""Compute performance profiles: the share of a treatment's cells at least as good as each value of the metric."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from gradbench.report.analysis.comparison import CONTROL, ComparisonGroup
from gradbench.stats.intervals import Floats, Interval, performance_profile

MAX_THRESHOLDS = 60  # values of the metric at which a profile is computed
TRIED, CHOSEN = "every strength", "chosen strength"


def treatment_scores(comparison: ComparisonGroup, treatment: str, which: str) -> Floats:
    """Collect the scores of a treatment's cells: lower is better, inf diverged, nan failed.

    Args:
        comparison: the cells.
        treatment: name of the treatment.
        which: ``TRIED`` for the cells of every strength, ``CHOSEN`` for those of the chosen one.
    """
    cells = comparison.cells[comparison.cells["treatment"] == treatment]
    if which == CHOSEN:
        cells = comparison.cells_at(comparison.chosen_setting(treatment))
    return cells["score"].to_numpy(dtype=float)


def profile_thresholds(comparison: ComparisonGroup) -> Floats:
    """List the scores at which the profiles step, evenly thinned to at most ``MAX_THRESHOLDS``."""
    found = np.unique(comparison.cells["score"].to_numpy(dtype=float))
    found = found[np.isfinite(found)]
    places = np.linspace(0, len(found) - 1, min(len(found), MAX_THRESHOLDS)).round().astype(int)
    kept: Floats = found[places]
    return kept


def share_as_good_as_none(comparison: ComparisonGroup, treatment: str) -> Interval:
    """Compute the share of a treatment's cells that are at least as good as the median cell of ``none``.

    If that cell diverged, or there is no ``none``, this is the share that completed.
    """
    control = comparison.cells_at(CONTROL)["score"].dropna()
    median = float(np.quantile(control, 0.5, method="higher")) if len(control) else np.inf
    tau = median if np.isfinite(median) else np.finfo(float).max
    return performance_profile(treatment_scores(comparison, treatment, TRIED), [tau])[0]


def profile_table(comparisons: Sequence[ComparisonGroup]) -> pd.DataFrame:
    """Build the table of profiles: one row per treatment and value of the metric."""
    rows = []
    for comparison in comparisons:
        taus = profile_thresholds(comparison)
        metric = -taus if comparison.goal == "max" else taus
        for which in (TRIED, CHOSEN):
            for treatment in comparison.treatments:
                profile = performance_profile(treatment_scores(comparison, treatment, which), taus)
                where = {"comparison": comparison.label, "treatment": treatment, "strengths": which}
                rows += [
                    {**where, "metric": comparison.metric, "at_least_as_good_as": value, "n": share.n}
                    | share.columns("share")
                    for value, share in zip(metric, profile, strict=True)
                ]
    return pd.DataFrame(rows)

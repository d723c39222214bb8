"""Performance profiles: what share of a treatment's cells is at least as good as any given value of the metric."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from gradbench.report.analysis.comparison import Comparison, Setting
from gradbench.report.load.cells import NONE
from gradbench.stats.intervals import Floats, Interval, performance_profile

MOST = 60  # values of the metric at which a profile is taken
TRIED, CHOSEN = "every strength", "chosen strength"


def scores(comparison: Comparison, treatment: str, which: str) -> Floats:
    """Return the scores of a treatment's cells, lower is better, inf where one diverged, nan where it failed."""
    cells = comparison.cells[comparison.cells["treatment"] == treatment]
    if which == CHOSEN:
        cells = comparison.at(comparison.chosen(treatment))
    return cells["score"].to_numpy(dtype=float)


def thresholds(comparison: Comparison) -> Floats:
    """Return the scores at which the group's profiles step, or as many of them, evenly spread, as a line needs."""
    found = np.unique(comparison.cells["score"].to_numpy(dtype=float))
    found = found[np.isfinite(found)]
    places = np.linspace(0, len(found) - 1, min(len(found), MOST)).round().astype(int)
    kept: Floats = found[places]
    return kept


def good(comparison: Comparison, treatment: str) -> Interval:
    """Return the share of a treatment's cells that are at least as good as the median one of ``none``.

    Where that one diverged, or there is no ``none``: the share that completed.
    """
    control = comparison.at(Setting(NONE, "", None))["score"].dropna()
    median = float(np.quantile(control, 0.5, method="higher")) if len(control) else np.inf
    tau = median if np.isfinite(median) else np.finfo(float).max
    return performance_profile(scores(comparison, treatment, TRIED), [tau])[0]


def table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Return the profiles of these groups: a row per treatment and value of the metric."""
    rows = []
    for comparison in comparisons:
        taus = thresholds(comparison)
        metric = -taus if comparison.goal == "max" else taus
        for which in (TRIED, CHOSEN):
            for treatment in comparison.treatments:
                profile = performance_profile(scores(comparison, treatment, which), taus)
                where = {"comparison": comparison.label, "treatment": treatment, "strengths": which}
                rows += [
                    {**where, "metric": comparison.metric, "at_least_as_good_as": value, "n": share.n}
                    | {"share": share.estimate, "share_low": share.low, "share_high": share.high}
                    for value, share in zip(metric, profile, strict=True)
                ]
    return pd.DataFrame(rows)

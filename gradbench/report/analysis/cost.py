"""Say what a treatment costs: the time of its step relative to that of ``none``, timed side by side after the sweep."""

from gradbench.report.analysis.comparison import ComparisonGroup
from gradbench.report.load.costs import PREFIX
from gradbench.stats.intervals import NO_VALUES, Interval


def cost_of(comparison: ComparisonGroup, treatment: str) -> Interval:
    """Return the time of a treatment's step over that of ``none``: the median over rounds, with its 95 % interval.

    ``n`` is the number of rounds. Unknown (``NO_VALUES``) where it was not timed, or ``none`` was not. A name that
    stands for several programs has the dearest.
    """
    return _dearest(comparison, treatment, "step_ratio")


def milliseconds_of(comparison: ComparisonGroup, treatment: str) -> Interval:
    """Return the milliseconds of a treatment's step per cell, as :func:`cost_of` returns ratios."""
    found = _dearest(comparison, treatment, "step_seconds")
    return Interval(1e3 * found.estimate, 1e3 * found.low, 1e3 * found.high, found.n)


def _dearest(comparison: ComparisonGroup, treatment: str, name: str) -> Interval:
    """Return the largest value of a column of costs among a treatment's cells, with the interval it has."""
    column = f"{PREFIX}{name}"
    if column not in comparison.cells:
        return NO_VALUES
    cells = comparison.cells
    known = cells[(cells["treatment"] == treatment) & cells[column].notna()]
    if known.empty:
        return NO_VALUES
    row = known.iloc[int(known[column].argmax())]
    low, high = (float(row[f"{column}_{end}"]) for end in ("low", "high"))
    return Interval(float(row[column]), low, high, int(row[f"{PREFIX}rounds"]))

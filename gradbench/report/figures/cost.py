"""Draw the time of a step relative to ``none``, with its interval; in milliseconds where there is no ``none``."""

import numpy as np

from gradbench.report.analysis.comparison import ComparisonGroup
from gradbench.report.analysis.cost import cost_of, milliseconds_of
from gradbench.report.figures.panels import MAX_NAME, Context, Drawing, darker, label_margin, panels
from gradbench.report.load.cells import NONE
from gradbench.report.render.formatting import cap_list, format_number, join_words, shorten
from gradbench.stats.intervals import Interval

CAPTION = (
    "Time of a step relative to none, after the sweep: each treatment has a stack of its own, all of the same number "
    "of cells, and each round times every treatment once, so that a slower machine slows all of them. The marker is "
    "the median over rounds, the line its 95% interval. A treatment that cost nothing would lie on the line at 1. In "
    "the sweep itself, cells of none, of clippings and of projections that train in one stack share its forward and "
    "backward pass, and so its time: there a clipping costs nothing that a clock could tell. Where the sweep has no "
    "none, milliseconds per step and cell are shown. Times are of the machine that ran this."
)


def draw(context: Context) -> list[Drawing]:
    """Draw a row per comparison that has times."""
    timed = [comparison for comparison in context.comparisons if _costs(comparison)]
    if not timed:
        return []
    most = max(len(_costs(comparison)) for comparison in timed)
    title = _title(timed)
    figure, axes = panels(
        title,
        [c.label_with_seeds for c in timed],
        1,
        height=0.1 + 0.21 * most,
        left=label_margin(context) + 0.1,
        right=0.7,
    )
    for comparison, (ax,) in zip(timed, axes, strict=True):
        found, is_ratio = _costs(comparison), _is_relative(comparison)
        if is_ratio:
            ax.axvline(1.0, color="#808080", lw=1, zorder=1)
        for row, (treatment, cost) in enumerate(found.items()):
            look = context.looks[treatment]
            ax.hlines(row, cost.low, cost.high, color=look.color, lw=2)
            ax.plot(cost.estimate, row, look.marker, color=look.color, ms=6)
            unit = "×" if is_ratio else " ms"
            ax.annotate(
                f"{format_number(cost.estimate)}{unit}", (1, row), (5, 0), xycoords=("axes fraction", "data"),
                textcoords="offset points", va="center", size=8, color=darker(look.color),
            )  # fmt: skip
        ax.set_yticks(range(len(found)), [shorten(name, MAX_NAME) for name in found])
        ax.set_ylim(len(found) - 0.5, -0.5)
        ends = [end for cost in found.values() for end in cost[:3] if np.isfinite(end)]
        ax.set_xlim(min([0.9, *ends]) - 0.02 if is_ratio else 0, max([1.1 if is_ratio else 0, *ends]) * 1.03)
        ax.set_xlabel("step time, relative to none" if is_ratio else "milliseconds per step and cell")
    alt = f"Step time per treatment, relative to none. {title}"
    return [Drawing("cost", title, CAPTION, alt, "cost.csv", figure)]


def _is_relative(comparison: ComparisonGroup) -> bool:
    """Return whether a treatment was timed beside ``none``."""
    return any(cost_of(comparison, name).n for name in comparison.treatments if name != NONE)


def _costs(comparison: ComparisonGroup) -> dict[str, Interval]:
    """Return the known cost of each treatment; empty where there is only that of ``none``."""
    measure = cost_of if _is_relative(comparison) else milliseconds_of
    found = {name: measure(comparison, name) for name in comparison.treatments}
    known = {name: cost for name, cost in found.items() if cost.n}
    return known if set(known) - {NONE} else {}


def _title(timed: list[ComparisonGroup]) -> str:
    dearest = []
    for comparison in timed:
        unit = "×" if _is_relative(comparison) else " ms"
        costs = {name: cost.estimate for name, cost in _costs(comparison).items() if name != NONE}
        name = max(costs, key=lambda name: costs[name])
        dearest.append(f"{format_number(costs[name], 2)}{unit} for {comparison.label} ({name})")
    relative = ", relative to none" if all(map(_is_relative, timed)) else ""
    return f"A step costs at most {join_words(cap_list(dearest))}{relative}"

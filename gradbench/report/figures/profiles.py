"""Draw performance profiles: the share of cells at least as good as each value of the metric."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from gradbench.report.analysis.comparison import ComparisonGroup
from gradbench.report.analysis.profiles import (
    CHOSEN,
    TRIED,
    profile_thresholds,
    share_as_good_as_none,
    treatment_scores,
)
from gradbench.report.figures.panels import (
    Context,
    Drawing,
    axis_limits,
    darker,
    end_label,
    has_wide_range,
    label_ends,
    label_height,
    label_margin,
    log_ticks,
    panels,
    share_y_axis,
)
from gradbench.report.load.cells import NONE
from gradbench.report.render.formatting import cap_list, format_number, join_words
from gradbench.stats.intervals import performance_profile

CAPTION = (
    "Along the axis, a value of the metric, strictest at the left; upward, the share of a treatment's cells that are "
    "at least as good, with Wilson's 95% interval at each value. Diverged cells are good enough nowhere and stay in "
    "the denominator: a line ends as far below 1 as cells diverged. First, all strengths that were tried count, a "
    "measure of how much depends on the choice; cells of one seed are not independent there, and the bands somewhat "
    "too narrow. Then the strength that was best over all seeds, which is partly luck. The line that is higher is "
    "better at that value; if the treatments did nothing, all lines would coincide."
)


def draw(context: Context) -> list[Drawing]:
    """Draw a row per comparison in which a cell completed: every strength, and the chosen one."""
    shown = [c for c in context.comparisons if len(profile_thresholds(c)) and set(c.treatments) - {NONE}]
    if not shown:
        return []
    title, room = _title(shown), label_margin(context)
    figure, axes = panels(
        title, [_heading(comparison) for comparison in shown], 2, layout=context.layout,
        height=label_height(context, 1.6), right=room, gap=room,
    )  # fmt: skip
    for comparison, row in zip(shown, axes, strict=True):
        for ax, which in zip(row, (TRIED, CHOSEN), strict=True):
            _draw_panel(ax, context, comparison, which)
        share_y_axis(row, "share as good or better", context.layout)
    alt = f"Share of cells at least as good as each value of the metric, per treatment. {title}"
    return [Drawing("profiles", title, CAPTION, alt, "profiles.csv", figure)]


def _draw_panel(ax: Axes, context: Context, comparison: ComparisonGroup, which: str) -> None:
    """Draw the profile of each treatment, for all strengths or the chosen one."""
    sign = -1 if comparison.goal == "max" else 1  # turns a metric into a score, where lower is better
    taus = profile_thresholds(comparison)
    log = sign > 0 and has_wide_range(taus.tolist())
    low, high = axis_limits(sign * taus, log=log, pad=0.04)
    best, worst = (low, high) if sign > 0 else (high, low)
    taus = np.array([sign * best, *taus, sign * worst])  # extends the lines to both ends of the axis
    ends = []
    for treatment in comparison.treatments:
        look = context.looks[treatment]
        profile = performance_profile(treatment_scores(comparison, treatment, which), taus)
        if profile[0].n:
            share, down, up = np.array([part[:3] for part in profile]).T
            ax.plot(
                sign * taus, share, color=look.color, linestyle=look.dash, marker=look.marker, ms=4,
                markevery=max(len(taus) // 6, 1), drawstyle="steps-post", zorder=3,
            )  # fmt: skip
            ax.fill_between(sign * taus, down, up, step="post", color=look.color, alpha=0.1, lw=0, zorder=1)
            ends.append((float(share[-1]), end_label(treatment, look, context.layout), darker(look.color)))
    if log:
        ax.set_xscale("log")
        ticks = log_ticks(float(np.log10(low)), float(np.log10(high)))
        ax.set_xticks(ticks, [format_number(tick, 2) for tick in ticks])
        ax.minorticks_off()
    else:
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.set_xlim(best, worst)
    ax.set_ylim(-0.04, 1.04)
    ax.set_xlabel(f"{comparison.unit}; {which}")
    label_ends(ax, ends)


def _count_good(comparison: ComparisonGroup) -> dict[str, str]:
    """Count each treatment's cells that are as good as the median cell of ``none``: ``7 of 12``."""
    shares = {
        treatment: share_as_good_as_none(comparison, treatment)
        for treatment in comparison.treatments
        if treatment != NONE
    }
    return {
        name: f"{round(share.estimate * share.n)} of {share.n}" for name, share in shares.items() if share.n
    }


def _heading(comparison: ComparisonGroup) -> str:
    counts = ", ".join(f"{name} {words}" for name, words in _count_good(comparison).items())
    control = treatment_scores(comparison, NONE, TRIED)
    lost = (
        f"; none diverges in {np.isposinf(control).sum()} of {len(control)}"
        if np.isposinf(control).any()
        else ""
    )
    return f"{comparison.label_with_seeds}, cells as good as the median of none: {counts}{lost}"


def _title(shown: Sequence[ComparisonGroup]) -> str:
    """Name, per comparison, the treatment with the largest share of good cells."""
    parts = []
    for comparison in shown:
        shares = {
            name: share_as_good_as_none(comparison, name).estimate
            for name in comparison.treatments
            if name != NONE
        }
        best = max(shares, key=lambda name: np.nan_to_num(shares[name], nan=-1.0))
        parts.append(f"{format_number(100 * shares[best], 2)}% of {best} for {comparison.label}")
    return f"Of all strengths tried, as good as the median of none: {join_words(cap_list(parts))}"

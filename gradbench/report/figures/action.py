"""Draw how often and how strongly each treatment acted, against its strength."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from gradbench.report.analysis.comparison import ComparisonGroup, Line, Setting
from gradbench.report.figures.panels import (
    ALONG,
    WIDTH,
    Context,
    Drawing,
    darker,
    end_label,
    label_ends,
    label_margin,
    label_strength_axis,
    panels,
    strength_positions,
)
from gradbench.report.render.formatting import cap_list, format_number, format_setting, join_words
from gradbench.stats.intervals import mean_interval

CAPTION = (
    "Means over all recorded steps of a cell, then over seeds, with 95% Student t intervals; a diverged "
    "cell counts with the steps it made. Where a gradient's direction may change, all three are of the first "
    "step, every fiftieth and the last. Left, the share of coordinates that the treatment changed (norm "
    "clipping changes all or none). Middle, the norm used over the norm given, a geometric mean. Right, "
    "the cosine between the two gradients: 1 keeps the direction. A treatment that did nothing would lie "
    f"at 0, 1 and 1. {ALONG}"
)
PENALTY = (
    "The penalty's share of the objective, penalty / (|loss| + penalty), averaged over the steps of a "
    "cell and then over seeds, with 95% Student t intervals. A share near 0 leaves the loss to itself; "
    f"near 1 the loss hardly matters. If the penalty did nothing, the share would be 0. {ALONG}"
)
UNITS = {
    "clipped": "share changed",
    "ratio": "‖used‖ / ‖raw‖",
    "cosine": "cosine",
    "penalty_share": "penalty's share",
}


def draw(context: Context) -> list[Drawing]:
    """Draw one figure of treatments that change gradients, and one of penalties."""
    action = context.curves.action
    found = []
    if clippings := _select_rows(context, action, penalties=False):
        found.append(_draw_clipping(context, clippings, action))
    if penalties := _select_rows(context, action, penalties=True):
        found.append(_draw_penalty(context, penalties, action))
    return found


Rows = list[tuple[ComparisonGroup, str, list[Line]]]
"""Comparison, kind of strength and lines of each row of a figure."""


def _select_rows(context: Context, action: pd.DataFrame, *, penalties: bool) -> Rows:
    """Select the rows of the figure of penalties, or of the figure of other treatments."""
    return [
        (comparison, quantity, lines)
        for comparison in context.comparisons
        for quantity in comparison.quantities
        if (lines := _select_lines(comparison, quantity, action, penalties=penalties))
    ]


def _select_lines(
    comparison: ComparisonGroup, quantity: str, action: pd.DataFrame, *, penalties: bool
) -> list[Line]:
    """Select the lines along the strengths of one kind that are a penalty's, or those that are not."""
    found = []
    for line in comparison.lines(quantity):
        cells = comparison.cells[comparison.cells["treatment"] == line.treatment]
        of_cells = action.reindex(cells["cell"])
        has_penalty = is_penalty = bool((of_cells["penalty_share"] > 0).any())
        family = f"regularizer.{line.part}.family"
        if line.part and family in cells:
            is_penalty = bool(cells[family].eq("penalty").any())
        is_known = bool(of_cells["clipped"].notna().any())
        if is_known and is_penalty == penalties and has_penalty >= penalties:
            found.append(line)
    return found


def _draw_clipping(context: Context, rows: Rows, action: pd.DataFrame) -> Drawing:
    """Draw share changed, norm ratio and cosine, a row per comparison and kind of strength."""
    title = _title(rows, action)
    headings = [comparison.label_with_seeds for comparison, *_ in rows]
    figure, axes = panels(title, headings, 3, height=1.5, right=label_margin(context), gap=0.55)
    for (comparison, quantity, lines), spots in zip(rows, axes, strict=True):
        for ax, name in zip(spots, ("clipped", "ratio", "cosine"), strict=True):
            ends = _draw_panel(ax, context, comparison, quantity, lines, action[name])
            ax.set_ylabel(UNITS[name])
            means = _means(comparison, lines, action[name]).values()
            ax.set_ylim(min([-0.03, *means]), max([1.05, *(1.05 * mean for mean in means)]))
        label_ends(spots[-1], ends)
    alt = f"Share of coordinates changed, norm ratio and cosine against strength. {title}"
    return Drawing("action", title, CAPTION, alt, "action.csv", figure)


def _draw_penalty(context: Context, rows: Rows, action: pd.DataFrame) -> Drawing:
    """Draw the penalty's share of the objective, a panel per comparison and kind of strength."""
    highest = []
    for comparison, _, lines in rows:
        shares = _means(comparison, lines, action["penalty_share"])
        top = max(shares, key=lambda s: shares[s])
        where = format_setting(top.treatment, top.quantity, [top.at])
        highest.append(f"{format_number(100 * shares[top], 2)}% for {comparison.label} ({where})")
    title = f"At most, the penalty makes up {join_words(cap_list(highest))} of the objective"
    room = label_margin(context)
    columns = max(1, min(3, int((WIDTH - 0.72) / (1.2 + room))))
    grid = [rows[start : start + columns] for start in range(0, len(rows), columns)]
    headings = ["" for _ in grid]
    highest_share = max(float(action["penalty_share"].reindex(c.cells["cell"]).max()) for c, *_ in rows)
    figure, axes = panels(
        title, headings, columns, height=1.5, right=room, gap=room + 0.1, titles=[1] * len(grid)
    )
    for row, spots in zip(grid, axes, strict=True):
        for ax in spots[len(row) :]:
            ax.set_visible(False)
        for ax, (comparison, quantity, lines) in zip(spots, row, strict=False):
            ends = _draw_panel(ax, context, comparison, quantity, lines, action["penalty_share"])
            ax.set_ylim(-0.04 * highest_share, 1.3 * highest_share)
            ax.set_title(comparison.label_with_seeds, loc="left")
            label_ends(ax, ends)
        spots[0].set_ylabel(UNITS["penalty_share"])
    alt = f"Share of the penalty in the objective against its weight. {title}"
    return Drawing("penalty", title, PENALTY, alt, "action.csv", figure)


def _draw_panel(
    ax: Axes,
    context: Context,
    comparison: ComparisonGroup,
    quantity: str,
    lines: list[Line],
    values: pd.Series,
) -> list[tuple[float, str, str]]:
    """Draw means with intervals against strength, and return the labels (y, text, colour) of the lines."""
    axis = strength_positions(strength for line in lines for strength in line.settings)
    label_strength_axis(ax, quantity, axis)
    ends = []
    for line in lines:
        points = {
            at: mean_interval(values.reindex(comparison.cells_at(setting)["cell"]))
            for at, setting in line.settings.items()
        }
        drawn = [(axis[strength], interval) for strength, interval in points.items() if interval.n]
        if not drawn:
            continue
        mean = np.array([interval.estimate for _, interval in drawn])
        ends_of = np.array([[interval.low, interval.high] for _, interval in drawn])
        look = context.looks[line.treatment]
        ax.errorbar(
            [x for x, _ in drawn], mean, yerr=np.nan_to_num(np.abs(ends_of - mean[:, None]).T),
            color=look.color, linestyle=look.dash, marker=look.marker, elinewidth=1.0,
            markerfacecolor=look.color if line.is_first else "white",
        )  # fmt: skip
        ends.append(
            (float(mean[-1]), end_label(line.label, look, hollow=not line.is_first), darker(look.color))
        )
    return ends


def _means(comparison: ComparisonGroup, lines: list[Line], values: pd.Series) -> dict[Setting, float]:
    """Return the mean of each setting of some lines over its cells."""
    settings = dict.fromkeys(setting for line in lines for setting in line.settings.values())
    return {one: float(values.reindex(comparison.cells_at(one)["cell"]).mean()) for one in settings}


def _title(rows: Rows, action: pd.DataFrame) -> str:
    """Name, per comparison, the setting that removed most of the gradient."""
    parts = []
    for comparison, _, lines in rows:
        kept = _means(comparison, lines, action["ratio"])
        kept = {s: value for s, value in kept.items() if np.isfinite(value)}
        if kept:
            low = min(kept, key=lambda s: kept[s])
            where = format_setting(low.treatment, low.quantity, [low.at])
            parts.append(f"{format_number(100 * kept[low], 2)}% of the norm for {comparison.label} ({where})")
    return f"The strongest treatment keeps {join_words(cap_list(parts))}" if parts else "No norm was recorded"

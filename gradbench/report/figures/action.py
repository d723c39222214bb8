"""Draw how often and how strongly each treatment acted, against its strength."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from gradbench.report.analysis.comparison import ComparisonGroup, Setting
from gradbench.report.figures.panels import (
    Context,
    Drawing,
    darker,
    end_label,
    label_ends,
    label_height,
    label_margin,
    label_strength_axis,
    panels,
    strength_positions,
)
from gradbench.report.load.cells import NONE
from gradbench.report.render.formatting import cap_list, format_number, format_setting, join_words
from gradbench.stats.intervals import mean_interval

CAPTION = (
    "Means over all recorded steps of a run, then over seeds, with 95% Student t intervals; a diverged "
    "run counts with the steps it made. Where a gradient's direction may change, all three are of the first "
    "step, every fiftieth and the last. First, the share of coordinates that the treatment changed (norm "
    "clipping changes all or none). Second, the gradient's length as used over that given, a geometric mean. Third, "
    "the cosine between the two gradients: 1 keeps the direction. A treatment that did nothing would lie "
    "at 0, 1 and 1."
)
PENALTY = (
    "The penalty's share of the objective, penalty / (|loss| + penalty), averaged over the steps of a "
    "cell and then over seeds, with 95% Student t intervals. A share near 0 leaves the loss to itself; "
    "near 1 the loss hardly matters. If the penalty did nothing, the share would be 0."
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


Rows = list[tuple[ComparisonGroup, str, list[Setting]]]
"""Comparison, kind of strength and settings of each row of a figure."""


def _select_rows(context: Context, action: pd.DataFrame, *, penalties: bool) -> Rows:
    """Select the rows of the figure of penalties, or of the figure of other treatments."""
    return [
        (comparison, quantity, settings)
        for comparison in context.comparisons
        for quantity in comparison.quantities
        if (settings := _select_settings(comparison, quantity, action, penalties=penalties))
    ]


def _select_settings(
    comparison: ComparisonGroup, quantity: str, action: pd.DataFrame, *, penalties: bool
) -> list[Setting]:
    """Select the settings of one kind of strength that add a penalty, or those that do not."""
    own = [s for s in comparison.settings if s.quantity == quantity and s.treatment != NONE]
    names = dict.fromkeys(setting.treatment for setting in own)
    cells = {name: comparison.cells.loc[comparison.cells["treatment"] == name, "cell"] for name in names}
    penal = {name: bool((action["penalty_share"].reindex(ids) > 0).any()) for name, ids in cells.items()}
    known = {name: bool(action["clipped"].reindex(ids).notna().any()) for name, ids in cells.items()}
    return [s for s in own if known[s.treatment] and penal[s.treatment] == penalties]


def _draw_clipping(context: Context, rows: Rows, action: pd.DataFrame) -> Drawing:
    """Draw share changed, norm ratio and cosine, a row per comparison and kind of strength."""
    title = _title(rows, action)
    headings = [comparison.label_with_seeds for comparison, *_ in rows]
    figure, axes = panels(
        title, headings, 3, layout=context.layout, height=label_height(context, 1.5), right=label_margin(context),
        gap=0.55,
    )  # fmt: skip
    for (comparison, quantity, settings), line in zip(rows, axes, strict=True):
        for ax, name in zip(line, ("clipped", "ratio", "cosine"), strict=True):
            ends = _draw_panel(ax, context, comparison, quantity, settings, action[name])
            ax.set_ylabel(UNITS[name])
            means = [action[name].reindex(comparison.cells_at(s)["cell"]).mean() for s in settings]
            ax.set_ylim(min([-0.03, *means]), max([1.05, *(1.05 * mean for mean in means)]))
            if context.layout.stacked or ax is line[-1]:
                label_ends(ax, ends)
    alt = f"Share of coordinates changed, norm ratio and cosine against strength. {title}"
    return Drawing("action", title, CAPTION, alt, "action.csv", figure)


def _draw_penalty(context: Context, rows: Rows, action: pd.DataFrame) -> Drawing:
    """Draw the penalty's share of the objective, a panel per comparison and kind of strength."""
    highest = []
    for comparison, _, settings in rows:
        shares = {s: action["penalty_share"].reindex(comparison.cells_at(s)["cell"]).mean() for s in settings}
        top = max(shares, key=lambda s: shares[s])
        where = format_setting(top.treatment, top.quantity, [top.at])
        highest.append(f"{format_number(100 * shares[top], 2)}% for {comparison.label} ({where})")
    title = f"At most, the penalty makes up {join_words(cap_list(highest))} of the objective"
    room = label_margin(context)
    columns = max(1, min(3, int((context.layout.width - 0.72) / (1.2 + room))))
    lines = [rows[start : start + columns] for start in range(0, len(rows), columns)]
    headings = ["" for _ in lines]
    highest_share = max(float(action["penalty_share"].reindex(c.cells["cell"]).max()) for c, *_ in rows)
    figure, axes = panels(
        title, headings, list(map(len, lines)), layout=context.layout, height=label_height(context, 1.5),
        right=room, gap=room + 0.1, titles=[1] * len(lines),
    )  # fmt: skip
    for line, spots in zip(lines, axes, strict=True):
        for ax, (comparison, quantity, settings) in zip(spots, line, strict=True):
            ends = _draw_panel(ax, context, comparison, quantity, settings, action["penalty_share"])
            ax.set_ylim(-0.04 * highest_share, 1.3 * highest_share)
            ax.set_title(comparison.label_with_seeds, loc="left")
            label_ends(ax, ends)
            ax.set_ylabel(UNITS["penalty_share"])
    alt = f"Share of the penalty in the objective against its weight. {title}"
    return Drawing("penalty", title, PENALTY, alt, "action.csv", figure)


def _draw_panel(
    ax: Axes,
    context: Context,
    comparison: ComparisonGroup,
    quantity: str,
    settings: list[Setting],
    values: pd.Series,
) -> list[tuple[float, str, str]]:
    """Draw means with intervals against strength, and return the labels (y, text, colour) of the lines."""
    axis = strength_positions(setting.strength for setting in settings)
    label_strength_axis(ax, quantity, axis)
    ends = []
    for treatment in dict.fromkeys(setting.treatment for setting in settings):
        own = [s for s in settings if s.treatment == treatment]
        points = [(s.strength, mean_interval(values.reindex(comparison.cells_at(s)["cell"]))) for s in own]
        drawn = [(axis[strength], i) for strength, i in points if strength is not None and i.n]
        if not drawn:
            continue
        mean = np.array([interval.estimate for _, interval in drawn])
        ends_of = np.array([[interval.low, interval.high] for _, interval in drawn])
        look = context.looks[treatment]
        ax.errorbar(
            [x for x, _ in drawn], mean, yerr=np.nan_to_num(np.abs(ends_of - mean[:, None]).T),
            color=look.color, linestyle=look.dash, marker=look.marker, elinewidth=1.0,
        )  # fmt: skip
        ends.append((float(mean[-1]), end_label(treatment, look, context.layout), darker(look.color)))
    return ends


def _title(rows: Rows, action: pd.DataFrame) -> str:
    """Name, per comparison, the setting that removed most of the gradient."""
    parts = []
    for comparison, _, settings in rows:
        kept = {s: action["ratio"].reindex(comparison.cells_at(s)["cell"]).mean() for s in settings}
        kept = {s: value for s, value in kept.items() if np.isfinite(value)}
        if kept:
            low = min(kept, key=lambda s: kept[s])
            where = format_setting(low.treatment, low.quantity, [low.at])
            parts.append(f"{format_number(100 * kept[low], 2)}% of the norm for {comparison.label} ({where})")
    return f"The strongest treatment keeps {join_words(cap_list(parts))}" if parts else "No norm was recorded"

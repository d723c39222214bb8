"""Draw the share of diverged cells against strength."""

from collections.abc import Sequence, Set
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes

from gradbench.report.analysis.comparison import ComparisonGroup, Setting
from gradbench.report.analysis.tables import diverged_share
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
    share_y_axis,
    strength_positions,
)
from gradbench.report.render.formatting import cap_list, format_setting, join_or_count, join_words
from gradbench.stats.intervals import Interval

CAPTION = (
    "Each point is the share of a setting's cells that diverged, with Wilson's 95% interval; the dashed "
    "line and its band are none. With few seeds the intervals are wide whatever is seen: 0 of 3 is "
    "compatible with anything up to 56%. If the treatments did nothing, every point would lie near the "
    "dashed line. Models without a diverged cell are left out here and named in the title."
)
DODGE = 0.03  # share of the axis between treatments at one strength


def draw(context: Context) -> list[Drawing]:
    """Draw a row per comparison in which a cell diverged; nothing if none did."""
    hit = [c for c in context.comparisons if c.cells["status"].eq("diverged").any()]
    if not hit:
        return []
    columns = [len(comparison.quantities) or 1 for comparison in hit]
    title = _title(context)
    figure, axes = panels(
        title, [_heading(comparison) for comparison in hit], columns, layout=context.layout,
        height=label_height(context, 1.5), right=label_margin(context), gap=label_margin(context),
    )  # fmt: skip
    for comparison, row in zip(hit, axes, strict=True):
        for ax, quantity in zip(row, comparison.quantities or [""], strict=True):
            _draw_panel(ax, context, comparison, quantity)
        share_y_axis(row, "share diverged", context.layout)
    alt = f"Share of diverged cells against strength. {title}"
    return [Drawing("divergence", title, CAPTION, alt, "divergence.csv", figure)]


def _draw_panel(ax: Axes, context: Context, comparison: ComparisonGroup, quantity: str) -> None:
    """Draw the diverged share of each treatment against one kind of strength."""
    settings = [s for s in comparison.settings if s.quantity in (quantity, "")]
    axis = strength_positions(setting.strength for setting in settings)
    label_strength_axis(ax, quantity, axis)
    ax.set_ylim(-0.04, 1.04)
    ends = []
    treatments = list(dict.fromkeys(setting.treatment for setting in settings))
    dodge = DODGE * float(np.diff(ax.get_xlim())[0])
    for index, treatment in enumerate(treatments):
        look = context.looks[treatment]
        shares = {s: diverged_share(comparison, s) for s in settings if s.treatment == treatment}
        known = {s: share for s, share in shares.items() if share.n}
        flat = [share for s, share in known.items() if s.strength is None]
        for share in flat:
            ax.axhline(share.estimate, color=look.color, linestyle=look.dash, zorder=2)
            ax.axhspan(share.low, share.high, color=look.color, alpha=0.14, lw=0, zorder=1)
        varied = [(axis[s.strength], share) for s, share in known.items() if s.strength is not None]
        if varied:
            shift = (index - (len(treatments) - 1) / 2) * dodge
            x = [place + shift for place, _ in varied]
            _draw_points(ax, x, [share for _, share in varied], treatment, context)
        if known:
            last = list(known.values())[-1].estimate
            ends.append((last, end_label(treatment, look, context.layout), darker(look.color)))
    label_ends(ax, ends)


def _draw_points(ax: Axes, x: list[float], shares: list[Interval], treatment: str, context: Context) -> None:
    look = context.looks[treatment]
    y = np.array([share.estimate for share in shares])
    ends = np.array([[share.low, share.high] for share in shares])
    ax.errorbar(
        x, y, yerr=np.abs(ends - y[:, None]).T, color=look.color, linestyle=look.dash, marker=look.marker,
        elinewidth=1.0,
    )  # fmt: skip


def _heading(comparison: ComparisonGroup) -> str:
    parts = []
    for treatment in comparison.treatments:
        cells = comparison.cells[comparison.cells["treatment"] == treatment]
        ran = int((cells["status"] != "failed").sum())
        parts.append(f"{treatment} {int((cells['status'] == 'diverged').sum())} of {ran}")
    return f"{comparison.label}, diverged cells: {', '.join(parts)}"


def _title(context: Context) -> str:
    """Name the settings that always diverge, and the comparisons in which none does."""
    always, never, some = [], [], []
    for comparison in context.comparisons:
        shares = {s: diverged_share(comparison, s) for s in comparison.settings}
        lost = {s: share for s, share in shares.items() if share.n and share.estimate > 0}
        full = [s for s, share in lost.items() if share.estimate == 1]
        if not lost:
            never.append(comparison.label)
        elif full:
            always.append(
                f"{comparison.label} always diverges with {_name_settings(set(full), comparison.settings)}"
            )
        else:
            some.append(
                f"{comparison.label} sometimes with {_name_settings(lost.keys(), comparison.settings)}"
            )
    parts = [*always, *some]
    if not always and some:
        parts[0] = parts[0].replace(" sometimes", " sometimes diverges", 1)
    return "; ".join([*cap_list(parts), *([f"{join_or_count(never, 'comparison')} never"] if never else [])])


def _name_settings(some: Set[Setting], every: Sequence[Setting]) -> str:
    """Name some of the settings, adjacent strengths as a range."""
    treatments = list(dict.fromkeys(setting.treatment for setting in every))
    ordered = sorted(every, key=lambda s: (treatments.index(s.treatment), (s.strength or 0.0, s.strengths)))
    runs = [
        (treatment, list(run))
        for (treatment, is_named), run in groupby(ordered, key=lambda s: (s.treatment, s in some))
        if is_named
    ]
    return join_words(
        [format_setting(treatment, run[0].quantity, [s.at for s in run]) for treatment, run in runs]
    )

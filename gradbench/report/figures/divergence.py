"""Draw the share of diverged cells against strength."""

from collections.abc import Sequence, Set
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes

from gradbench.report.analysis.comparison import ComparisonGroup, Setting
from gradbench.report.analysis.tables import diverged_share
from gradbench.report.figures.panels import (
    ALONG,
    Context,
    Drawing,
    darker,
    dodge_between,
    end_label,
    label_ends,
    label_margin,
    label_strength_axis,
    panels,
    strength_positions,
)
from gradbench.report.figures.style import Look
from gradbench.report.render.formatting import cap_list, format_setting, join_or_count, join_words
from gradbench.stats.intervals import Interval

CAPTION = (
    "Each point is the share of a setting's cells that diverged, with Wilson's 95% interval; the dashed "
    "line and its band are none. With few seeds the intervals are wide whatever is seen: 0 of 3 is "
    "compatible with anything up to 56%. If the treatments did nothing, every point would lie near the "
    f"dashed line. Models without a diverged cell are left out here and named in the title. {ALONG}"
)


def draw(context: Context) -> list[Drawing]:
    """Draw a row per comparison in which a cell diverged; nothing if none did."""
    hit = [c for c in context.comparisons if c.cells["status"].eq("diverged").any()]
    if not hit:
        return []
    columns = max(len(comparison.quantities) for comparison in hit) or 1
    title = _title(context)
    figure, axes = panels(
        title, [_heading(comparison) for comparison in hit], columns, height=1.5, right=label_margin(context),
        gap=label_margin(context),
    )  # fmt: skip
    for comparison, row in zip(hit, axes, strict=True):
        quantities = comparison.quantities or [""]
        for ax in row[len(quantities) :]:
            ax.set_visible(False)
        for ax, quantity in zip(row, quantities, strict=False):
            _draw_panel(ax, context, comparison, quantity)
            ax.tick_params(labelleft=ax is row[0])
        row[0].set_ylabel("share diverged")
    alt = f"Share of diverged cells against strength. {title}"
    return [Drawing("divergence", title, CAPTION, alt, "divergence.csv", figure)]


def _draw_panel(ax: Axes, context: Context, comparison: ComparisonGroup, quantity: str) -> None:
    """Draw the diverged share of each treatment against one kind of strength."""
    lines = comparison.lines(quantity)
    axis = strength_positions(strength for line in lines for strength in line.settings)
    label_strength_axis(ax, quantity, axis)
    ax.set_ylim(-0.04, 1.04)
    ends = []
    for setting in comparison.settings:
        share = diverged_share(comparison, setting)
        if setting.numbers or not share.n:
            continue
        look = context.looks[setting.treatment]
        ax.axhline(share.estimate, color=look.color, linestyle=look.dash, zorder=2)
        ax.axhspan(share.low, share.high, color=look.color, alpha=0.14, lw=0, zorder=1)
        ends.append((share.estimate, end_label(setting.treatment, look), darker(look.color)))
    dodge = dodge_between(ax, len(lines))
    for index, line in enumerate(lines):
        look = context.looks[line.treatment]
        shares = {axis[at]: diverged_share(comparison, setting) for at, setting in line.settings.items()}
        known = {place: share for place, share in shares.items() if share.n}
        if known:
            shift = (index - (len(lines) - 1) / 2) * dodge
            face = look.color if line.is_first else "white"
            _draw_points(ax, [place + shift for place in known], list(known.values()), look, face)
            last = list(known.values())[-1].estimate
            ends.append((last, end_label(line.label, look, hollow=not line.is_first), darker(look.color)))
    label_ends(ax, ends)


def _draw_points(ax: Axes, x: list[float], shares: list[Interval], look: Look, face: str) -> None:
    y = np.array([share.estimate for share in shares])
    ends = np.array([[share.low, share.high] for share in shares])
    ax.errorbar(
        x, y, yerr=np.abs(ends - y[:, None]).T, color=look.color, linestyle=look.dash, marker=look.marker,
        markerfacecolor=face, elinewidth=1.0,
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
    return "; ".join([*cap_list(parts), *([f"{join_or_count(never, 'group')} never"] if never else [])])


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

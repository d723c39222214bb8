"""Draw the metric of each setting in one folder against the other folder."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from gradbench.report.diff.pairing import FolderDiff, Pairing, count_verdicts
from gradbench.report.figures.panels import (
    WIDE,
    Drawing,
    Layout,
    axis_limits,
    darker,
    end_label,
    has_wide_range,
    label_ends,
    panels,
    set_log_axis,
    title_lines,
)
from gradbench.report.figures.style import Look
from gradbench.report.render.formatting import format_strength, join_words, shorten

CAPTION = (
    "Each point is a setting: across, its mean in the first folder, up, in the second, with 95% Student t intervals "
    "over the seeds that completed, cut at the edge of the panel; labels stand at the heights of their points. Points "
    "on the line are alike in both folders. Settings of which a folder has no completed cell are in the table alone."
)
PER_ROW, PANELS = 2, 8
LABELS = 14  # labels beside a panel; if there are more settings, only treatments are named
HEIGHT, GAP = 2.3, 1.9  # inches


def draw(diff: FolderDiff, name: str, looks: Mapping[str, Look], layout: Layout = WIDE) -> list[Drawing]:
    """Draw a panel per model, at most ``PANELS``."""
    models = dict.fromkeys(pairing.model for pairing in diff.pairings)
    groups = [[p for p in diff.pairings if p.model == model and p.first.n and p.second.n] for model in models]
    kept = [group for group in groups if group][:PANELS]
    if not kept:
        return []
    title = _title(diff)
    rows = [kept[start : start + PER_ROW] for start in range(0, len(kept), PER_ROW)]
    headings = [""] * len(rows)
    figure, axes = panels(
        title, headings, list(map(len, rows)), layout=layout, height=HEIGHT, right=GAP - 0.6, gap=GAP,
        titles=[3] * len(rows),
    )  # fmt: skip
    for spots, line in zip(axes, rows, strict=True):
        for ax, group in zip(spots, line, strict=True):
            _draw_panel(ax, diff, group, looks, layout)
    alt = f"Means of each setting in {diff.names[1]} against {diff.names[0]}. {title}"
    return [Drawing(name, title, CAPTION, alt, f"{name}.csv", figure)]


def _draw_panel(
    ax: Axes, diff: FolderDiff, group: Sequence[Pairing], looks: Mapping[str, Look], layout: Layout
) -> None:
    """Draw the settings of one model, the first folder on the x axis and the second on the y axis."""
    means = [value for pairing in group for value in (pairing.first.estimate, pairing.second.estimate)]
    log = has_wide_range(means)
    low, high = axis_limits(means, log=log)
    if not log:
        room = 0.2 * (high - low)
        every = [end for p in group for i in (p.first, p.second) for end in i[1:3] if np.isfinite(end)]
        low, high = max(low - room, min([low, *every])), min(high + room, max([high, *every]))
    ax.set_ylim(low, high)
    if log:
        set_log_axis(ax, low, high)
        ax.set_xscale("log")
        ax.set_xticks(ax.get_yticks(), [label.get_text() for label in ax.get_yticklabels()])
        ax.minorticks_off()
    ax.set_xlim(low, high)
    ax.plot([low, high], [low, high], color="#808080", lw=0.8, zorder=1)
    for pairing in group:
        look = looks[pairing.setting.treatment]
        x, y = pairing.first, pairing.second
        errors = [np.nan_to_num([[i.estimate - i.low], [i.high - i.estimate]]) for i in (x, y)]
        ax.errorbar(
            x.estimate, y.estimate, xerr=errors[0], yerr=errors[1], color=look.color, marker=look.marker, ms=4.5,
            elinewidth=0.5, alpha=0.85,
        )  # fmt: skip
    label_ends(ax, _labels(group, looks, layout))
    unit = group[0].unit.split(",")[0]
    ax.set_title(title_lines(ax, group[0].model, unit), loc="left", size=8)
    ax.set_xlabel(f"in {shorten(diff.names[0], 24)}")
    ax.set_ylabel(f"in {shorten(diff.names[1], 24)}")


def _labels(
    group: Sequence[Pairing], looks: Mapping[str, Look], layout: Layout
) -> list[tuple[float, str, str]]:
    """Build the labels (y, text, colour) of the settings, or of the treatments if there are many settings."""
    heights: dict[tuple[str, str], list[float]] = {}
    for pairing in group:
        treatment, quantity = pairing.setting.treatment, pairing.setting.quantity
        at = format_strength(quantity, [pairing.setting.at]) if len(group) <= LABELS else ""
        heights.setdefault((treatment, at), []).append(pairing.second.estimate)
    return [
        (
            float(np.mean(diff)),
            end_label(f"{treatment} {at}".rstrip(), looks[treatment], layout),
            darker(looks[treatment].color),
        )
        for (treatment, at), diff in heights.items()
    ]


def _title(diff: FolderDiff) -> str:
    counted = [f"{number} {verdict}" for verdict, number in count_verdicts(diff.pairings).items() if number]
    return (
        f"Of {len(diff.pairings)} settings in {diff.names[1]}, beside {diff.names[0]}: {join_words(counted)}"
    )

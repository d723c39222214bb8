"""Draw the final metric against the strength."""

import numpy as np
from matplotlib.axes import Axes

from gradbench.report.analysis.answer import name_setting
from gradbench.report.analysis.comparison import ComparisonGroup, Setting
from gradbench.report.figures.panels import (
    Axis,
    Context,
    Drawing,
    axis_limits,
    darker,
    end_label,
    has_wide_range,
    label_ends,
    label_height,
    label_margin,
    label_strength_axis,
    panels,
    set_log_axis,
    share_y_axis,
    strength_positions,
)
from gradbench.report.figures.strip import draw_diverged_strip
from gradbench.report.figures.style import Look
from gradbench.report.load.cells import NONE
from gradbench.report.render.formatting import format_interval, join_or_count
from gradbench.stats.decisions import BETTER, EQUAL, NO_BETTER, UNDECIDED, WORSE
from gradbench.stats.intervals import Interval

DODGE = 0.035  # share of the axis between treatments at one strength

CAPTION = (
    "Each point is the mean over the seeds that completed, taken on the metric's scale, with its 95% interval; "
    "small dots are the seeds. The dashed line and its band are none. Hollow markers in the grey strip, at the "
    "worse edge, count the cells that diverged, of those that ran: they have no metric and are in no mean. A "
    "threshold and a penalty weight are different quantities and have separate axes. An interval that leaves the "
    "panel is cut at its edge. Headings name the best setting seen, which is partly luck; the answers allow for "
    "that. If the treatments did nothing, every line would lie flat on the dashed one."
)


def draw(context: Context) -> list[Drawing]:
    """Draw a row per comparison and a column per kind of strength, with a common axis of the metric per row."""
    columns = [len(comparison.quantities) or 1 for comparison in context.comparisons]
    headings = [_heading(comparison) for comparison in context.comparisons]
    room = label_margin(context)
    figure, axes = panels(
        _title(context), headings, columns, layout=context.layout, height=label_height(context, 2.1), right=room,
        gap=room,
    )  # fmt: skip
    for comparison, row in zip(context.comparisons, axes, strict=True):
        for ax, quantity in zip(row, comparison.quantities or [""], strict=True):
            _draw_panel(ax, context, comparison, quantity)
        share_y_axis(row, comparison.unit, context.layout)
    alt = "Final metric against strength, one panel per model and kind of strength. " + " ".join(headings)
    return [Drawing("strengths", _title(context), CAPTION, alt, "strengths.csv", figure)]


def _title(context: Context) -> str:
    """Summarize the answers of all comparisons."""
    if not any(NONE in comparison.treatments for comparison in context.comparisons):
        return "The outcome at each strength; no comparison has none to compare with"
    said = {
        "a treatment beats none for {}": (BETTER,),
        "no treatment is worth it for {}": (EQUAL, NO_BETTER),
        "every treatment is worse than none for {}": (WORSE,),
        "undecided for {}": (UNDECIDED,),
    }
    parts = []
    for words, verdicts in said.items():
        labels = [answer.group for answer in context.answers if answer.verdict in verdicts]
        if labels:
            parts.append(words.format(join_or_count(labels, "comparison")))
    title = "; ".join(parts)
    return title[0].upper() + title[1:]


def _heading(comparison: ComparisonGroup) -> str:
    """Write the heading of a row: the best setting, and the diverged cells."""
    parts = []
    if comparison.ranking.contenders:
        best = comparison.settings[comparison.ranking.contenders[0].setting]
        if (value := comparison.mean(best)).n:
            parts.append(
                f"{comparison.metric_name} is best with {name_setting(best)}: {format_interval(value)}"
            )
    for treatment in comparison.treatments:
        cells = comparison.cells[comparison.cells["treatment"] == treatment]
        if lost := int((cells["status"] == "diverged").sum()):
            parts.append(f"{treatment} diverges in {lost} of {len(cells)}")
    return f"{comparison.label_with_seeds}: {'; '.join(parts) or 'no cell completed'}"


def _draw_panel(ax: Axes, context: Context, comparison: ComparisonGroup, quantity: str) -> None:
    """Draw the metric of each treatment against one kind of strength."""
    settings = [s for s in comparison.settings if s.quantity in (quantity, "")]
    axis = strength_positions(setting.strength for setting in settings)
    label_strength_axis(ax, quantity, axis)
    intervals = {setting: comparison.mean(setting) for setting in comparison.settings}
    _scale_value_axis(ax, comparison, list(intervals.values()))
    present = [t for t in comparison.treatments if any(s.treatment == t for s in settings)]
    labels = []
    varied = [
        name for name in present if any(s.treatment == name and s.strength is not None for s in settings)
    ]
    dodge = DODGE * float(np.diff(ax.get_xlim())[0])
    for treatment in present:
        own = {s: intervals[s] for s in settings if s.treatment == treatment}
        look = context.looks[treatment]
        if treatment in varied:
            shift = (varied.index(treatment) - (len(varied) - 1) / 2) * dodge
            height = _draw_line(ax, comparison, own, axis, look, shift)
        else:
            height = _draw_level(ax, comparison, own, look)
        if np.isfinite(height):
            labels.append((height, end_label(treatment, look, context.layout), darker(look.color)))
    draw_diverged_strip(ax, context, comparison, quantity, axis)
    label_ends(ax, labels)


def _scale_value_axis(ax: Axes, comparison: ComparisonGroup, intervals: list[Interval]) -> None:
    """Scale the y axis to the seeds, extended towards the ends of intervals by at most 30 %."""
    values = comparison.cells["value"].dropna().tolist()
    log = comparison.goal == "min" and has_wide_range(values)
    low, high = axis_limits(values, log=log)
    if log:
        set_log_axis(ax, low, high)
    else:
        room = 0.3 * (high - low)
        ends = [end for interval in intervals for end in (interval.low, interval.high) if np.isfinite(end)]
        low = max(low - room, min([low, *ends]))
        high = min(high + room, max([high, *ends]))
        ax.set_ylim(low, high)


def _draw_level(ax: Axes, comparison: ComparisonGroup, own: dict[Setting, Interval], look: Look) -> float:
    """Draw a treatment without a strength as a line and a band across the panel, with seeds at the left."""
    (setting, interval), *_ = own.items()
    values = comparison.cells_at(setting)["value"].dropna()
    x = np.linspace(0.012, 0.045, max(len(values), 2))[: len(values)]
    ax.plot(x, values, ".", color=look.color, ms=3.5, alpha=0.75, transform=ax.get_yaxis_transform())
    if interval.n:
        ax.axhline(interval.estimate, color=look.color, linestyle=look.dash, lw=1.3, zorder=1.5)
    if np.isfinite(interval.low):
        ax.axhspan(interval.low, interval.high, color=look.color, alpha=0.16, lw=0, zorder=1)
    return interval.estimate


def _draw_line(
    ax: Axes, comparison: ComparisonGroup, own: dict[Setting, Interval], axis: Axis, look: Look, shift: float
) -> float:
    """Draw means with intervals and seeds along the strengths, and return the last mean."""
    drawn = {s: interval for s, interval in own.items() if interval.n}
    if not drawn:
        return np.nan
    x = np.array([axis[s.strength] + shift for s in drawn if s.strength is not None])
    mean = np.array([interval.estimate for interval in drawn.values()])
    ends = np.array([[interval.low, interval.high] for interval in drawn.values()])
    seeds = [comparison.cells_at(setting)["value"].to_numpy() for setting in drawn]
    places = np.repeat(x, [len(values) for values in seeds])
    ax.plot(places, np.concatenate(seeds), ".", color=look.color, ms=3.5, alpha=0.45, zorder=2)
    errors = np.nan_to_num(np.abs(ends - mean[:, None]).T)
    ax.errorbar(
        x,
        mean,
        yerr=errors,
        color=look.color,
        linestyle=look.dash,
        marker=look.marker,
        elinewidth=1.0,
        zorder=3,
    )
    return float(mean[-1])

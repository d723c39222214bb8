"""The final metric against the strength: the figure that people paste into slides."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from gradbench.report import text
from gradbench.report.compare import BETTER, WORSE, Comparison, Setting
from gradbench.report.figures.panels import (
    Axis,
    Context,
    Drawing,
    axis_of,
    darker,
    label_ends,
    limits,
    margin,
    named,
    panels,
    spread_over,
    strength_axis,
)
from gradbench.report.style import FAINT, STRIP, Look
from gradbench.stats import Interval, mean_interval

ROW = 11.0  # points, one line of the strip for diverged cells
DODGE = 0.035  # of the axis, between treatments at one strength

CAPTION = (
    "Each point is the mean over the seeds that completed, with its 95% Student t interval; small dots "
    "are the seeds. The dashed line and its band are none. Hollow markers in the grey strip, at the worse "
    "edge, count the cells that diverged, of those that ran: they have no metric and are in no mean. A "
    "threshold and a penalty weight are different quantities and have separate axes. An interval that "
    "leaves the panel is cut at its edge. Headings name the best setting seen, which is partly luck; the "
    "answer box judges on seeds that had no say. If the treatments did nothing, every line would lie flat "
    "on the dashed one."
)


def draw(context: Context) -> list[Drawing]:
    """Draw a row per comparison and a column per kind of strength, the metric shared along the row."""
    columns = max(len(comparison.quantities) for comparison in context.comparisons) or 1
    headings = [_heading(comparison) for comparison in context.comparisons]
    figure, axes = panels(
        _title(context), headings, columns, height=2.1, right=margin(context), gap=margin(context)
    )
    for comparison, row in zip(context.comparisons, axes, strict=True):
        quantities = comparison.quantities or [""]
        for ax in row[len(quantities) :]:
            ax.set_visible(False)
        for ax, quantity in zip(row, quantities, strict=False):
            _panel(ax, context, comparison, quantity)
        row[0].set_ylabel(comparison.unit)
        for ax in row[1:]:
            ax.tick_params(labelleft=False)
    alt = "Final metric against strength, one panel per model and kind of strength. " + " ".join(headings)
    return [Drawing("strengths", _title(context), CAPTION, alt, "strengths.csv", figure)]


def _title(context: Context) -> str:
    verdicts = [(answer.model, answer.verdict) for answer in context.answers]
    better = [label for label, verdict in verdicts if verdict == BETTER]
    worse = [label for label, verdict in verdicts if verdict == WORSE]
    open_ = [label for label, verdict in verdicts if verdict not in (BETTER, WORSE)]
    parts = []
    if better:
        parts.append(f"a treatment beats none for {text.listed(better)}")
    if worse:
        parts.append(f"none is best for {text.listed(worse)}")
    if open_:
        parts.append(f"{text.listed(open_)} {'are' if len(open_) > 1 else 'is'} undecided")
    title = "; ".join(parts)
    return title[0].upper() + title[1:]


def _heading(comparison: Comparison) -> str:
    """Say what the row shows: the best setting, and what diverged."""
    parts = []
    finished = [s for s in comparison.settings if comparison.at(s)["value"].notna().any()]
    if finished:
        best = min(
            finished, key=lambda s: (comparison.at(s)["status"].eq("diverged").mean(), _score(comparison, s))
        )
        value = text.interval(mean_interval(comparison.at(best)["value"]))
        where = text.setting(best.treatment, best.quantity, [best.strength])
        parts.append(f"{comparison.name} is best with {where}: {value}")
    for treatment in comparison.treatments:
        cells = comparison.cells[comparison.cells["treatment"] == treatment]
        if lost := int((cells["status"] == "diverged").sum()):
            parts.append(f"{treatment} diverges in {lost} of {len(cells)}")
    seeds = comparison.cells["seed"].nunique()
    return f"{comparison.label} (n = {text.count(seeds, 'seed')}): {'; '.join(parts) or 'no cell completed'}"


def _score(comparison: Comparison, setting: Setting) -> float:
    scores = comparison.at(setting)["score"]
    return float(scores[np.isfinite(scores)].mean())


def _panel(ax: Axes, context: Context, comparison: Comparison, quantity: str) -> None:
    settings = [s for s in comparison.settings if s.quantity in (quantity, "")]
    axis = axis_of(setting.strength for setting in settings)
    strength_axis(ax, quantity, axis)
    intervals = {setting: mean_interval(comparison.at(setting)["value"]) for setting in comparison.settings}
    _value_axis(ax, comparison, list(intervals.values()))
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
            height = _line(ax, comparison, own, axis, look, shift)
        else:
            height = _level(ax, comparison, own, look)
        if np.isfinite(height):
            labels.append((height, named(treatment, look), darker(look.color)))
    _strip(ax, context, comparison, quantity, axis)
    label_ends(ax, labels)


def _value_axis(ax: Axes, comparison: Comparison, intervals: list[Interval]) -> None:
    """Scale to the seeds, and to the intervals as far as they leave the seeds readable."""
    values = comparison.cells["value"].dropna().tolist()
    log = comparison.goal == "min" and spread_over(values)
    if log:
        ax.set_yscale("log")
    low, high = limits(values, log=log)
    if not log:
        room = 0.5 * (high - low)
        ends = [end for interval in intervals for end in (interval.low, interval.high) if np.isfinite(end)]
        low = max(low - room, min([low, *ends]))
        high = min(high + room, max([high, *ends]))
    ax.set_ylim(low, high)


def _level(ax: Axes, comparison: Comparison, own: dict[Setting, Interval], look: Look) -> float:
    """Draw a treatment without a strength: a line and a band across the panel, seeds at the left."""
    (setting, interval), *_ = own.items()
    values = comparison.at(setting)["value"].dropna()
    x = np.linspace(0.012, 0.045, max(len(values), 2))[: len(values)]
    ax.plot(x, values, ".", color=look.color, ms=3.5, alpha=0.75, transform=ax.get_yaxis_transform())
    if interval.n:
        ax.axhline(interval.estimate, color=look.color, linestyle=look.dash, lw=1.3, zorder=1.5)
    if np.isfinite(interval.low):
        ax.axhspan(interval.low, interval.high, color=look.color, alpha=0.16, lw=0, zorder=1)
    return interval.estimate


def _line(
    ax: Axes, comparison: Comparison, own: dict[Setting, Interval], axis: Axis, look: Look, shift: float
) -> float:
    """Draw means with intervals along the strengths, and the seeds behind them; return the last height."""
    drawn = {s: interval for s, interval in own.items() if interval.n}
    if not drawn:
        return np.nan
    x = np.array([axis[s.strength] + shift for s in drawn if s.strength is not None])
    mean = np.array([interval.estimate for interval in drawn.values()])
    ends = np.array([[interval.low, interval.high] for interval in drawn.values()])
    for place, setting in zip(x, drawn, strict=True):
        values = comparison.at(setting)["value"]
        ax.plot(np.full(len(values), place), values, ".", color=look.color, ms=3.5, alpha=0.45, zorder=2)
    # Error bars below zero vanish on a log axis; clipping keeps their upper half.
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


def _strip(ax: Axes, context: Context, comparison: Comparison, quantity: str, axis: Axis) -> None:
    """Count diverged cells on a strip beyond the worse edge, one line per treatment, at no height at all."""
    lost = [_lost(comparison, which) for which in comparison.quantities or [""]]
    if not (lines := max(map(len, lost))):
        return
    points = ax.get_window_extent().height / ax.figure.dpi * 72
    share = (ROW * lines + 4) / points  # alike along the row, whose panels share their heights
    top = comparison.goal != "max"
    _extend(ax, share, top)
    corner = (0.0, 1 - share if top else 0.0)
    ax.add_patch(Rectangle(corner, 1, share, transform=ax.transAxes, color=STRIP, lw=0, zorder=4))
    ax.text(
        1.0,
        1.01 if top else share + 0.01,
        "diverged",
        transform=ax.transAxes,
        size=8,
        color=FAINT,
        ha="right",
        va="bottom",
    )
    for line, (treatment, points_lost) in enumerate(_lost(comparison, quantity).items()):
        look = context.looks[treatment]
        depth = (2 + ROW * (line + 0.5)) / points
        y = 1 - depth if top else depth
        for setting, words in points_lost:
            x = (
                0.02
                if setting.strength is None
                else ax.transAxes.inverted().transform(
                    ax.transData.transform((axis[setting.strength], ax.get_ylim()[0]))
                )[0]
            )
            ax.plot(
                x,
                y,
                look.marker,
                mfc="white",
                mec=look.color,
                mew=1.2,
                ms=5,
                transform=ax.transAxes,
                zorder=5,
            )
            label = f"{words} {treatment}" if setting.strength is None else words
            ax.annotate(
                label, (x, y), (5, 0), xycoords="axes fraction", textcoords="offset points",
                va="center", size=8, color=darker(look.color), zorder=6, annotation_clip=False,
            )  # fmt: skip


def _lost(comparison: Comparison, quantity: str) -> dict[str, list[tuple[Setting, str]]]:
    """Return, per treatment of a panel, the settings with diverged cells and their count: ``2/3``."""
    counts: dict[str, list[tuple[Setting, str]]] = {}
    for setting in comparison.settings:
        statuses = comparison.at(setting)["status"]
        lost = int((statuses == "diverged").sum())
        if lost and setting.quantity in (quantity, ""):
            ran = int((statuses != "failed").sum())
            counts.setdefault(setting.treatment, []).append((setting, f"{lost}/{ran}"))
    return counts


def _extend(ax: Axes, share: float, top: bool) -> None:
    """Make room for the strip by moving the worse limit, and keep the ticks out of it."""
    low, high = ax.get_ylim()
    ticks = [tick for tick in ax.get_yticks() if low <= tick <= high]
    log = ax.get_yscale() == "log"
    a, b = (np.log10(low), np.log10(high)) if log else (low, high)
    more = (b - a) * share / (1 - share)
    a, b = (a, b + more) if top else (a - more, b)
    ax.set_yticks(ticks)
    ax.set_ylim(*((10**a, 10**b) if log else (a, b)))

"""Build what figures share: grids of panels measured in inches, strength axes, and labels at line ends."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from gradbench.report.analysis.answer import Answer
from gradbench.report.analysis.comparison import ComparisonGroup
from gradbench.report.figures.style import GLYPHS, HOLLOW, Look
from gradbench.report.load.cells import LoadedResults
from gradbench.report.load.curves import Curves
from gradbench.report.render.formatting import format_number, format_setting, format_strength, shorten

WIDTH = 7.6  # inches
LINE = 0.16  # inches per line of text
DODGE, SPREAD = 0.035, 0.12  # shares of the axis between lines at one strength, and that all of them take
LETTER = 0.066  # inches per letter of a column's title
LABEL_GAP = 9.5  # points between labels at line ends
TICK_GAP = 0.02  # inches between the marks of a strength axis
MAX_TITLE = 1000  # characters of a figure's title, and of the heading of a row
MAX_NAME = 18  # characters of a treatment's name in a label
Axis = dict[float, float]  # strength -> position on the axis
ALONG = "The line of a composition is along one part's strength, with the others at those of its best setting seen."


@dataclass(frozen=True)
class Context:
    """The data that every figure is drawn from."""

    results: LoadedResults
    curves: Curves
    comparisons: list[ComparisonGroup]
    answers: list[Answer]  # one per comparison
    looks: dict[str, Look]


@dataclass(frozen=True)
class Drawing:
    """A figure with its texts; ``table`` names the CSV with its numbers."""

    name: str
    title: str
    caption: str
    alt: str
    table: str
    figure: Figure


def panels(
    title: str,
    rows: Sequence[str],
    columns: int,
    *,
    height: float = 1.75,
    left: float = 0.72,
    right: float = 0.2,
    gap: float = 0.62,
    titles: Sequence[int] = (),
) -> tuple[Figure, list[list[Axes]]]:
    """Create a figure with a title, and rows of panels with a heading each.

    Args:
        title: finding that the figure shows; it is wrapped.
        rows: heading of each row.
        columns: panels per row.
        height: height of a panel, in inches.
        left: margin for ticks and their label, in inches.
        right: margin for labels at line ends, in inches.
        gap: gap between the panels of a row, in inches.
        titles: number of lines of the panels' own titles, for each of the first rows.

    """
    lines = textwrap.wrap(shorten(title, MAX_TITLE), 84) or [""]
    headings = [textwrap.wrap(shorten(row, MAX_TITLE), 108) for row in rows]
    above, below = 0.12 + 0.2 * len(lines), 0.48
    own = [*titles, *[0] * (len(rows) - len(titles))]
    tops = [LINE * (len(heading) + extra) + 0.2 for heading, extra in zip(headings, own, strict=True)]
    total = above + sum(tops) + (height + below) * len(rows)
    figure = Figure(figsize=(WIDTH, total))
    figure.text(0.1 / WIDTH, 1 - 0.1 / total, "\n".join(lines), va="top", weight="bold", size=10)
    width = (WIDTH - left - right - gap * (columns - 1)) / columns
    axes = []
    y = total - above
    for heading, top in zip(headings, tops, strict=True):
        words = "\n".join(heading)
        figure.text(0.1 / WIDTH, (y - 0.08) / total, words, va="top", size=8.5)
        y -= top + height
        spots = [left + (width + gap) * column for column in range(columns)]
        axes.append([figure.add_axes((x / WIDTH, y / total, width / WIDTH, height / total)) for x in spots])
        for ax in axes[-1]:
            ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        y -= below
    return figure, axes


def strength_positions(strengths: Iterable[float | None]) -> Axis:
    """Compute positions of strengths on a log axis, with 0 and ∞ one step beyond its ends.

    If a strength is negative, positions are ranks instead of logarithms.
    """
    known = sorted({value for value in strengths if value is not None})
    if any(value < 0 for value in known):
        return {value: float(rank) for rank, value in enumerate(known)}
    places = {value: float(np.log10(value)) for value in known if 0 < value < np.inf}
    ends = (min(places.values()), max(places.values())) if places else (0.0, 0.0)
    step = max((ends[1] - ends[0]) / max(len(places) - 1, 1), 0.3)
    return {value: places.get(value, ends[0] - step if value == 0 else ends[1] + step) for value in known}


def label_strength_axis(ax: Axes, quantity: str, axis: Axis) -> None:
    """Mark and label the strengths that were run on the x axis, dropping marks and labels that would touch."""
    if not axis:
        ax.set_xlim(-0.5, 0.5)
        ax.set_xticks([])
        ax.set_xlabel("no strength to vary")
        return
    low, high = min(axis.values()), max(axis.values())
    margin = 0.08 * (high - low) or 0.5
    ax.set_xlim(low - margin, high + margin)
    inches = ax.get_position().width * WIDTH / (high - low + 2 * margin)
    ticks: list[float] = []
    shown, last = [], -np.inf
    for value, place in axis.items():
        if ticks and (place - ticks[-1]) * inches < TICK_GAP:
            continue
        ticks.append(place)
        fits = (place - last) * inches > 0.07 * len(format_number(value)) + 0.06
        shown.append(format_number(value) if fits else "")
        last = place if fits else last
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.set_xticklabels(shown)
    symbol = {"lambda": "penalty weight λ", "threshold": "clipping threshold"}.get(quantity, quantity)
    ax.set_xlabel(shorten(symbol, MAX_NAME))


def label_ends(ax: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write labels (y, text, colour) right of a panel at their heights, pushed apart so that none touch."""
    if not labels:
        return
    points = ax.get_window_extent().height / ax.figure.dpi * 72
    transform = ax.transData + ax.transAxes.inverted()
    ends = sorted(
        (float(transform.transform((ax.get_xlim()[0], y))[1]), words, color) for y, words, color in labels
    )
    places = np.clip(np.array([end[0] for end in ends]), 0.0, 1.0) * points
    for upper in range(1, len(places)):
        places[upper] = max(places[upper], places[upper - 1] + LABEL_GAP)
    for lower in range(len(places) - 1, -1, -1):  # a label pushed above the panel is pushed back
        ceiling = places[lower + 1] - LABEL_GAP if lower + 1 < len(places) else points
        places[lower] = min(places[lower], ceiling)
    for place, (_, words, color) in zip(places / points, ends, strict=True):
        ax.annotate(
            words, (1, place), (5, 0), xycoords="axes fraction", textcoords="offset points",
            va="center", color=color, size=8, annotation_clip=False,
        )  # fmt: skip


def dodge_between(ax: Axes, lines: int) -> float:
    """Return the distance between the marks of lines at one strength, on a labelled strength axis."""
    return min(DODGE, SPREAD / max(lines, 1)) * float(np.diff(ax.get_xlim())[0])


def darker(color: str) -> str:
    """Darken a colour ``#rrggbb`` so that text in it is readable on white."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    scale = min(1.0, 115 / max(0.299 * red + 0.587 * green + 0.114 * blue, 1.0))
    return f"#{round(red * scale):02x}{round(green * scale):02x}{round(blue * scale):02x}"


def end_label(treatment: str, look: Look, *, hollow: bool = False) -> str:
    """Write the label of a line: its marker, which identifies it without colour, and the treatment's name."""
    glyph = HOLLOW.get(look.marker, "○") if hollow else GLYPHS.get(look.marker, "●")
    return f"{glyph} {shorten(treatment, MAX_NAME)}"


def label_margin(context: Context) -> float:
    """Compute the margin in inches for the longest label at a line's end."""
    longest = max((len(name) for name in context.looks), default=0)
    return 0.3 + 0.075 * min(longest, MAX_NAME)


def list_chosen(comparison: ComparisonGroup) -> str:
    """List the chosen settings: ``clip_norm at 1, gp at λ = 10``."""
    settings = [comparison.chosen_setting(treatment) for treatment in comparison.treatments]
    return ", ".join(format_setting(s.treatment, s.quantity, [s.at]) for s in settings)


def column_titles(
    comparison: ComparisonGroup,
    treatments: Iterable[str],
    width: float,
    notes: Mapping[str, str] | None = None,
) -> tuple[dict[str, str], int]:
    """Write the titles of columns of one treatment each: its name and chosen strength, of a composition part by part.

    Args:
        comparison: of the treatments.
        treatments: one per column.
        width: of a column, in inches.
        notes: treatment -> what else its title says.

    Returns:
        Treatment -> title, and the number of lines, which all of them have.
    """
    lines: dict[str, list[str]] = {}
    for treatment in treatments:
        chosen = comparison.chosen_setting(treatment)
        where, note = format_strength(chosen.quantity, [chosen.at]), (notes or {}).get(treatment, "")
        if chosen.strengths:
            name = [] if format_setting(treatment, chosen.quantity, [chosen.at]) == where else [treatment]
            lines[treatment] = [*name, *where.split(" + "), *filter(None, [note])]
        else:
            lines[treatment] = [treatment, ", ".join(filter(None, [where, note]))]
    most = max(map(len, lines.values()), default=0)
    room = int(width / LETTER)
    padded = {name: [*own, *[""] * (most - len(own))] for name, own in lines.items()}
    return {name: "\n".join(shorten(line, room) for line in own) for name, own in padded.items()}, most


def axis_limits(values: Iterable[float], *, log: bool = False, pad: float = 0.06) -> tuple[float, float]:
    """Compute axis limits around the finite values, padded by a share ``pad`` of the axis."""
    found = np.array([value for value in values if np.isfinite(value) and (value > 0 or not log)])
    if not len(found):
        return (0.1, 10.0) if log else (0.0, 1.0)
    ends = np.log10(found) if log else found
    low, high = float(ends.min()), float(ends.max())
    margin = pad * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - margin, high + margin
    return (10**low, 10**high) if log else (low, high)


def has_wide_range(values: Iterable[float]) -> bool:
    """Whether all values are positive and span more than a decade, so that they need a log axis."""
    found = [value for value in values if np.isfinite(value)]
    return bool(found) and min(found) > 0 and max(found) / min(found) > 10


def log_ticks(low: float, high: float) -> list[float]:
    """Choose ticks between two log10 values: decades, or finer round steps if there are few decades."""
    decades = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    stride = max(len(decades) // 6, 1)
    for steps in ((1.0,), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)):
        ticks = [step * 10.0**decade for decade in decades[::stride] for step in steps]
        if len(found := [tick for tick in ticks if low <= np.log10(tick) <= high]) > 2:
            return found
    return [float(10**place) for place in np.linspace(low, high, 4)]


def set_log_axis(ax: Axes, low: float, high: float) -> None:
    """Set a log y axis between two values, with few round ticks."""
    ax.set_yscale("log")
    ticks = log_ticks(float(np.log10(low)), float(np.log10(high)))
    ax.set_yticks(ticks, [format_number(tick, 2) for tick in ticks])
    ax.minorticks_off()
    ax.set_ylim(low, high)

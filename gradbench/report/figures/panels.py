"""Build what figures share: grids of panels measured in inches, strength axes, and labels at line ends."""

import itertools
import re
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from gradbench.report.analysis.answer import Answer
from gradbench.report.analysis.comparison import ComparisonGroup
from gradbench.report.figures.style import GLYPHS, Look
from gradbench.report.load.cells import LoadedResults
from gradbench.report.load.curves import Curves
from gradbench.report.render.formatting import format_number, format_setting, format_strength, shorten

LINE = 0.16  # inches per line of text
LABEL_GAP = 9.5  # points between labels at line ends
TICK_GAP = 0.02  # inches between the marks of a strength axis
MAX_TITLE = 1000  # characters of a figure's title, and of the heading of a row
MAX_NAME = 18  # characters of a name that has one line
MAX_LINES = 4  # of a treatment's name in a label
CHARACTERS = 14  # of a label, in an inch
Axis = dict[float, float]  # strength -> position on the axis


@dataclass(frozen=True)
class Layout:
    """How a figure is laid out: for a desk or paper, or for a phone.

    Attributes:
        width: of the figure, in inches.
        label: characters in a line of a label at a line's end.
        stacked: whether the panels of a row stand below each other instead of side by side.
    """

    width: float
    label: int
    stacked: bool = False


WIDE, NARROW = Layout(7.6, MAX_NAME), Layout(3.7, 12, stacked=True)


@dataclass(frozen=True)
class Context:
    """The data that every figure is drawn from."""

    results: LoadedResults
    curves: Curves
    comparisons: list[ComparisonGroup]
    answers: list[Answer]  # one per comparison
    looks: dict[str, Look]
    layout: Layout = WIDE
    every: Sequence[ComparisonGroup] = ()  # also those that have no rows in figures


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
    columns: int | Sequence[int],
    *,
    layout: Layout = WIDE,
    height: float = 1.75,
    left: float = 0.72,
    right: float = 0.2,
    gap: float = 0.62,
    below: float | None = None,
    titles: Sequence[int] = (),
    abreast: int = 1,
) -> tuple[Figure, list[list[Axes]]]:
    """Create a figure with a title, and rows of panels with a heading each.

    Args:
        title: finding that the figure shows; it is wrapped.
        rows: heading of each row.
        columns: panels of every row, or of each.
        layout: for a desk or a phone.
        height: height of a panel, in inches.
        left: margin for ticks and their label, in inches.
        right: margin for labels at line ends, in inches.
        gap: gap between the panels of a row, in inches.
        below: space below each panel, in inches; ``None`` for that of ticks and their label.
        titles: number of lines of the panels' own titles, for each of the first rows.
        abreast: panels of a row that stand side by side where the others stand below them.

    """
    counts = [columns] * len(rows) if isinstance(columns, int) else columns
    side = abreast if layout.stacked else max(counts, default=1)
    lines = textwrap.wrap(shorten(title, MAX_TITLE), int(11 * layout.width)) or [""]
    headings = [textwrap.wrap(shorten(row, MAX_TITLE), int(CHARACTERS * layout.width)) for row in rows]
    own = [*titles, *[0] * (len(rows) - len(titles))]
    above = 0.12 + 0.2 * len(lines)
    if below is None:
        below = 0.62 if layout.stacked else 0.48
    width = (layout.width - left - right + gap) / side - gap
    spots, y = [], above  # y: inches from the top
    heads = []
    for heading, extra, count in zip(headings, own, counts, strict=True):
        heads.append((y + 0.08, "\n".join(heading)))
        y += LINE * len(heading) + 0.2
        row = []
        for start in range(0, count, side):
            y += LINE * extra + height
            row += [(left + (width + gap) * place, y) for place in range(min(side, count - start))]
            y += below
        spots.append(row)
    figure = Figure(figsize=(layout.width, y))
    figure.text(0.1 / layout.width, 1 - 0.1 / y, "\n".join(lines), va="top", weight="bold", size=10)
    for down, words in heads:
        figure.text(0.1 / layout.width, 1 - down / y, words, va="top", size=8.5)
    axes = [
        [
            figure.add_axes((x / layout.width, 1 - down / y, width / layout.width, height / y))
            for x, down in row
        ]
        for row in spots
    ]
    for ax in (ax for row in axes for ax in row):
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    return figure, axes


def panels_of_treatments(
    context: Context,
    title: str,
    comparisons: Sequence[ComparisonGroup],
    found: Mapping[str, Collection[str]],
) -> tuple[Figure, list[list[Axes]]]:
    """Create a row of panels of shares per comparison, and in it one per treatment, named with its chosen strength.

    Args:
        context: with the layout.
        title: as of :func:`panels`.
        comparisons: one per row.
        found: label of each -> its treatments that have something to show, at least one.
    """
    counts = [len(found[comparison.label]) for comparison in comparisons]
    figure, axes = panels(
        title,
        [comparison.label_with_seeds for comparison in comparisons],
        counts,
        layout=context.layout,
        height=1.15,
        left=0.4,
        gap=0.16,
        titles=[3] * len(counts),
        abreast=2 if context.layout.stacked else max(counts),
    )
    for comparison, row in zip(comparisons, axes, strict=True):
        for ax, treatment in zip(row, found[comparison.label], strict=True):
            chosen = comparison.chosen_setting(treatment)
            where = format_strength(chosen.quantity, [chosen.at])
            ax.set_title(title_lines(ax, treatment, where), loc="left", size=8)
            ax.set_yticks([])
        row[0].set_ylabel("share")
    return figure, axes


def share_y_axis(row: Sequence[Axes], label: str, layout: Layout) -> None:
    """Label the common y axis of a row of panels: at the first one, or at each where they are stacked."""
    for ax in row if layout.stacked else row[:1]:
        ax.set_ylabel(label)
    for ax in () if layout.stacked else row[1:]:
        ax.tick_params(labelleft=False)


def width_of(ax: Axes) -> float:
    """Return the width of a panel, in inches."""
    return float(ax.get_position().width * ax.figure.get_figwidth())  # type: ignore[union-attr]


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
    inches = width_of(ax) / (high - low + 2 * margin)
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
    ax.set_xlabel(shorten(symbol, int(CHARACTERS * width_of(ax))))


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
    sizes = [LABEL_GAP * (words.count("\n") + 1) for _, words, _ in ends]
    gaps = [(one + other) / 2 for one, other in itertools.pairwise(sizes)]
    for upper, gap in enumerate(gaps, 1):
        places[upper] = max(places[upper], places[upper - 1] + gap)
    places[-1] = min(places[-1], points)
    for lower in reversed(range(len(gaps))):  # a label pushed above the panel is pushed back
        places[lower] = min(places[lower], places[lower + 1] - gaps[lower])
    for place, (_, words, color) in zip(places / points, ends, strict=True):
        ax.annotate(
            words, (1, place), (5, 0), xycoords="axes fraction", textcoords="offset points",
            va="center", color=color, size=8, linespacing=1.0, annotation_clip=False,
        )  # fmt: skip


def darker(color: str) -> str:
    """Darken a colour ``#rrggbb`` so that text in it is readable on white."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    scale = min(1.0, 115 / max(0.299 * red + 0.587 * green + 0.114 * blue, 1.0))
    return f"#{round(red * scale):02x}{round(green * scale):02x}{round(blue * scale):02x}"


def wrap_name(name: str, length: int) -> str:
    """Break a name into lines of at most ``length`` characters, after a space or a sign where there is one.

    Of a name of more than ``MAX_LINES`` lines the middle is left out.
    """
    lines = [""]
    for piece in re.findall(r"[^\s_+.,=/-]*[\s_+.,=/-]|[^\s_+.,=/-]+", name):
        for start in range(0, len(piece), length):
            part = piece[start : start + length]
            if len(lines[-1] + part.rstrip()) > length:
                lines.append("")
            lines[-1] += part
    kept = [line.strip() for line in lines]
    half = MAX_LINES // 2
    return "\n".join(kept if len(kept) <= MAX_LINES else [*kept[:half], "…", *kept[-half + 1 :]])


def title_lines(ax: Axes, name: str, *further: str) -> str:
    """Write the title of a panel: a name, wrapped to its width, and further lines."""
    return wrapped_lines(width_of(ax), name, *further)


def wrapped_lines(width: float, name: str, *further: str) -> str:
    """Write a name, wrapped to a width in inches, and further lines."""
    return "\n".join(filter(None, [wrap_name(name, int(CHARACTERS * width)), *further]))


def end_label(treatment: str, look: Look, layout: Layout) -> str:
    """Write the label of a line: its marker, which identifies it without colour, and the treatment's name."""
    return f"{GLYPHS.get(look.marker, '●')} {wrap_name(treatment, layout.label)}".replace("\n", "\n   ")


def label_margin(context: Context) -> float:
    """Compute the margin in inches for the longest label at a line's end."""
    lines = [line for name in context.looks for line in wrap_name(name, context.layout.label).split("\n")]
    return 0.3 + 0.075 * max(map(len, lines), default=0)


def label_height(context: Context, height: float) -> float:
    """Return the height of a panel, in inches, that has room for the labels of all treatments."""
    lines = sum(wrap_name(name, context.layout.label).count("\n") + 1 for name in context.looks)
    return max(height, LABEL_GAP * lines / 72)


def list_chosen(comparison: ComparisonGroup) -> str:
    """List the chosen settings: ``clip_norm at 1, gp at λ = 10``."""
    settings = [comparison.chosen_setting(treatment) for treatment in comparison.treatments]
    return ", ".join(format_setting(s.treatment, s.quantity, [s.at]) for s in settings)


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

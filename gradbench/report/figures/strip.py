"""Draw a strip at a panel's worse edge that counts diverged cells, which have no metric."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from gradbench.report.analysis.comparison import ComparisonGroup, Setting
from gradbench.report.figures.panels import Axis, Context, darker
from gradbench.report.figures.style import FAINT, STRIP

ROW = 11.0  # points per line of the strip


def draw_diverged_strip(
    ax: Axes, context: Context, comparison: ComparisonGroup, quantity: str, axis: Axis
) -> None:
    """Draw the strip: one line per treatment, with the count of diverged cells at each strength."""
    every = [_count_diverged(comparison, which) for which in comparison.quantities or [""]]
    lines = max(map(len, every))  # equal for all panels of a row, which share their y axis
    if not lines:
        return
    points = ax.get_window_extent().height / ax.figure.dpi * 72
    share = (ROW * lines + 4) / points
    top = comparison.goal != "max"
    _make_room(ax, share, top)
    corner = (0.0, 1 - share if top else 0.0)
    ax.add_patch(Rectangle(corner, 1, share, transform=ax.transAxes, color=STRIP, lw=0, zorder=4))
    edge = 1.01 if top else share + 0.01
    ax.text(1.0, edge, "diverged", transform=ax.transAxes, size=8, color=FAINT, ha="right", va="bottom")
    for line, (treatment, counts) in enumerate(_count_diverged(comparison, quantity).items()):
        depth = (2 + ROW * (line + 0.5)) / points
        for strength, words in counts:
            place = None if strength is None else axis[strength]
            _draw_count(ax, context, treatment, place, 1 - depth if top else depth, words)


def _draw_count(
    ax: Axes, context: Context, treatment: str, place: float | None, y: float, words: str
) -> None:
    """Draw a hollow marker with its count; a treatment without a strength is drawn at the left, with its name."""
    look = context.looks[treatment]
    low, high = ax.get_xlim()
    x = 0.02 if place is None else (place - low) / (high - low)
    ax.plot(
        x, y, look.marker, mfc="white", mec=look.color, mew=1.2, ms=5, transform=ax.transAxes, zorder=5
    )  # fmt: skip
    label = f"{words} {treatment}" if place is None else words
    ax.annotate(
        label, (x, y), (5, 0), xycoords="axes fraction", textcoords="offset points",
        va="center", size=8, color=darker(look.color), zorder=6, annotation_clip=False,
    )  # fmt: skip


def _count_diverged(comparison: ComparisonGroup, quantity: str) -> dict[str, list[tuple[float | None, str]]]:
    """Count the diverged cells at each strength of a panel's treatments: ``2/3``."""
    places: list[tuple[str, float | None, Setting]] = [
        (setting.treatment, None, setting) for setting in comparison.settings if not setting.numbers
    ]
    for drawn in comparison.lines(quantity):
        places += [(drawn.treatment, strength, setting) for strength, setting in drawn.settings.items()]
    counts: dict[str, list[tuple[float | None, str]]] = {}
    for treatment, strength, setting in places:
        statuses = comparison.cells_at(setting)["status"]
        lost = int((statuses == "diverged").sum())
        if lost:
            ran = int((statuses != "failed").sum())
            counts.setdefault(treatment, []).append((strength, f"{lost}/{ran}"))
    return counts


def _make_room(ax: Axes, share: float, top: bool) -> None:
    """Extend the y axis at the worse end by ``share`` of its height, without ticks there."""
    low, high = ax.get_ylim()
    kept = [i for i, tick in enumerate(ax.get_yticks()) if low <= tick <= high]
    ticks, words = ax.get_yticks()[kept], ax.get_yticklabels()
    log = ax.get_yscale() == "log"
    a, b = (np.log10(low), np.log10(high)) if log else (low, high)
    more = (b - a) * share / (1 - share)
    a, b = (a, b + more) if top else (a - more, b)
    ax.set_yticks(ticks, [words[i].get_text() for i in kept] if log else None)
    ax.set_ylim(*((10**a, 10**b) if log else (a, b)))

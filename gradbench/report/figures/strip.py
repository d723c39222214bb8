"""Draw a strip at a panel's worse edge that counts diverged cells, which have no metric."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from gradbench.report.analysis.comparison import ComparisonGroup
from gradbench.report.figures.panels import Axis, Context, darker, width_of
from gradbench.report.figures.style import FAINT, STRIP, Look
from gradbench.report.render.formatting import shorten

ROW = 11.0  # points per line of the strip
GAP, WIDE = 5.0, 5.2  # points from a marker to its count, and of a character


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
        y = 1 - depth if top else depth
        places = [_place_of(ax, axis, strength) for strength, _ in counts]
        last = -np.inf  # where the last count ends
        for number, (x, (strength, words)) in enumerate(zip(places, counts, strict=True)):
            label = f"{words} {shorten(treatment, 24)}" if strength is None else words
            size = (GAP + WIDE * len(label)) / (72 * width_of(ax))
            after = places[number + 1] if number + 1 < len(places) else 1.0
            fits = max(last, x) + size < after
            left = not fits and last < x - size and number + 1 == len(places)
            _draw_count(ax, context.looks[treatment], (x, y), label if fits or left else "", left=left)
            last = x + size if fits else x


def _place_of(ax: Axes, axis: Axis, strength: float | None) -> float:
    """Return where on a panel's width a strength lies; a treatment without one has the left end."""
    low, high = ax.get_xlim()
    return 0.02 if strength is None else float((axis[strength] - low) / (high - low))


def _draw_count(ax: Axes, look: Look, place: tuple[float, float], words: str, *, left: bool) -> None:
    """Draw a hollow marker with its count, right or left of it."""
    ax.plot(
        *place, look.marker, mfc="white", mec=look.color, mew=1.2, ms=5, transform=ax.transAxes, zorder=5
    )  # fmt: skip
    ax.annotate(
        words, place, (-GAP if left else GAP, 0), xycoords="axes fraction", textcoords="offset points",
        va="center", ha="right" if left else "left", size=8, color=darker(look.color), zorder=6,
        annotation_clip=False,
    )  # fmt: skip


def _count_diverged(comparison: ComparisonGroup, quantity: str) -> dict[str, list[tuple[float | None, str]]]:
    """Count the diverged cells at each strength of a panel's treatments: ``2/3``."""
    counts: dict[str, list[tuple[float | None, str]]] = {}
    for setting in comparison.settings:
        statuses = comparison.cells_at(setting)["status"]
        lost = int((statuses == "diverged").sum())
        if lost and setting.quantity in (quantity, ""):
            ran = int((statuses != "failed").sum())
            counts.setdefault(setting.treatment, []).append((setting.strength, f"{lost}/{ran}"))
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

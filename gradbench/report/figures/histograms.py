"""Draw histograms of gradient coordinates at the last step, before and after the treatment."""

import numpy as np

from gradbench.report.analysis.comparison import ComparisonGroup
from gradbench.report.figures.panels import Context, Drawing, panels_of_treatments
from gradbench.report.render.formatting import format_number
from gradbench.stats.intervals import Floats

CAPTION = (
    "How large single coordinates of the gradient are at the last step, as shares of all coordinates, "
    "summed over the seeds at the chosen strength. Grey: as backward gave them; the line: as the "
    "optimizer used them. Norm clipping moves the whole shape to the left, value clipping cuts its right "
    "end off; a treatment that did nothing to the gradients at this step, such as a penalty, leaves the "
    "line on the edge of the grey shape."
)
KEYS = ("gradients/edges", "gradients/raw", "gradients/used")
EMPTY = 0.002  # share of coordinates below which bins at the ends are not shown
Counts = tuple[Floats, Floats, Floats]  # edges [b + 1], raw [b], used [b]


def draw(context: Context) -> list[Drawing]:
    """Draw a row per comparison and a column per treatment that stored its histogram."""
    found = {c.label: _sum_histograms(context, c) for c in context.comparisons}
    kept = [comparison for comparison in context.comparisons if found[comparison.label]]
    if not kept:
        return []
    title = _title({comparison.label: found[comparison.label] for comparison in kept})
    figure, axes = panels_of_treatments(context, title, kept, found)
    window = _window([counts for histograms in found.values() for counts in histograms.values()])
    for comparison, row in zip(kept, axes, strict=True):
        histograms = found[comparison.label]
        for ax, (treatment, (edges, raw, used)) in zip(row, histograms.items(), strict=True):
            ax.stairs(raw / max(raw.sum(), 1), edges, color="#c4c4c4", fill=True)
            ax.stairs(used / max(used.sum(), 1), edges, color=context.looks[treatment].color, lw=1.4)
            ax.set_xlim(*window)
            ax.set_xlabel("log₁₀ |g|")
    alt = f"Histograms of gradient coordinates before and after each treatment. {title}"
    return [Drawing("histograms", title, CAPTION, alt, "", figure)]


def _sum_histograms(context: Context, comparison: ComparisonGroup) -> dict[str, Counts]:
    """Sum the histograms of each treatment's cells at its chosen strength, leaving out those with other edges."""
    found: dict[str, Counts] = {}
    for treatment in comparison.treatments:
        for cell in comparison.cells_at(comparison.chosen_setting(treatment))["cell"]:
            stored = context.results.arrays_of(str(cell))
            if not all(key in stored for key in KEYS):
                continue
            edges, raw, used = (stored[key].astype(np.float64) for key in KEYS)
            if treatment not in found:
                found[treatment] = (edges, raw, used)
            elif np.array_equal(found[treatment][0], edges):
                found[treatment] = (edges, found[treatment][1] + raw, found[treatment][2] + used)
    return found


def _window(histograms: list[Counts]) -> tuple[float, float]:
    """Compute the range of log10 |g| outside of which every histogram is nearly empty."""
    low, high = np.inf, -np.inf
    for edges, *both in histograms:
        for counts in both:
            held = np.flatnonzero(counts > EMPTY * counts.sum())
            if len(held):
                low, high = min(low, edges[held[0]]), max(high, edges[held[-1] + 1])
    return (float(low), float(high)) if low < high else (-1.0, 1.0)


def _title(found: dict[str, dict[str, Counts]]) -> str:
    """Name the treatment that shrank the typical coordinate most."""
    moves = []
    for label, histograms in found.items():
        for treatment, (edges, raw, used) in histograms.items():
            moves.append((_mean_log_size(edges, raw) - _mean_log_size(edges, used), treatment, label))
    shift, treatment, label = max(moves)
    if shift < np.log10(1.1):
        return "At the last step no treatment makes the typical gradient coordinate smaller"
    factor = f"{format_number(float(10**shift), 2)} times smaller for {label}"
    return f"At the last step {treatment} makes the typical gradient coordinate {factor}"


def _mean_log_size(edges: Floats, counts: Floats) -> float:
    """Compute the mean of log10 |g| from the centers of the bins."""
    total = counts.sum()
    return float(((edges[1:] + edges[:-1]) / 2 * counts).sum() / total) if total else 0.0

"""Draw curves over steps, binned per cell and averaged over seeds while no seed has stopped."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from scipy.special import stdtrit

from gradbench.report.analysis.comparison import ComparisonGroup, Setting
from gradbench.report.figures.panels import Context, darker, end_label, label_ends
from gradbench.report.figures.style import Look
from gradbench.stats.intervals import CONFIDENCE, Floats


def draw_curves(
    ax: Axes,
    context: Context,
    comparison: ComparisonGroup,
    column: str,
    curves: dict[Setting, pd.DataFrame],
    *,
    geometric: bool = False,
) -> list[tuple[str, pd.DataFrame]]:
    """Draw one column of the curves of each setting, and return each treatment with its binned table."""
    drawn = []
    for setting, rows in curves.items():
        table = bin_curves(rows, column)
        if not table.empty:
            lost = comparison.cells_at(setting)
            lost = lost[(lost["status"] == "diverged") & lost["cell"].isin(table.columns)]
            look = context.looks[setting.treatment]
            draw_curve(ax, table, look, geometric=geometric, banded=lost.empty)
            mark_divergence(ax, table[lost["cell"].tolist()], look)
            drawn.append((setting.treatment, table))
    return drawn


def label_curves(ax: Axes, context: Context, drawn: list[tuple[str, pd.DataFrame]]) -> None:
    """Label each treatment at the end of its mean, or of its seeds if the mean is empty."""
    ends = []
    for treatment, table in drawn:
        whole = table.dropna()
        last = whole.iloc[-1].mean() if len(whole) else table.ffill().iloc[-1].mean()
        look = context.looks[treatment]
        ends.append((float(last), end_label(treatment, look, context.layout), darker(look.color)))
    label_ends(ax, ends)


def draw_curve(ax: Axes, table: pd.DataFrame, look: Look, *, geometric: bool, banded: bool) -> None:
    """Draw each cell as a thin line, and the mean with its interval over the steps that all cells have.

    Args:
        ax: panel.
        table: binned values, one column per cell.
        look: colour, marker and dash.
        geometric: whether the mean is geometric.
        banded: whether to draw the interval, which is too wide to be useful if a cell diverged.
    """
    steps = table.index.to_numpy()
    seeds = [np.column_stack([steps, table[cell].to_numpy()]) for cell in table]
    ax.add_collection(LineCollection(seeds, colors=look.color, linewidths=0.5, alpha=0.4, zorder=2))
    whole = table.dropna()
    values = whole.to_numpy(dtype=float)
    mean, low, high = map(np.exp, mean_band(np.log(values))) if geometric else mean_band(values)
    every = max(len(whole) // 6, 1)
    ax.plot(
        whole.index,
        mean,
        color=look.color,
        linestyle=look.dash,
        marker=look.marker,
        markevery=every,
        ms=4,
        zorder=3,
    )
    if banded and np.isfinite(low).any():
        ax.fill_between(whole.index.to_numpy(), low, high, color=look.color, alpha=0.15, lw=0, zorder=1)


def mark_divergence(ax: Axes, table: pd.DataFrame, look: Look) -> None:
    """Mark the last recorded value of each diverged cell with a hollow marker."""
    for cell in table:
        seen = table[cell].dropna()
        if len(seen):
            ax.plot(
                seen.index[-1],
                seen.iloc[-1],
                look.marker,
                mfc="white",
                mec=look.color,
                mew=1.2,
                ms=6,
                zorder=4,
            )


def bin_curves(curves: pd.DataFrame, column: str, bins: int = 60) -> pd.DataFrame:
    """Average the finite values of curves in at most ``bins`` spans of steps: one row per span, one column per cell.

    The index is the mean step of the span. A cell that stopped early has nan from there on.
    """
    kept = curves.loc[np.isfinite(curves[column].to_numpy(dtype=float)), ["cell", "step", column]]
    if kept.empty:
        return pd.DataFrame()
    steps = kept["step"].to_numpy(dtype=np.int64)
    last = int(steps.max())
    bins = min(bins, last)
    span = (steps - 1) * bins // last
    code, cells = pd.factorize(kept["cell"])
    # bincount over (span, cell) is many times faster than a pivot.
    place, size = span * len(cells) + code, bins * len(cells)
    count = np.bincount(place, minlength=size)
    total = np.bincount(place, weights=kept[column].to_numpy(dtype=float), minlength=size)
    mean = np.divide(total, count, out=np.full(size, np.nan), where=count > 0).reshape(bins, len(cells))
    filled = np.bincount(span, minlength=bins)
    middle = np.bincount(span, weights=steps, minlength=bins) / np.maximum(filled, 1)
    table = pd.DataFrame(mean, index=pd.Index(middle, name="step"), columns=cells)
    return table[filled > 0]


def mean_band(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Compute the mean over cells (columns) and its t interval, nan if a cell is missing or n < 2."""
    n = values.shape[1]
    mean = values.mean(axis=1)
    if n < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * values.std(axis=1, ddof=1) / np.sqrt(n)
    return mean, mean - half, mean + half

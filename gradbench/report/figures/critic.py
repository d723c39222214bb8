"""Draw a critic: samples and data, the critic's values, and the norm of its input gradient."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator

from gradbench.report.analysis.comparison import ComparisonGroup
from gradbench.report.figures.panels import Context, Drawing, panels, title_lines
from gradbench.report.figures.style import INK
from gradbench.report.render.formatting import format_number, format_strength, join_words

CAPTION = (
    "One column per treatment at its chosen strength, from the completed seed whose metric is the median "
    "one. Top: the data in black, the generator's samples in colour; they should cover each other. "
    "Middle: the critic's value over the plane, each panel on its own scale from low (dark) to high "
    "(light), with level lines: what matters is whether the levels follow the data. Bottom: the "
    "distribution of the critic's input gradient norm between data and samples; the line at 1 is where a "
    "gradient penalty with target 1 pulls it. If the treatments did nothing, the columns would look "
    "alike. Of data with more than two coordinates the first two are shown, and no values; of images, the norms alone."
)
LOG_BEYOND = 10.0  # ratio of medians above which the axis of norms is logarithmic
Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]

Window = tuple[float, float, float, float]  # x min, x max, y min, y max


def draw(context: Context) -> list[Drawing]:
    """Draw one figure per comparison whose cells stored samples or a value surface."""
    drawings: list[Drawing] = []
    for comparison in context.comparisons:
        columns = {treatment: comparison.median_cell(treatment) for treatment in comparison.treatments}
        arrays = {
            treatment: context.results.arrays_of(str(cell["cell"])) if cell is not None else {}
            for treatment, cell in columns.items()
        }
        if any({"samples", "surface", "gradient_norms"} & stored.keys() for stored in arrays.values()):
            name = f"critic-{len(drawings) + 1}" if drawings else "critic"
            drawings.append(_draw_figure(context, comparison, columns, arrays, name))
    return drawings


def _draw_figure(
    context: Context,
    comparison: ComparisonGroup,
    columns: "dict[str, pd.Series | None]",
    arrays: dict[str, Arrays],
    name: str,
) -> Drawing:
    """Draw a column per treatment, with panels of samples, values and gradient norms."""
    width, gap, left = context.layout.width, 0.14, 0.72
    count = min(len(columns), 2) if context.layout.stacked else len(columns)
    size = min((width - left - 0.2 - gap * (count - 1)) / count, 2.2)
    stacked = context.layout.stacked
    title = _title(comparison, arrays)
    headings = {
        "samples": "samples (colour) and data (black)",
        "surface": "critic's value",
        "gradient_norms": "the norm of the critic's input gradient, between data and samples",
    }
    shown = [key for key in headings if any(key in stored for stored in arrays.values())]
    right = width - left - size * count - gap * (count - 1)
    figure, axes = panels(
        title, [f"{comparison.label}: {headings[shown[0]]}", *(headings[key] for key in shown[1:])], len(columns),
        layout=context.layout, height=size, right=right, gap=gap, titles=[4, stacked, stacked][: len(shown)],
        abreast=count,
    )  # fmt: skip
    rows = dict(zip(shown, axes, strict=True))
    edges = _bin_edges(arrays)
    window = _window(arrays)
    for index, (treatment, cell) in enumerate(columns.items()):
        stored, color = arrays[treatment], context.looks[treatment].color
        chosen = comparison.chosen_setting(treatment)
        where = format_strength(chosen.quantity, [chosen.at])
        seed = f"seed {cell['seed']}" if cell is not None else ""
        below = [where, seed] if stacked else [", ".join(filter(None, (where, seed)))]
        for key, ax in ((key, row[index]) for key, row in rows.items()):
            if key == shown[0] or stacked:
                lines = below if key == shown[0] else []
                ax.set_title(title_lines(ax, treatment, *lines), loc="left", size=8)
            ax.grid(visible=False)
            ax.xaxis.set_major_locator(MaxNLocator(4, prune="both", steps=[1, 2, 5, 10]))
            ax.tick_params(labelleft=index % count == 0 and key != "gradient_norms")
            if cell is None:
                _write_note(ax, "no seed\ncompleted")
            if key == "samples":
                _draw_samples(ax, stored, color, window)
            elif key == "surface":
                _draw_surface(ax, stored, window)
            else:
                _draw_norms(ax, stored, color, edges)
    norms = rows.get("gradient_norms", [])
    top = max((ax.get_ylim()[1] for ax in norms), default=1.0)
    for ax in norms:
        ax.set_ylim(0, top)
        ax.set_yticks([])
        ax.set_xlabel("‖∇ₓD‖")
    alt = f"Samples, critic values and input gradient norms per treatment. {title}"
    return Drawing(name, title, CAPTION, alt, "", figure)


def _draw_samples(ax: Axes, stored: Arrays, color: str, window: Window) -> None:
    for key, shade, size in (("samples", color, 2.0), ("data", INK, 1.6)):
        if key in stored:
            points = _plane(stored[key])[:1500]
            # Rasterized, because thousands of points make the SVG larger than the PNG.
            ax.plot(points[:, 0], points[:, 1], ".", color=shade, ms=size, alpha=0.6, mew=0, rasterized=True)
    _set_window(ax, window)


def _plane(points: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    """Take the first two coordinates of points, [N, ...] -> [N, 2]."""
    return points.reshape(len(points), -1)[:, :2]


def _draw_surface(ax: Axes, stored: Arrays, window: Window) -> None:
    if "surface" in stored:
        surface = stored["surface"]
        extent = _extent(stored["extent"]) if "extent" in stored else window
        ax.imshow(
            surface, origin="lower", extent=extent, cmap="cividis", aspect="auto", interpolation="bilinear"
        )
        if np.isfinite(surface).all() and np.ptp(surface) > 0:
            ax.contour(surface, levels=9, extent=extent, colors="white", linewidths=0.5, alpha=0.7)
    elif stored:
        _write_note(ax, "no plane")
    _set_window(ax, window)


def _draw_norms(ax: Axes, stored: Arrays, color: str, edges: np.ndarray[Any, np.dtype[Any]]) -> None:
    norms = stored.get("gradient_norms")
    if norms is not None and np.isfinite(norms).any():
        values = np.clip(norms[np.isfinite(norms)], edges[0], edges[-1])
        counts, _ = np.histogram(values, edges)
        ax.stairs(counts / len(values), edges, color=color, fill=True, alpha=0.75)
    ax.axvline(1.0, color="#222222", lw=0.8, linestyle=(0, (3, 2)))
    if edges[0] > 0:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(numticks=4))
        ax.xaxis.set_major_formatter(lambda value, _: format_number(value))
        ax.minorticks_off()
    ax.set_xlim(edges[0], edges[-1])


def _set_window(ax: Axes, window: Window) -> None:
    ax.set_xlim(window[0], window[1])
    ax.set_ylim(window[2], window[3])


def _extent(stored: np.ndarray[Any, np.dtype[Any]]) -> Window:
    left, right, bottom, top = (float(end) for end in stored)
    return left, right, bottom, top


def _write_note(ax: Axes, words: str) -> None:
    ax.text(0.5, 0.5, words, transform=ax.transAxes, ha="center", va="center", size=8)


def _bin_edges(arrays: dict[str, Arrays]) -> np.ndarray[Any, np.dtype[Any]]:
    """Compute common bin edges for the norms of all treatments, geometric if their medians differ much."""
    found = [stored["gradient_norms"] for stored in arrays.values() if "gradient_norms" in stored]
    kept = [norms[np.isfinite(norms)] for norms in found if np.isfinite(norms).any()]
    if not kept:
        return np.linspace(0, 1.5, 41)
    medians = [float(np.median(norms)) for norms in kept]
    top = max(1.5, *(float(np.quantile(norms, 0.99)) for norms in kept))
    if min(medians) > 0 and max(1.0, *medians) / min(1.0, *medians) > LOG_BEYOND:
        low = min(0.5, *(float(np.quantile(norms, 0.01)) for norms in kept))
        return np.geomspace(max(low, 1e-6), top, 41)
    return np.linspace(0, top, 41)


def _window(arrays: dict[str, Arrays]) -> Window:
    """Compute the common limits of the plane: the extent of the surface, otherwise of the data."""
    for stored in arrays.values():
        if "extent" in stored:
            return _extent(stored["extent"])
    for stored in arrays.values():
        if "data" in stored:
            points = _plane(stored["data"])
            (x, y), (u, v) = points.min(axis=0), points.max(axis=0)
            return float(x) - 0.5, float(u) + 0.5, float(y) - 0.5, float(v) + 0.5
    return -2.0, 2.0, -2.0, 2.0


def _title(comparison: ComparisonGroup, arrays: dict[str, Arrays]) -> str:
    """Write the median norm of the critic's input gradient under each treatment."""
    medians = [
        f"{format_number(float(np.nanmedian(stored['gradient_norms'])), 2)} with {treatment}"
        for treatment, stored in arrays.items()
        if "gradient_norms" in stored and np.isfinite(stored["gradient_norms"]).any()
    ]
    if not medians:
        return f"Samples and critic of {comparison.label}, per treatment"
    return f"The critic's median input gradient norm is {join_words(medians)}"

"""Draw images that networks make, such as reconstructions or samples, beside those that they learn from.

A model shows images by storing ``images`` [N, C, H, W], and ``originals`` of such a shape to compare them with; and
``snapshots/images`` [E, N, C, H, W] of E evaluations over training. Pixels are in [0, 1], and C is 1 or 3.
"""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gradbench.report.analysis.comparison import ComparisonGroup
from gradbench.report.figures.panels import Context, Drawing, panels, wrapped_lines
from gradbench.report.render.formatting import format_number, format_strength

CAPTION = (
    "One panel per treatment at its chosen strength, from the completed seed whose metric is the median one, after "
    "the last evaluation. Originals are from the test part of the data; where networks reconstruct them, each "
    "reconstruction has the place of its original. Pixels beyond black and white are shown as these. If the "
    "treatments did nothing, the panels would look alike. A few images prove nothing: the answers above do."
)
CAPTION_SNAPSHOTS = (
    "One panel per treatment, as in the figure of images: from top to bottom after the steps that the panel names, "
    "each column from the same random input throughout. If the treatments did nothing, the panels would look alike."
)
MAX_IMAGES, MAX_PIXELS = 16, 256  # images of a panel, and pixels of an image's side
ABREAST, LEFT, GAP, BELOW = 4, 0.1, 0.2, 0.1  # panels of a row; inches
LARGEST = 1.75  # inches of a panel
ORIGINALS, SNAPSHOTS = "originals", "snapshots/images"
MAX_ROWS, MAX_COLUMNS = 5, 8  # of snapshots
Pixels = np.ndarray[Any, np.dtype[Any]]
Arrays = dict[str, Pixels]
Panel = tuple[str, Pixels | None]  # the lines below a panel's title, and its pixels


def draw(context: Context) -> list[Drawing]:
    """Draw one figure per comparison whose cells stored images, and one of those that they stored over training."""
    drawings: list[Drawing] = []
    shown = 0
    for comparison in context.comparisons:
        last, snapshots = _collect(context, comparison), _collect_snapshots(context, comparison)
        shown += bool(last or snapshots)
        number = f"-{shown}" if shown > 1 else ""
        if last:
            title = f"Images that the networks of {comparison.label} make, per treatment"
            drawings.append(_draw_figure(context, comparison, last, f"images{number}", title, CAPTION))
        if snapshots:
            title = f"How the images that the networks of {comparison.label} make change over training"
            name = f"images-over-training{number}"
            drawings.append(_draw_figure(context, comparison, snapshots, name, title, CAPTION_SNAPSHOTS))
    return drawings


def _collect(context: Context, comparison: ComparisonGroup) -> dict[str, Panel]:
    """Return the panels by their titles; nothing if no cell stored any images."""
    found: dict[str, Panel] = {}
    originals: Pixels | None = None
    for treatment, (below, stored) in _stored(context, comparison).items():
        found[treatment] = below, tile(stored["images"]) if "images" in stored else None
        if originals is None and ORIGINALS in stored:
            originals = tile(stored[ORIGINALS])
    if all(image is None for _, image in found.values()):
        return {}
    return ({} if originals is None else {ORIGINALS: ("", originals)}) | found


def _collect_snapshots(context: Context, comparison: ComparisonGroup) -> dict[str, Panel]:
    """Return the panels of images over training by their titles; nothing if no cell stored any."""
    found: dict[str, Panel] = {}
    for treatment, (below, stored) in _stored(context, comparison).items():
        steps = stored.get("snapshots/steps", np.zeros(0))[:MAX_ROWS].ravel()
        numbers = ", ".join(format_number(float(step)) for step in steps)
        lines = f"{below}\nsteps {numbers}" if numbers else below
        found[treatment] = lines, tile_snapshots(stored.get(SNAPSHOTS, np.zeros(0)))
    return found if any(image is not None for _, image in found.values()) else {}


def _stored(context: Context, comparison: ComparisonGroup) -> dict[str, tuple[str, Arrays]]:
    """Return the line below each treatment's title, and the arrays of its median cell."""
    found: dict[str, tuple[str, Arrays]] = {}
    for treatment in comparison.treatments:
        cell = comparison.median_cell(treatment)
        stored = context.results.arrays_of(str(cell["cell"])) if cell is not None else {}
        chosen = comparison.chosen_setting(treatment)
        strength = format_strength(chosen.quantity, [chosen.at])
        below = ", ".join(filter(None, (strength, f"seed {cell['seed']}" if cell is not None else "")))
        found[treatment] = below, stored
    return found


def tile_snapshots(images: Pixels) -> Pixels | None:
    """Arrange images with a row per evaluation, [E, N, C, H, W] -> [H', W', 3]; None if they are none."""
    if images.ndim != 5:
        return None
    shown = images[:MAX_ROWS, :MAX_COLUMNS]
    return tile(shown.reshape(-1, *shown.shape[2:]), shown.shape[1], MAX_ROWS * MAX_COLUMNS)


def tile(images: Pixels, columns: int | None = None, most: int = MAX_IMAGES) -> Pixels | None:
    """Arrange the first images in a square, or in columns, with white gaps, [N, C, H, W] -> [H', W', 3].

    None if they are no images.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype.kind not in "fiu":
        return None
    if not 0 < min(images.shape) <= max(images.shape[2:]) <= MAX_PIXELS:
        return None
    shown = np.clip(np.nan_to_num(images[:most].astype(float)), 0, 1)
    count, _, height, width = shown.shape
    side = columns or math.ceil(math.sqrt(count))
    gap = max(1, width // 16)
    tiled = np.ones((math.ceil(count / side) * (height + gap) - gap, side * (width + gap) - gap, 3))
    for place, image in enumerate(shown):
        y, x = place // side * (height + gap), place % side * (width + gap)
        tiled[y : y + height, x : x + width] = image.transpose(1, 2, 0)
    return tiled


def _draw_figure(
    context: Context,
    comparison: ComparisonGroup,
    found: dict[str, Panel],
    name: str,
    title: str,
    caption: str,
) -> Drawing:
    names = list(found)
    abreast = min(2 if context.layout.stacked else ABREAST, len(names))
    counts = [len(names[start : start + abreast]) for start in range(0, len(names), abreast)]
    size = min((context.layout.width - 2 * LEFT - GAP * (abreast - 1)) / abreast, LARGEST)
    right = context.layout.width - LEFT - size * abreast - GAP * (abreast - 1)
    ratio = max(image.shape[0] / image.shape[1] for _, image in found.values() if image is not None)
    titles = [wrapped_lines(size, treatment, *below.split("\n")) for treatment, (below, _) in found.items()]
    lines = [one.count("\n") + 1 for one in titles]
    figure, rows = panels(
        title, [comparison.label_with_seeds, *[""] * (len(counts) - 1)], counts, layout=context.layout,
        height=size * ratio, left=LEFT, right=right, gap=GAP, below=BELOW, abreast=abreast,
        titles=[max(lines[start : start + abreast]) for start in range(0, len(names), abreast)],
    )  # fmt: skip
    for ax, own, (_, image) in zip((ax for row in rows for ax in row), titles, found.values(), strict=True):
        ax.set_title(own, loc="left", size=8)
        _draw_image(ax, image)
    alt = f"Images in a square per treatment. {title}"
    return Drawing(name, title, caption, alt, "", figure)


def _draw_image(ax: Axes, image: Pixels | None) -> None:
    ax.set_axis_off()
    if image is None:
        ax.text(0.5, 0.5, "no images", transform=ax.transAxes, ha="center", va="center", size=8)
    else:
        ax.imshow(image, interpolation="nearest")

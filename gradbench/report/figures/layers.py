"""Draw the norm of a critic's gradient by layer, and histograms of its weights."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from gradbench.report.analysis.comparison import ComparisonGroup, Setting
from gradbench.report.figures.panels import (
    MAX_NAME,
    WIDTH,
    Context,
    Drawing,
    axis_limits,
    column_titles,
    darker,
    label_ends,
    panels,
    set_log_axis,
)
from gradbench.report.figures.style import GLYPHS
from gradbench.report.render.formatting import (
    format_number,
    format_setting,
    join_words,
    shorten,
)
from gradbench.stats.intervals import Floats, mean_interval

CAPTION = (
    "Top: the norm of the gradient of the critic's value with respect to the activations of each hidden layer, "
    "geometric means over seeds with 95% Student t intervals of their logarithms. Read from left to right, as the "
    "gradient runs: from the output back to the input. A level line reaches the first layer unchanged, a rising one "
    "explodes, a falling one vanishes; it ends where the norm is zero. Bottom: all of the critic's parameters at the "
    "chosen strength, summed over seeds, from minus to plus the largest; clipped ones pile up at both ends. If the "
    "treatments did nothing, the lines would lie on each other and the histograms look alike. After Gulrajani et al. "
    "2017, Figure 1b."
)
LEFT, GAP, RIGHT, WIDEST = 0.72, 0.16, 1.85, 2.0  # inches
LABEL = 26  # characters of a line's label
MAX_LINES = 10  # lines of a panel; if there are more settings, three per treatment
Norms = dict[Setting, Floats]  # log10 of norms, [seeds, layers]


def draw(context: Context) -> list[Drawing]:
    """Draw one figure per comparison whose cells stored gradients of two layers or more."""
    drawings: list[Drawing] = []
    for comparison in context.comparisons:
        norms = {
            setting: _log_norms(context, comparison, setting) for setting in _choose_settings(comparison)
        }
        found = {setting: logs for setting, logs in norms.items() if logs.shape[-1] > 1}
        if found:
            name = f"layers-{len(drawings) + 1}" if drawings else "layers"
            drawings.append(_draw_figure(context, comparison, found, name))
    return drawings


def _choose_settings(comparison: ComparisonGroup) -> list[Setting]:
    """Choose the settings to draw: all, or each treatment's least, chosen and greatest strength."""
    shown: list[Setting] = []
    if len(comparison.settings) <= MAX_LINES:
        return comparison.settings
    for treatment in comparison.treatments:
        own = [setting for setting in comparison.settings if setting.treatment == treatment]
        own.sort(key=lambda setting: (setting.strength or 0.0, setting.strengths))
        shown += dict.fromkeys((own[0], comparison.chosen_setting(treatment), own[-1]))
    return shown


def _log_norms(context: Context, comparison: ComparisonGroup, setting: Setting) -> Floats:
    """Read log10 of the norms [seeds, layers] of the seeds that stored them; nan where a norm is zero."""
    stored = [context.results.arrays_of(str(cell)) for cell in comparison.cells_at(setting)["cell"]]
    rows = [arrays["layer_gradients"].astype(float) for arrays in stored if "layer_gradients" in arrays]
    layers = max((row.size for row in rows if row.ndim == 1), default=0)
    whole = [row for row in rows if row.shape == (layers,)]
    kept = np.array(whole).reshape(len(whole), layers)
    return np.log10(np.where(np.isfinite(kept) & (kept > 0), kept, np.nan))


def _draw_figure(context: Context, comparison: ComparisonGroup, norms: Norms, name: str) -> Drawing:
    """Draw one comparison: gradient norms by layer above, histograms of weights below."""
    treatments = list(dict.fromkeys(setting.treatment for setting in norms))
    title = _title(norms)
    width = min((WIDTH - LEFT - 0.2 - GAP * (len(treatments) - 1)) / len(treatments), WIDEST)
    right = WIDTH - LEFT - width * len(treatments) - GAP * (len(treatments) - 1)
    titles, most = column_titles(comparison, treatments, width)
    headings = [f"{comparison.label_with_seeds}: gradient by layer", "the critic's parameters"]
    figure, (first, below) = panels(
        title, headings, len(treatments), height=1.9, left=LEFT, right=right, gap=GAP, titles=[0, most]
    )
    for ax in first[1:]:
        ax.remove()
    box = first[0].get_position()
    first[0].set_position((box.x0, box.y0, (WIDTH - LEFT - RIGHT) / WIDTH, box.height))
    _draw_lines(first[0], context, norms)
    for ax, treatment in zip(below, treatments, strict=True):
        ax.set_title(titles[treatment], loc="left", size=8)
        _draw_weights(ax, context, comparison, comparison.chosen_setting(treatment))
    alt = f"Norm of the critic's gradient by layer, and histograms of its parameters, per treatment. {title}"
    return Drawing(name, title, CAPTION, alt, "", figure)


def _draw_lines(ax: Axes, context: Context, norms: Norms) -> None:
    """Draw a line with intervals per setting, from the last layer to the first, labelled at its end."""
    ends, values = [], []
    for setting, logs in norms.items():
        look = context.looks[setting.treatment]
        intervals = [mean_interval(column) for column in logs.T]
        mean, low, high = (
            10 ** np.array([getattr(interval, end) for interval in intervals])
            for end in ("estimate", "low", "high")
        )
        layers = np.arange(1, len(mean) + 1)
        error = np.nan_to_num(np.array([mean - low, high - mean]))
        ax.errorbar(
            layers, mean, yerr=error, color=look.color, linestyle=look.dash, marker=look.marker,
            markersize=4, elinewidth=0.8,
        )  # fmt: skip
        reached = mean[np.isfinite(mean)]
        if len(reached):
            values += [*reached]
            where = _label_of(setting)
            ends.append((reached[0], f"{GLYPHS.get(look.marker, '●')} {where}", darker(look.color)))
    set_log_axis(ax, *axis_limits(values, log=True))
    ax.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    ax.set_xlim(max(len(logs.T) for logs in norms.values()) + 0.3, 0.7)
    ax.set_xlabel("hidden layer, from the last one back to the first")
    ax.set_ylabel("gradient norm")
    label_ends(ax, ends)


def _label_of(setting: Setting) -> str:
    """Write a label: ``gp at λ = 10``; of a long composition only the numbers, ``gp_zero+clip… 1, 0.1, 10``."""
    if not setting.strengths:
        name = shorten(setting.treatment, MAX_NAME)
        return shorten(format_setting(name, setting.quantity, [setting.at]), LABEL)
    words = format_setting(setting.treatment, setting.quantity, [setting.at])
    numbers = ", ".join(map(format_number, setting.strengths))
    return (
        words if len(words) <= LABEL else f"{shorten(setting.treatment, LABEL - len(numbers) - 1)} {numbers}"
    )


def _draw_weights(ax: Axes, context: Context, comparison: ComparisonGroup, setting: Setting) -> None:
    """Draw the sum of the histograms of a setting's seeds, on an axis up to the largest parameter."""
    stored = [context.results.arrays_of(str(cell)) for cell in comparison.cells_at(setting)["cell"]]
    found = [
        (arrays["weights/edges"].astype(float), arrays["weights/counts"].astype(float))
        for arrays in stored
        if {"weights/edges", "weights/counts"} <= arrays.keys()
    ]
    sound = [(edges, counts) for edges, counts in found if edges.shape == (len(counts) + 1,)]
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.xaxis.set_major_locator(MaxNLocator(3, symmetric=True))
    if not sound:
        ax.text(0.5, 0.5, "no seed\ncompleted", transform=ax.transAxes, ha="center", va="center", size=8)
        return
    reach = max(float(np.abs(edges).max()) for edges, _ in sound)
    bins = np.linspace(-reach, reach, max(len(counts) for _, counts in sound) + 1)
    total = sum(
        np.histogram((edges[1:] + edges[:-1]) / 2, bins, weights=counts)[0] for edges, counts in sound
    )
    ax.stairs(total, bins, color=context.looks[setting.treatment].color, fill=True, alpha=0.75)
    ax.set_ylim(0, None)
    ax.set_xlabel("parameter")


def _title(norms: Norms) -> str:
    """Name the settings under which the gradient changes most and least from the last layer to the first."""
    means = {s: mean_interval(logs[:, 0] - logs[:, -1]).estimate for s, logs in norms.items()}
    change = {setting: value for setting, value in means.items() if np.isfinite(value)}
    if not change:
        return "No gradient reached the critic's first layer"
    least, most = (pick(change, key=lambda s: abs(change[s])) for pick in (min, max))

    def describe(setting: Setting) -> str:
        factor = format_number(float(10 ** abs(change[setting])), 2)
        times = "no" if factor == "1" else f"{factor} times"
        size = "larger" if change[setting] > 0 else "smaller"
        return f"{times} {size} with {format_setting(setting.treatment, setting.quantity, [setting.at])}"

    named = [describe(setting) for setting in dict.fromkeys((most, least))]
    return f"On its way to the first layer the critic's gradient gets {join_words(named)}"

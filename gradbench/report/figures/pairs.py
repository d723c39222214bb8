"""Draw the final metric of a composition for each pair of strengths, as a heat map."""

import numpy as np
from matplotlib.axes import Axes

from gradbench.config.composite import JOINT
from gradbench.report.analysis.comparison import CONTROL, ComparisonGroup, Setting
from gradbench.report.figures.panels import Context, Drawing, panels
from gradbench.report.figures.style import INK, STRIP
from gradbench.report.load.cells import NONE
from gradbench.report.render.formatting import (
    SYMBOLS,
    cap_list,
    format_interval,
    format_number,
    format_setting,
    join_words,
    shorten,
)

PER_ROW = 2  # panels
ROW = 0.34  # inches per line of a map
MAX_STRENGTHS = 10  # of a part, whose numbers have room in a map

CAPTION = (
    "One map per composition of two treatments: each field is a pair of strengths, its number the mean of the metric "
    "over the seeds that completed, and darker is better. A frame marks the best pair seen, which is partly luck; the "
    "answer box judges on seeds that had no say. A second line counts the cells that diverged (div.), of those that "
    "ran. The table below has the intervals. If the second treatment did nothing, each line would have one shade."
)


def draw(context: Context) -> list[Drawing]:
    """Draw the maps of each comparison; none where no composition has two strengths."""
    rows = [
        (comparison, listed[start : start + PER_ROW])
        for comparison in context.comparisons
        for listed in [list_pairs(comparison)]
        for start in range(0, len(listed), PER_ROW)
    ]
    if not rows:
        return []
    best = [_name_best(comparison, treatment) for comparison, treatments in rows for treatment in treatments]
    title = f"Of each pair of strengths, the best: {join_words(cap_list(best))}"
    lines = max(len(_axes_of(comparison, one)[0]) for comparison, treatments in rows for one in treatments)
    figure, axes = panels(
        title,
        [_heading(comparison) for comparison, _ in rows],
        PER_ROW,
        height=max(1.2, ROW * lines),
        left=0.9,
        gap=0.9,
        titles=[1] * len(rows),
    )
    for (comparison, treatments), line in zip(rows, axes, strict=True):
        for ax in line[len(treatments) :]:
            ax.set_visible(False)
        for ax, treatment in zip(line, treatments, strict=False):
            _draw_map(ax, comparison, treatment)
    alt = f"Heat maps of the final metric for pairs of strengths. {title}"
    return [Drawing("pairs", title, CAPTION, alt, "strengths.csv", figure)]


def list_pairs(comparison: ComparisonGroup) -> list[str]:
    """List the treatments with two strengths, not too many of either."""
    found = []
    for treatment in comparison.treatments:
        numbers = [setting.strengths for setting in comparison.settings if setting.treatment == treatment]
        axes = [set(values) for values in zip(*numbers, strict=True)]
        if len(axes) == 2 and 1 < max(map(len, axes)) <= MAX_STRENGTHS:
            found.append(treatment)
    return found


def _axes_of(comparison: ComparisonGroup, treatment: str) -> tuple[list[float], list[float]]:
    """Return the strengths of the first and of the second part that were run, sorted."""
    pairs = [setting.strengths for setting in comparison.settings if setting.treatment == treatment]
    first, second = (sorted(set(values)) for values in zip(*pairs, strict=True))
    return first, second


def _settings_of(comparison: ComparisonGroup, treatment: str) -> dict[Setting, float]:
    """Return the settings of a treatment with the means of their completed cells; nan where none is."""
    own = [setting for setting in comparison.settings if setting.treatment == treatment]
    return {setting: comparison.mean(setting).estimate for setting in own}


def _best_of(comparison: ComparisonGroup, treatment: str) -> Setting | None:
    """Return the pair with the best mean; None where no cell completed."""
    means = {one: mean for one, mean in _settings_of(comparison, treatment).items() if np.isfinite(mean)}
    sign = -1 if comparison.goal == "max" else 1
    return min(means, key=lambda setting: sign * means[setting]) if means else None


def _name_best(comparison: ComparisonGroup, treatment: str) -> str:
    """Name the best pair of a composition and its mean."""
    best = _best_of(comparison, treatment)
    if best is None:
        return f"none of {treatment} completed for {comparison.label}"
    mean = format_number(comparison.mean(best).estimate)
    return f"{format_setting(treatment, best.quantity, [best.at])} for {comparison.label} ({mean})"


def _heading(comparison: ComparisonGroup) -> str:
    """Write the heading of a row: what the metric is without a treatment."""
    found = f"{comparison.label_with_seeds}: {comparison.unit}"
    if NONE not in comparison.treatments:
        return found
    return f"{found}; none has {format_interval(comparison.mean(CONTROL))}"


def _draw_map(ax: Axes, comparison: ComparisonGroup, treatment: str) -> None:
    """Draw the map of one composition: lines are the strengths of its first part, columns those of its second."""
    settings, (first, second) = _settings_of(comparison, treatment), _axes_of(comparison, treatment)
    means = np.full((len(first), len(second)), np.nan)
    for setting, mean in settings.items():
        means[first.index(setting.strengths[0]), second.index(setting.strengths[1])] = mean
    known = means[np.isfinite(means)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    shades = (means - low) / ((high - low) or 1.0)
    if comparison.goal != "max":
        shades = 1 - shades
    ax.set_facecolor(STRIP)
    ax.imshow(shades, cmap="Blues", vmin=-0.15, vmax=1.25, aspect="auto", origin="lower")
    best = _best_of(comparison, treatment)
    for setting, mean in settings.items():
        line, column = first.index(setting.strengths[0]), second.index(setting.strengths[1])
        words = format_number(mean) + _count_diverged(comparison, setting)
        dark = shades[line, column] > 0.6
        weight = "bold" if setting == best else "normal"
        ax.text(
            column, line, words, ha="center", va="center", size=8 if len(second) < 6 else 6.5, weight=weight,
            color="white" if dark else INK, linespacing=0.95,
        )  # fmt: skip
        if setting == best:
            edges = [column - 0.46, column + 0.46], [line - 0.44, line + 0.44]
            ax.plot(
                [edges[0][i] for i in (0, 1, 1, 0, 0)], [edges[1][i] for i in (0, 0, 1, 1, 0)], color=INK, lw=1.3
            )  # fmt: skip
    ax.grid(visible=False)
    ax.set_xticks(range(len(second)), list(map(format_number, second)))
    ax.set_yticks(range(len(first)), list(map(format_number, first)))
    names = [_name_strength(key) for key in next(iter(settings)).quantity.split(JOINT)]
    ax.set_ylabel(shorten(names[0], 24))
    ax.set_xlabel(shorten(names[1], 40))
    ax.set_title(shorten(treatment, 44), loc="left")


def _name_strength(key: str) -> str:
    """Write ``gp λ`` or ``clip_norm threshold``."""
    part, _, name = key.partition(".")
    return f"{part} {SYMBOLS.get(name, name)}"


def _count_diverged(comparison: ComparisonGroup, setting: Setting) -> str:
    """Write how many cells diverged, as a second line: ``1/3 div.``; empty where none did."""
    statuses = comparison.cells_at(setting)["status"]
    lost, ran = int((statuses == "diverged").sum()), int((statuses != "failed").sum())
    return f"\n{lost}/{ran} div." if lost else ""

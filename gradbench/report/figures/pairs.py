"""Draw the final metric of a composition for each pair of strengths, as a heat map."""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

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
    format_strength,
    join_words,
    shorten,
)

PER_ROW = 2  # panels
ROW = 0.34  # inches per line of a map
MAX_STRENGTHS = 10  # of a part, whose numbers have room in a map

CAPTION = (
    "One map per composition of two treatments, and one per pair of parts where there are more: there all other "
    "strengths are those of the best setting seen, which the second line of its title says. Each field is a pair of "
    "strengths, its number the mean of the metric over the seeds that completed, and darker is better. A frame marks "
    "the best pair seen, which is partly luck; the answers allow for that. A second line counts the cells that "
    "diverged (div.), of those that ran. The table below has the intervals. If the second treatment did nothing, each "
    "line would have one shade."
)


@dataclass(frozen=True)
class PairMap:
    """The settings of a composition that differ in two of its strengths alone.

    Attributes:
        comparison: what they are part of.
        treatment: the composition.
        names: of both strengths, such as ``gp λ``.
        others: the other strengths, such as ``weight_clip 1``; empty if there are none.
        settings: values of both strengths -> setting.
    """

    comparison: ComparisonGroup
    treatment: str
    names: tuple[str, str]
    others: str
    settings: dict[tuple[float, float], Setting]

    @property
    def axes(self) -> tuple[list[float], list[float]]:
        """The strengths of the first and of the second part that were run, sorted."""
        first, second = (sorted(set(values)) for values in zip(*self.settings, strict=True))
        return first, second

    @cached_property
    def means(self) -> dict[tuple[float, float], float]:
        """The means of the completed cells; nan where none is."""
        return {pair: self.comparison.mean(one).estimate for pair, one in self.settings.items()}

    @property
    def best(self) -> tuple[float, float] | None:
        """The pair with the best mean; None where no cell completed."""
        finite = {pair: mean for pair, mean in self.means.items() if np.isfinite(mean)}
        sign = -1 if self.comparison.goal == "max" else 1
        return min(finite, key=lambda pair: sign * finite[pair]) if finite else None


def draw(context: Context) -> list[Drawing]:
    """Draw the maps of each comparison; none where no composition has two strengths."""
    rows = [
        (comparison, listed[start : start + PER_ROW])
        for comparison in context.comparisons
        for listed in [list_maps(comparison)]
        for start in range(0, len(listed), PER_ROW)
    ]
    if not rows:
        return []
    maps = [one for _, row in rows for one in row]
    best = dict.fromkeys(_name_best(one) for one in maps)
    title = f"Of each pair of strengths, the best: {join_words(cap_list([*best]))}"
    figure, axes = panels(
        title,
        [_heading(comparison) for comparison, _ in rows],
        PER_ROW,
        height=max(1.2, ROW * max(len(one.axes[0]) for one in maps)),
        left=0.9,
        gap=0.9,
        titles=[2 if any(one.others for one in row) else 1 for _, row in rows],
    )
    for (_, row), line in zip(rows, axes, strict=True):
        for ax in line[len(row) :]:
            ax.set_visible(False)
        for ax, one in zip(line, row, strict=False):
            _draw_map(ax, one)
    alt = f"Heat maps of the final metric for pairs of strengths. {title}"
    return [Drawing("pairs", title, CAPTION, alt, "strengths.csv", figure)]


def list_maps(comparison: ComparisonGroup) -> list[PairMap]:
    """List the maps of all compositions: of both strengths, or of any two that were varied of more."""
    found = []
    for treatment in comparison.treatments:
        settings = [setting for setting in comparison.settings if setting.treatment == treatment]
        counts = [len(set(values)) for values in zip(*(one.strengths for one in settings), strict=True)]
        for pair in combinations(range(len(counts)), 2):
            of_pair = [counts[place] for place in pair]
            varied = max(of_pair) > 1 if len(counts) == 2 else min(of_pair) > 1
            if varied and max(of_pair) <= MAX_STRENGTHS:
                found.append(_map_of(comparison, treatment, pair))
    return found


def _map_of(comparison: ComparisonGroup, treatment: str, pair: tuple[int, int]) -> PairMap:
    """Return the map of two strengths, given by their places; all others are those of the chosen setting."""
    chosen = comparison.chosen_setting(treatment)
    keys = chosen.quantity.split(JOINT)
    others = [place for place in range(len(keys)) if place not in pair]
    settings = {
        (setting.strengths[pair[0]], setting.strengths[pair[1]]): setting
        for setting in comparison.settings
        if setting.treatment == treatment
        and all(setting.strengths[place] == chosen.strengths[place] for place in others)
    }
    fixed = " + ".join(format_strength(keys[place], [(chosen.strengths[place],)]) for place in others)
    names = _name_strength(keys[pair[0]]), _name_strength(keys[pair[1]])
    return PairMap(comparison, treatment, names, fixed, settings)


def _name_best(one: PairMap) -> str:
    """Name the best pair of a map and its mean."""
    if one.best is None:
        return f"none of {one.treatment} completed for {one.comparison.label}"
    setting, mean = one.settings[one.best], format_number(one.means[one.best])
    return (
        f"{format_setting(one.treatment, setting.quantity, [setting.at])} for {one.comparison.label} ({mean})"
    )


def _heading(comparison: ComparisonGroup) -> str:
    """Write the heading of a row: what the metric is without a treatment."""
    found = f"{comparison.label_with_seeds}: {comparison.unit}"
    if NONE not in comparison.treatments:
        return found
    return f"{found}; none has {format_interval(comparison.mean(CONTROL))}"


def _draw_map(ax: Axes, one: PairMap) -> None:
    """Draw a map: lines are the strengths of its first part, columns those of its second."""
    first, second = one.axes
    means = np.full((len(first), len(second)), np.nan)
    for (a, b), mean in one.means.items():
        means[first.index(a), second.index(b)] = mean
    known = means[np.isfinite(means)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    shades = (means - low) / ((high - low) or 1.0)
    if one.comparison.goal != "max":
        shades = 1 - shades
    ax.set_facecolor(STRIP)
    ax.imshow(shades, cmap="Blues", vmin=-0.15, vmax=1.25, aspect="auto", origin="lower")
    for (a, b), setting in one.settings.items():
        line, column = first.index(a), second.index(b)
        words = format_number(means[line, column]) + _count_diverged(one.comparison, setting)
        dark, is_best = shades[line, column] > 0.6, (a, b) == one.best
        ax.text(
            column, line, words, ha="center", va="center", size=8 if len(second) < 6 else 6.5,
            weight="bold" if is_best else "normal", color="white" if dark else INK, linespacing=0.95,
        )  # fmt: skip
        if is_best:
            edges = [column - 0.46, column + 0.46], [line - 0.44, line + 0.44]
            ax.plot(
                [edges[0][i] for i in (0, 1, 1, 0, 0)], [edges[1][i] for i in (0, 0, 1, 1, 0)], color=INK, lw=1.3
            )  # fmt: skip
    ax.grid(visible=False)
    ax.set_xticks(range(len(second)), list(map(format_number, second)))
    ax.set_yticks(range(len(first)), list(map(format_number, first)))
    ax.set_ylabel(shorten(one.names[0], 24))
    ax.set_xlabel(shorten(one.names[1], 40))
    under = f"\nwith {shorten(one.others, 40)}" if one.others else ""
    ax.set_title(f"{shorten(one.treatment, 44)}{under}", loc="left")


def _name_strength(key: str) -> str:
    """Write ``gp λ`` or ``clip_norm threshold``."""
    part, _, name = key.partition(".")
    return f"{part} {SYMBOLS.get(name, name)}"


def _count_diverged(comparison: ComparisonGroup, setting: Setting) -> str:
    """Write how many cells diverged, as a second line: ``1/3 div.``; empty where none did."""
    statuses = comparison.cells_at(setting)["status"]
    lost, ran = int((statuses == "diverged").sum()), int((statuses != "failed").sum())
    return f"\n{lost}/{ran} div." if lost else ""

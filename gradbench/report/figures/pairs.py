"""Draw the final metric over two axes as heat maps: two strengths of a composition, or a strength and a swept key."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradbench.config.composite import JOINT
from gradbench.report.analysis.comparison import CONTROL, ComparisonGroup, Setting
from gradbench.report.figures.panels import Context, Drawing, panels, title_lines, width_of, wrap_name
from gradbench.report.figures.style import INK, STRIP
from gradbench.report.load.cells import NONE, config_columns
from gradbench.report.render.formatting import (
    SYMBOLS,
    cap_list,
    format_interval,
    format_number,
    format_setting,
    join_words,
)

PER_ROW = 2  # panels
ROW = 0.34  # inches per line of a map
MAX_STRENGTHS = 10  # of an axis, whose numbers have room in a map
MAX_MAPS = 8
SMALLEST = 5.0  # points of a number that can be read

HOW_TO_READ = (
    "Each field's number is the mean of the metric over the seeds that completed, and darker is better. A frame marks "
    "the best one seen (fewest diverged runs, then the best mean), which is partly luck. A second line counts the runs "
    "that diverged (div.), of those that ran. tables/strengths.csv has the intervals. "
)
PAIRS = (
    f"One map per composition of two treatments: each field is a pair of strengths, or one of them without the "
    f"other. {HOW_TO_READ}If the second treatment did nothing, each line would have one shade."
)
KEYS = f"One map per treatment: up its strength, across a key that was swept too. {HOW_TO_READ}" + (
    "If the treatment did nothing, each column would have one shade."
)

Place = tuple[int, int]  # row from the bottom, column


@dataclass(frozen=True)
class HeatMap:
    """A map: its heading and title, the names and labels of its axes, and the setting of each field."""

    heading: str
    title: str
    names: tuple[str, str]
    labels: tuple[list[str], list[str]]
    fields: dict[Place, tuple[ComparisonGroup, Setting]]

    @property
    def best(self) -> Place | None:
        """The field with the fewest diverged runs, then the best mean; None where no run completed."""
        standing = {}
        for place, (comparison, setting) in self.fields.items():
            mean = comparison.mean(setting).estimate
            if np.isfinite(mean):
                lost, ran = _count_lost(comparison, setting)
                standing[place] = lost / ran, comparison.sign * mean
        return min(standing, key=lambda place: standing[place]) if standing else None


def draw(context: Context) -> list[Drawing]:
    """Draw a figure of pairs of strengths, and one of strengths and keys; none where there is no second axis."""
    pairs = [map_pairs(c, treatment) for c in context.comparisons for treatment in list_pairs(c)]
    found = []
    if pairs:
        title = f"Of each pair of strengths, the best: {_name_best(pairs)}"
        alt = f"Heat maps of the final metric for pairs of strengths. {title}"
        found.append(Drawing("pairs", title, PAIRS, alt, "strengths.csv", _draw_maps(context, title, pairs)))
    keys = map_keys(context.every)[:MAX_MAPS]
    if keys:
        title = f"Of each strength and swept key, the best: {_name_best(keys)}"
        alt = f"Heat maps of the final metric for strengths and a swept key. {title}"
        found.append(Drawing("keys", title, KEYS, alt, "strengths.csv", _draw_maps(context, title, keys)))
    return found


def list_pairs(comparison: ComparisonGroup) -> list[str]:
    """List the treatments with two strengths, not too many of either."""
    found = []
    for treatment in comparison.treatments:
        numbers = [setting.strengths for setting in comparison.settings if setting.treatment == treatment]
        axes = [set(values) for values in zip(*numbers, strict=True)]
        if len(axes) == 2 and 1 < max(map(len, axes)) <= MAX_STRENGTHS:
            found.append(treatment)
    return found


def map_pairs(comparison: ComparisonGroup, treatment: str) -> HeatMap:
    """Map a composition: lines are the strengths of its first part, columns those of its second.

    Where a part was run alone, it stands in the line or column without the other.
    """
    own = [setting for setting in comparison.settings if setting.treatment == treatment]
    keys = own[0].quantity.split(JOINT)
    alone = [_find_alone(comparison, key) for key in keys]
    strengths: list[list[float | None]] = [
        [*([None] if other else []), *sorted({*values, *lone})]
        for values, lone, other in zip(
            zip(*(one.strengths for one in own), strict=True), alone, reversed(alone), strict=True
        )
    ]
    found: dict[tuple[float | None, ...], Setting] = {one.strengths: one for one in own}
    found |= {(strength, None): one for strength, one in alone[0].items()}
    found |= {(None, strength): one for strength, one in alone[1].items()}
    heading = f"{comparison.label_with_seeds}: {comparison.unit}"
    if NONE in comparison.treatments:
        heading += f"; none has {format_interval(comparison.mean(CONTROL))}"
        found |= {(None, None): CONTROL} if all(alone) else {}
    return HeatMap(
        heading,
        treatment,
        (_name_strength(keys[0]), _name_strength(keys[1])),
        (_label_strengths(strengths[0]), _label_strengths(strengths[1])),
        {
            (strengths[0].index(line), strengths[1].index(column)): (comparison, one)
            for (line, column), one in found.items()
        },
    )


def _find_alone(comparison: ComparisonGroup, key: str) -> dict[float, Setting]:
    """Return the settings of a part of a composition, run alone, by their strengths."""
    part, _, quantity = key.partition(".")
    return {
        one.strength: one
        for one in comparison.settings
        if (one.treatment, one.quantity) == (part, quantity) and one.strength is not None
    }


def _label_strengths(strengths: Sequence[float | None]) -> list[str]:
    return ["without" if one is None else format_number(one) for one in strengths]


def map_keys(comparisons: Sequence[ComparisonGroup]) -> list[HeatMap]:
    """Map each treatment over its strengths and each number that was swept beside, of every model."""
    found = []
    for model in dict.fromkeys(comparison.model for comparison in comparisons):
        own = [comparison for comparison in comparisons if comparison.model == model]
        rows = pd.concat([comparison.cells.iloc[:1] for comparison in own], ignore_index=True)
        leaves = [
            leaf
            for leaf in config_columns(rows)
            if leaf != "seed" and not leaf.startswith("regularizer") and rows[leaf].astype(str).nunique() > 1
        ]
        for key in leaves:
            if not pd.api.types.is_numeric_dtype(rows[key]) or rows[key].isna().any():
                continue
            texts = rows[leaves].astype(str)
            others = [leaf for leaf in leaves if texts.groupby(key)[leaf].nunique().max() > 1]
            families = texts.groupby(others, sort=False).indices.values() if others else [range(len(own))]
            for places in families:
                family = {float(rows[key].iloc[place]): own[place] for place in places}
                found += _map_family(key, dict(sorted(family.items())))
    return found


def _map_family(key: str, family: dict[float, ComparisonGroup]) -> list[HeatMap]:
    """Map the treatments of comparisons that differ in one key, from value to comparison; lines are strengths."""
    found = []
    for treatment in dict.fromkeys(name for group in family.values() for name in group.treatments):
        having = {value: group for value, group in family.items() if treatment in group.treatments}
        groups = list(having.values())
        if not 1 < len(groups) <= MAX_STRENGTHS:
            continue
        settings = dict.fromkeys(
            one for group in groups for one in group.settings if one.treatment == treatment
        )
        numbers = sorted(
            (one for one in settings if one.strength is not None), key=lambda one: one.strength or 0
        )
        if not 1 < len(numbers) < MAX_STRENGTHS or len({one.quantity for one in numbers}) > 1:
            continue
        lines = [CONTROL, *numbers] if any(NONE in group.treatments for group in groups) else numbers
        fields = {
            (line, column): (group, setting)
            for column, group in enumerate(groups)
            for line, setting in enumerate(lines)
            if len(group.cells_at(setting))
        }
        found.append(
            HeatMap(
                f"{groups[0].model}: {groups[0].unit}, by {key}",
                treatment,
                (_name_strength(f"{treatment}.{numbers[0].quantity}"), key.rsplit(".", 1)[-1]),
                (
                    [NONE if one == CONTROL else format_number(one.strength or 0.0) for one in lines],
                    list(map(format_number, having)),
                ),
                fields,
            )
        )
    return found


def _name_best(maps: Sequence[HeatMap]) -> str:
    """Name the best field of each map, and its mean."""
    words = []
    for one in maps:
        if one.best is None:
            words.append(f"none of {one.title} completed for {next(iter(one.fields.values()))[0].label}")
            continue
        comparison, best = one.fields[one.best]
        mean = format_number(comparison.mean(best).estimate)
        words.append(
            f"{format_setting(best.treatment, best.quantity, [best.at])} for {comparison.label} ({mean})"
        )
    return join_words(cap_list(list(dict.fromkeys(words))))


def _draw_maps(context: Context, title: str, maps: Sequence[HeatMap]) -> Figure:
    """Draw maps below their headings, two in a row."""
    groups: dict[str, list[HeatMap]] = {}
    for one in maps:
        groups.setdefault(one.heading, []).append(one)
    rows = [own[start : start + PER_ROW] for own in groups.values() for start in range(0, len(own), PER_ROW)]
    lines = max(len(one.labels[0]) for one in maps)
    figure, axes = panels(
        title, [row[0].heading for row in rows], list(map(len, rows)), layout=context.layout,
        height=max(1.2, ROW * lines), left=0.9, gap=0.9, titles=[1] * len(rows),
    )  # fmt: skip
    for row, spots in zip(rows, axes, strict=True):
        for one, ax in zip(row, spots, strict=True):
            _draw_map(ax, one)
    return figure


def _draw_map(ax: Axes, given: HeatMap) -> None:
    """Draw one map."""
    lines, columns = given.labels
    means = np.full((len(lines), len(columns)), np.nan)
    for place, (comparison, setting) in given.fields.items():
        means[place] = comparison.mean(setting).estimate
    known = means[np.isfinite(means)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    shades = (means - low) / ((high - low) or 1.0)
    if next(iter(given.fields.values()))[0].goal != "max":
        shades = 1 - shades
    ax.set_facecolor(STRIP)
    ax.imshow(shades, cmap="Blues", vmin=-0.15, vmax=1.25, aspect="auto", origin="lower")
    texts = {
        place: format_number(means[place]) + _say_diverged(comparison, setting)
        for place, (comparison, setting) in given.fields.items()
    }
    longest = max(len(line) for words in texts.values() for line in words.split("\n"))
    size = min(8.0, 72 * width_of(ax) / len(columns) / (0.66 * longest))
    for (line, column), words in texts.items():
        is_best = (line, column) == given.best
        if size >= SMALLEST or is_best:
            ax.text(
                column, line, words, ha="center", va="center", size=max(size, SMALLEST), linespacing=0.95,
                weight="bold" if is_best else "normal", color="white" if shades[line, column] > 0.6 else INK,
            )  # fmt: skip
        if is_best:
            x, y = (column - 0.46, column + 0.46), (line - 0.44, line + 0.44)
            ax.plot([x[i] for i in (0, 1, 1, 0, 0)], [y[i] for i in (0, 0, 1, 1, 0)], color=INK, lw=1.3)
    ax.grid(visible=False)
    ax.set_xticks(range(len(columns)), columns, rotation=0 if sum(map(len, columns)) < 30 else 90)
    ax.set_yticks(range(len(lines)), lines)
    ax.set_ylabel(wrap_name(given.names[0], 24))
    ax.set_xlabel(wrap_name(given.names[1], 40))
    ax.set_title(title_lines(ax, given.title), loc="left")


def _name_strength(key: str) -> str:
    """Write ``gp λ`` or ``clip_norm threshold``."""
    part, _, name = key.rpartition(".")
    return f"{part} {SYMBOLS.get(name, name)}"


def _count_lost(comparison: ComparisonGroup, setting: Setting) -> tuple[int, int]:
    """Count the diverged runs of a setting, and those that ran."""
    statuses = comparison.cells_at(setting)["status"]
    return int((statuses == "diverged").sum()), int((statuses != "failed").sum())


def _say_diverged(comparison: ComparisonGroup, setting: Setting) -> str:
    """Write how many runs diverged, as a second line: ``1/3 div.``; empty where none did."""
    lost, ran = _count_lost(comparison, setting)
    return f"\n{lost}/{ran} div." if lost else ""

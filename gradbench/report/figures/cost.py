"""Draw the time of a step relative to ``none``."""

from statistics import median

from gradbench.report.analysis.comparison import ComparisonGroup
from gradbench.report.analysis.tables import relative_step_times
from gradbench.report.figures.panels import MAX_NAME, Context, Drawing, darker, label_margin, panels
from gradbench.report.load.cells import NONE
from gradbench.report.render.formatting import cap_list, format_number, join_words, shorten

CAPTION = (
    "Time per step and cell over the median of none in the same group; the large marker is the median, "
    "the small ones are single timings. Cells that were trained together share one stopwatch, so a timing "
    "is a stack and not a seed, and there is no interval: treatments that share a stack are equal by "
    'construction, and small differences between stacks are chance. The command "gradbench cost" '
    "measures the treatments interleaved. A treatment that cost nothing would lie on the line at 1."
)


def draw(context: Context) -> list[Drawing]:
    """Draw a row per comparison that has times for ``none`` and another treatment."""
    ratios = {comparison.label: _ratios(comparison) for comparison in context.comparisons}
    timed = [comparison for comparison in context.comparisons if len(ratios[comparison.label]) > 1]
    if not timed:
        return []
    most = max(len(ratios[comparison.label]) for comparison in timed)
    title = _title({comparison.label: ratios[comparison.label] for comparison in timed})
    figure, axes = panels(
        title,
        [c.label_with_seeds for c in timed],
        1,
        layout=context.layout,
        height=0.1 + 0.21 * most,
        left=label_margin(context) + 0.1,
        right=0.7,
    )
    every = [value for comparison in timed for found in ratios[comparison.label].values() for value in found]
    for comparison, (ax,) in zip(timed, axes, strict=True):
        found = ratios[comparison.label]
        ax.axvline(1.0, color="#808080", lw=1, zorder=1)
        for row, (treatment, values) in enumerate(found.items()):
            look = context.looks[treatment]
            middle = median(values)
            ax.plot(values, [row] * len(values), ".", color=look.color, ms=3.5, alpha=0.6)
            ax.plot(middle, row, look.marker, color=look.color, ms=7)
            ax.annotate(
                f"{format_number(middle)}×", (1, row), (5, 0), xycoords=("axes fraction", "data"),
                textcoords="offset points", va="center", size=8, color=darker(look.color),
            )  # fmt: skip
        ax.set_yticks(range(len(found)), [shorten(name, MAX_NAME) for name in found])
        ax.set_ylim(len(found) - 0.5, -0.5)
        ax.set_xlim(min(0.9, *every) - 0.02, max(1.1, *every) * 1.03)
        ax.set_xlabel("step time, relative to none")
    alt = f"Step time relative to none, per treatment. {title}"
    return [Drawing("cost", title, CAPTION, alt, "cost.csv", figure)]


def _ratios(comparison: ComparisonGroup) -> dict[str, list[float]]:
    """Collect each treatment's distinct step times over all strengths, relative to ``none``."""
    found: dict[str, set[float]] = {}
    for setting in comparison.settings:
        found.setdefault(setting.treatment, set()).update(relative_step_times(comparison, setting).tolist())
    return {treatment: sorted(values) for treatment, values in found.items() if values}


def _title(ratios: dict[str, dict[str, list[float]]]) -> str:
    parts = []
    for label, found in ratios.items():
        medians = {name: median(values) for name, values in found.items() if name != NONE}
        dearest = max(medians, key=lambda name: medians[name])
        parts.append(f"{format_number(medians[dearest], 2)}× for {label} ({dearest})")
    return f"A step costs at most {join_words(cap_list(parts))}, relative to none"

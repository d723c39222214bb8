"""Draw learning curves at each treatment's chosen strength."""

import numpy as np
import pandas as pd

from gradbench.report.analysis.comparison import ComparisonGroup, Setting
from gradbench.report.figures.panels import (
    Context,
    Drawing,
    axis_limits,
    has_wide_range,
    label_height,
    label_margin,
    list_chosen,
    panels,
    set_log_axis,
)
from gradbench.report.figures.traces import bin_curves, draw_curves, label_curves
from gradbench.report.render.formatting import cap_list

ENVIRONMENT_STEPS, RETURN = "train/environment_steps", "test/return"

CAPTION = (
    "Thick lines are means over seeds, drawn as long as every seed is there, with a 95% Student t band "
    "unless a seed diverged; thin lines are the seeds; a hollow marker is where a seed diverged. First, "
    "the loss that was trained on, averaged over short spans of steps and without any penalty (geometric "
    "means where the axis is logarithmic); then the metric where it was evaluated, and of agents that are "
    "compared by another, the return. Axes are scaled to "
    "the cells that completed, so a diverging curve may leave its panel, and so may a band. The strength "
    "is the best one over all seeds: good for showing, too good for judging. If the treatments did "
    "nothing, all lines would coincide."
)


def draw(context: Context) -> list[Drawing]:
    """Draw a row per comparison: training loss, and the evaluated metric."""
    if context.curves.rows.empty:
        return []
    headings = [f"{c.label_with_seeds}: {list_chosen(c)}" for c in context.comparisons]
    room = label_margin(context)
    title = _title(context)
    shown = [columns_of(context, comparison) for comparison in context.comparisons]
    counts = [len(columns) for columns in shown]
    figure, axes = panels(
        title, headings, counts, layout=context.layout, height=label_height(context, 1.75), right=room,
        gap=room + 0.5,
    )  # fmt: skip
    for comparison, row, columns in zip(context.comparisons, axes, shown, strict=True):
        curves = chosen_curves(context, comparison)
        interacts = any(has_environment(rows) for rows in curves.values())
        if interacts:
            curves = {setting: in_environment_steps(rows) for setting, rows in curves.items()}
        for ax, (column, unit) in zip(row, columns.items(), strict=True):
            ax.set_ylabel(unit)
            ax.set_xlabel("step")
            if interacts:
                ax.set_xlabel("thousands of environment steps")
                ax.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:g}")
            tables = [bin_curves(rows, column) for rows in curves.values()]
            values = _values_to_show(comparison, [table for table in tables if not table.empty])
            log = has_wide_range(values)
            positive = not any((table <= 0).to_numpy().any() for table in tables)
            geometric = log and positive and column == "loss"
            drawn = draw_curves(ax, context, comparison, column, curves, geometric=geometric)
            low, high = axis_limits(values, log=log)
            if log:
                set_log_axis(ax, low, high)
            else:
                ax.set_ylim(low, high)
            label_curves(ax, context, drawn)
    alt = f"Training loss and metric against step at the chosen strengths. {title}. {' '.join(headings)}"
    return [Drawing("learning", title, CAPTION, alt, "", figure)]


def columns_of(context: Context, comparison: ComparisonGroup) -> dict[str, str]:
    """Return the columns of the curves that are drawn of a comparison, and what their axes are called."""
    columns = {"loss": "training loss", comparison.metric: comparison.unit}
    if has_environment(context.curves.rows_of(comparison.cells)):
        columns.setdefault(RETURN, "return per episode, test")
    return {name: unit for name, unit in columns.items() if name == "loss" or name in context.curves.rows}


def chosen_curves(context: Context, comparison: ComparisonGroup) -> dict[Setting, pd.DataFrame]:
    """Select each treatment's curve rows at its chosen strength, leaving out treatments without curves."""
    settings = [comparison.chosen_setting(treatment) for treatment in comparison.treatments]
    found = {setting: context.curves.rows_of(comparison.cells_at(setting)) for setting in settings}
    return {setting: rows for setting, rows in found.items() if not rows.empty}


def has_environment(rows: pd.DataFrame) -> bool:
    """Return whether steps of an environment were counted."""
    return ENVIRONMENT_STEPS in rows and bool((rows[ENVIRONMENT_STEPS] > 0).any())


def in_environment_steps(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with steps of the environment in place of training steps, each of which takes as many."""
    if not has_environment(rows):
        return rows
    per_step = (rows[ENVIRONMENT_STEPS] / rows["step"]).max()
    return rows.assign(step=(rows["step"] * per_step).round().astype(np.int64))


def _values_to_show(comparison: ComparisonGroup, tables: list[pd.DataFrame]) -> list[float]:
    """Collect the finite values that the axis must cover: of completed cells, or of all if none completed."""
    completed = set(comparison.cells.loc[comparison.cells["status"] == "completed", "cell"])
    kept = [table[[cell for cell in table if cell in completed]] for table in tables]
    values = np.concatenate([t.to_numpy(dtype=float).ravel() for t in kept]) if kept else np.array([])
    if not np.isfinite(values).any() and tables:
        values = np.concatenate([table.to_numpy(dtype=float).ravel() for table in tables])
    return [float(value) for value in values if np.isfinite(value)]


def _title(context: Context) -> str:
    """Name the treatments that diverge at their chosen strength."""
    parts = []
    for comparison in context.comparisons:
        for treatment in comparison.treatments:
            cells = comparison.cells_at(comparison.chosen_setting(treatment))
            if lost := int((cells["status"] == "diverged").sum()):
                at = cells["diverged_at"].min() if "diverged_at" in cells else np.nan
                when = f", first at step {at:.0f}" if np.isfinite(at) else ""
                parts.append(
                    f"{comparison.label} with {treatment} breaks off in {lost} of {len(cells)} seeds{when}"
                )
    if not parts:
        return "Every treatment reaches the last step at its chosen strength"
    return "; ".join(cap_list(parts)) + "; the others reach the last step"

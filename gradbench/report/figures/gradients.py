"""Draw the gradient norm before and after the treatment, against the step."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from gradbench.report.analysis.comparison import ComparisonGroup
from gradbench.report.figures.learning import chosen_curves
from gradbench.report.figures.panels import (
    Context,
    Drawing,
    axis_limits,
    label_height,
    label_margin,
    list_chosen,
    log_ticks,
    panels,
)
from gradbench.report.figures.traces import draw_curves, label_curves
from gradbench.report.render.formatting import cap_list, format_number

CAPTION = (
    "‖g‖₂ is the length (L2 norm) of the gradient of all parameters of a network. First as it was computed, then as "
    "the optimizer used it: where its direction may change, at the first step, every fiftieth and the last. "
    "Geometric means over short spans of steps and over seeds, with a 95% Student t band over seeds unless one "
    "diverged; thin lines are the seeds, a hollow marker is where one diverged. Both panels share one log axis. A "
    "treatment that does nothing looks the same in both; if no treatment changed the course of training, the lines "
    "of the first would coincide."
)

Row = tuple[ComparisonGroup, tuple[str, ...], str]  # comparison, columns of the curves, heading


def draw(context: Context) -> list[Drawing]:
    """Draw a row per comparison with panels before and after, and one panel for an untreated player."""
    curves = context.curves.rows
    if not np.isfinite(curves["grad_norm"].to_numpy(dtype=float)).any():
        return []
    rows: list[Row] = [
        (c, ("grad_norm", "grad_norm_used"), f"{c.label_with_seeds}: {list_chosen(c)}")
        for c in context.comparisons
    ]
    others = [column for column in curves if str(column).endswith("/grad_norm")]
    for comparison in context.comparisons:
        own = context.curves.rows_of(comparison.cells)
        for column in others:
            if own[column].notna().any():
                heading = f"{comparison.label}, {str(column).split('/')[0]}: the other player's gradient"
                rows.append((comparison, (str(column),), heading))
    room = label_margin(context)
    title = _title(context)
    # The margins are wide because tick labels are as long as 1e+06 and 100,000.
    headings = [heading for *_, heading in rows]
    figure, axes = panels(
        title, headings, [len(columns) for _, columns, _ in rows], layout=context.layout,
        height=label_height(context, 1.75), left=0.95, right=room, gap=room + 0.75,
    )  # fmt: skip
    for (comparison, columns, _), line in zip(rows, axes, strict=True):
        _draw_row(context, comparison, columns, line)
    alt = f"Gradient norm before and after the treatment against step, log axis. {title}"
    return [Drawing("gradients", title, CAPTION, alt, "action.csv", figure)]


def _draw_row(
    context: Context, comparison: ComparisonGroup, columns: tuple[str, ...], line: list[Axes]
) -> None:
    """Draw the norms of one comparison, a panel per column of the curves."""
    logs = {s: _take_log10(rows, columns) for s, rows in chosen_curves(context, comparison).items()}
    drawn = [
        draw_curves(ax, context, comparison, column, logs) for ax, column in zip(line, columns, strict=True)
    ]
    values = [table.to_numpy(dtype=float).ravel() for tables in drawn for _, table in tables]
    low, high = axis_limits(np.concatenate(values)) if values else (-1.0, 1.0)
    for ax, tables, when in zip(line, drawn, ("before the treatment", "as used"), strict=False):
        ax.set_ylim(low, high)
        ticks = log_ticks(low, high)
        ax.set_yticks(np.log10(ticks), [format_number(tick, 2) for tick in ticks])
        ax.set_xlabel("step")
        ax.set_ylabel(f"‖g‖₂ {when}" if len(columns) > 1 else "‖g‖₂")
        label_curves(ax, context, tables)


def _take_log10(rows: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    """Take log10 of the columns, so that averages over steps and seeds are geometric means."""
    values = rows[list(columns)].to_numpy(dtype=float)
    logs = np.log10(values, out=np.full_like(values, np.nan), where=(values > 0) & np.isfinite(values))
    return rows[["cell", "step"]].assign(**dict(zip(columns, logs.T, strict=True)))


def _title(context: Context) -> str:
    """Write the factor by which a treatment changed the norm, per comparison that of the largest change."""
    parts = []
    for comparison in context.comparisons:
        changes = []
        for setting, rows in chosen_curves(context, comparison).items():
            logs = _take_log10(rows, ("grad_norm", "grad_norm_used"))
            change = (logs["grad_norm_used"] - logs["grad_norm"]).mean()
            factor = float(10**change) if np.isfinite(change) else 1.0
            if abs(np.log(factor)) > 0.01:
                changes.append((abs(np.log(factor)), setting.treatment, factor))
        if changes:
            _, treatment, factor = max(changes)
            parts.append(f"{treatment} scales it by {format_number(factor, 2)} for {comparison.label}")
    if not parts:
        return "No treatment changes the norm of the gradient that it is given"
    return "The gradient's norm: " + "; ".join(cap_list(parts))

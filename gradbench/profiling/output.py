"""Write a cost measurement: a table for the terminal, a CSV and a figure."""

from collections.abc import Hashable, Mapping
from operator import methodcaller
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from gradbench.atomic import unwritable, write_atomically
from gradbench.report.figures import save_figure
from gradbench.report.figures.panels import MAX_NAME, darker, panels
from gradbench.report.figures.style import RC, Look, assign_looks_by_family
from gradbench.report.render.formatting import format_number, shorten

MEBI = 2**20
"""Bytes in a MiB."""


def describe_measurement(rows: pd.DataFrame) -> str:
    """Describe the measurement in one line."""
    row = rows.iloc[0]
    return (
        f"{row['model']}: stacks of {row['width']} cells on {row['device']} ({row['device_name']}), "
        f"median and 95 % interval over {row['rounds']} interleaved rounds, torch {row['torch']}"
    )


def make_table(rows: pd.DataFrame) -> Table:
    """Make the table for a terminal of 80 columns; ratios are relative to ``none``."""
    shown = Table(
        title=f"{describe_measurement(rows)}{describe_prediction_error(rows)}", title_justify="left"
    )
    shown.add_column("regularizer", no_wrap=True)
    for heading in ("ms", "× none", "MiB, × none", "telemetry, %"):
        shown.add_column(heading, justify="right")
    peak = divide_by_none(rows, "memory_bytes")
    for index, row in enumerate(rows.to_dict("records")):
        shown.add_row(
            row["regularizer"],
            format_number(1e3 * row["step_seconds"]),
            format_interval(row, "step_ratio", 2),
            "–"
            if np.isnan(peak[index])
            else f"{format_number(row['memory_bytes'] / MEBI)} · {peak[index]:.2f}",
            format_interval(row, "telemetry_share", 1, 100),
        )
    return shown


def describe_prediction_error(rows: pd.DataFrame) -> str:
    """Describe the largest relative error of predicted memory; empty if memory was not measured."""
    errors = np.abs(rows["predicted_bytes"].to_numpy(float) / rows["memory_bytes"].to_numpy(float) - 1)
    return "" if np.isnan(errors).all() else f"; memory as predicted within {np.nanmax(errors):.0%}"


def format_interval(row: Mapping[Hashable, Any], column: str, digits: int, scale: float = 1) -> str:
    """Format an estimate as ``1.04 [1.03, 1.06]``, without its interval if that is NaN, or as a dash if it is NaN."""
    estimate, low, high = (scale * row[name] for name in (column, f"{column}_low", f"{column}_high"))
    if np.isnan(estimate):
        return "–"
    ends = "" if np.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{estimate:.{digits}f}{ends}".replace("-", "−")


def divide_by_none(rows: pd.DataFrame, column: str) -> np.ndarray:
    """Divide a column by the value of ``none``, which is the first row."""
    values = rows[column].to_numpy(dtype=float)
    return np.asarray(values / values[0])


def create_folder(folder: Path) -> None:
    """Create the folder and its parents.

    Raises:
        StorageError: if it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def write_files(rows: pd.DataFrame, folder: Path) -> list[Path]:
    """Write ``cost.csv``, ``cost.png`` and ``cost.svg``; return their paths.

    Raises:
        StorageError: if a file cannot be written.
    """
    files = {"cost.csv": rows.to_csv(index=False, lineterminator="\n").encode()}
    with mpl.rc_context(RC):
        figure = draw_costs(rows)
        files |= {f"cost.{kind}": save_figure(figure, kind) for kind in ("png", "svg")}
    for name, content in files.items():
        write_atomically(folder / name, methodcaller("write", content))
    return [folder / name for name in files]


def draw_costs(rows: pd.DataFrame) -> Figure:
    """Draw time and memory of each regularizer relative to ``none``, one row each."""
    looks = assign_looks_by_family(dict(zip(rows["regularizer"], rows["family"], strict=True)))
    slowest = rows.iloc[int(rows["step_ratio"].argmax())]
    title = f"A step costs at most {format_number(slowest['step_ratio'])}× that of none ({slowest['regularizer']})"
    longest = min(max(map(len, rows["regularizer"])), MAX_NAME)
    figure, ((time, memory),) = panels(
        title,
        [describe_measurement(rows)],
        2,
        height=0.2 + 0.21 * len(rows),
        left=0.3 + 0.075 * longest,
        right=0.6,
        gap=0.7,
    )
    ratio = rows["step_ratio"].to_numpy(dtype=float)
    ends = rows[["step_ratio_low", "step_ratio_high"]].to_numpy(dtype=float).T
    draw_panel(time, rows, looks, ratio, "step time, relative to none")
    time.hlines(
        range(len(rows)), ends[0], ends[1], colors=[looks[name].color for name in rows["regularizer"]], lw=2
    )
    measured, predicted = (rows[name].to_numpy(dtype=float) for name in ("memory_bytes", "predicted_bytes"))
    base = predicted[0] if np.isnan(measured[0]) else measured[0]
    draw_panel(
        memory,
        rows,
        looks,
        measured / base,
        "peak memory, relative to none (hollow: predicted)",
        predicted / base,
    )
    memory.set_yticklabels([])
    return figure


def draw_panel(
    ax: Axes,
    rows: pd.DataFrame,
    looks: dict[str, Look],
    values: np.ndarray,
    label: str,
    expected: np.ndarray | None = None,
) -> None:
    """Draw one panel: a marker per regularizer, and hollow markers for expected values."""
    ax.axvline(1.0, color="#808080", lw=1, zorder=1)
    for place, name in enumerate(rows["regularizer"]):
        look = looks[name]
        if expected is not None:
            ax.plot(expected[place], place, look.marker, color=look.color, mfc="none", ms=9)
        ax.plot(values[place], place, look.marker, color=look.color, ms=6)
        ax.annotate(
            f"{format_number(values[place])}×", (1, place), (5, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center", size=8, color=darker(look.color),
        )  # fmt: skip
    ax.set_yticks(range(len(rows)), [shorten(name, MAX_NAME) for name in rows["regularizer"]])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(label)

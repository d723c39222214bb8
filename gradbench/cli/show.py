"""Show one cell of a results folder: status, config, provenance, curve."""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from gradbench.errors import UsageError
from gradbench.storage.provenance import COLUMNS
from gradbench.storage.results import Results
from gradbench.storage.sanitize import escape_controls, is_cell, is_command, refuse_links

CURVE_ROWS = 12
"""Maximum number of points of a curve that are shown."""

COST = ("step_seconds", "seconds", "width", "exact")
PROVENANCE = (
    *COLUMNS,
    *("data_sha256", "format", "started", "finished"),
)

Section = tuple[str, list[tuple[str, ...]]]


def find_cell(begins: str, folder: Path | None) -> tuple[Results, "pd.Series[Any]"]:
    """Find the cell with an id prefix; return its results folder and its row.

    Args:
        begins: a cell's id, or a unique prefix of it.
        folder: results folder to search; ``None`` for all folders below ``results/``.

    Raises:
        UsageError: if no cell, or more than one, has this prefix.
    """
    folders = [folder] if folder else [path.parent for path in sorted(Path("results").glob("*/cells"))]
    found: dict[str, tuple[Results, pd.Series[Any]]] = {}
    for results in map(Results, folders):
        refuse_links(results.folder)
        cells = results.cells()
        if len(cells):
            wanted = [is_cell(cell) and cell.startswith(begins) for cell in cells["cell"]]
            for _, row in cells[wanted].iterrows():
                found.setdefault(row["cell"], (results, row))
    places = ", ".join(map(str, folders)) or "results/ (there are no results yet: gradbench run quick)"
    if not found:
        damaged = [error.path for results in map(Results, folders) for error in results.damaged_files()]
        torn = f"; damaged and not read: {', '.join(map(str, damaged))}" if damaged else ""
        raise UsageError(
            f"no cell begins with '{begins}' in {places}; ids are in the column 'cell' of the table of cells{torn}"
        )
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} cells begin with '{begins}': {', '.join(list(found)[:5])}; give more of the id"
        )
    return next(iter(found.values()))


def sections(results: Results, row: "pd.Series[Any]") -> list[Section]:
    """Return the tables that ``gradbench show`` prints: status, config, provenance, curve, damaged files."""
    values = {escape_controls(str(key)): value for key, value in row.items() if not is_missing(value)}
    metrics = [key for key in values if "/" in key]
    outcome = ["status", "diverged_at", *metrics, *COST]
    config = [key for key in values if key not in {*outcome, *PROVENANCE, "cell", "command", "error"}]
    shown: list[Section] = [
        (
            f"cell {row['cell']} in {results.folder}",
            [(key, format_value(values[key])) for key in outcome if key in values],
        ),
        ("config", [(key, format_setting(values[key])) for key in config]),
        ("provenance", [(key, format_value(values[key])) for key in PROVENANCE if key in values]),
    ]
    curves = results.curves()
    curve = curves[curves["cell"] == row["cell"]].sort_values("step") if len(curves) else curves
    if len(curve):
        shown.append((f"curve, {len(curve)} recorded steps", sample_curve(curve.drop(columns="cell"))))
    if damaged := results.damaged_files():
        remedy = ("what to do", f"type the command in {results.folder / 'experiment.yaml'} again")
        lost = [(escape_controls(str(error.path)), escape_controls(error.reason)) for error in damaged]
        shown.append(("damaged files, not read", [*lost, remedy]))
    return shown


def copyable_texts(row: "pd.Series[Any]") -> list[tuple[str, str]]:
    """Return the (title, text) pairs that are printed for copying: the error, if any, and the command.

    A stored command that is anything but a single ``gradbench run`` may be malicious, and is left out.
    """
    command = row.get("command")
    titled = [("error", row.get("error")), ("rerun it alone", command if is_command(command) else None)]
    return [(title, escape_controls(str(value))) for title, value in titled if not is_missing(value)]


def sample_curve(curve: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return a header and at most ``CURVE_ROWS`` evenly spaced rows of a curve, including the last one."""
    measured = [name for name in curve if curve[name].notna().mean() > 0.5]
    picked = sorted({round(index * (len(curve) - 1) / (CURVE_ROWS - 1)) for index in range(CURVE_ROWS)})
    rows = curve[measured].iloc[picked].itertuples(index=False)
    return [
        tuple(escape_controls(str(name)) for name in measured),
        *(tuple(format_value(value) for value in row) for row in rows),
    ]


def is_missing(value: Any) -> bool:
    """Return whether a value of a table is null or NaN."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def format_setting(value: Any) -> str:
    """Format a value of a config; integers that pandas made floats, because other cells lack the key, are restored."""
    return f"{value:.15g}" if isinstance(value, float) else escape_controls(str(value))


def format_value(value: Any) -> str:
    """Format a value; floats get four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else escape_controls(str(value))

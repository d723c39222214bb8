"""Show one cell of a results folder: status, config, provenance, curve."""

import math
import re
from pathlib import Path
from typing import Any

import pandas as pd

from gradbench.errors import DamagedError, UsageError
from gradbench.launchers.slurm.submissions import last_log
from gradbench.storage.provenance import COLUMNS
from gradbench.storage.repair import find_damage
from gradbench.storage.results import RECORDED, Results
from gradbench.storage.sanitize import (
    caution,
    check_folder,
    escape_controls,
    is_cell,
    is_command,
    open_regular,
)

CURVE_ROWS = 12
"""Maximum number of points of a curve that are shown."""

LOG_LINES = 40
"""Lines of a task's log that are shown."""

COST = ("step_seconds", "seconds", "width", "exact")
PROVENANCE = (
    *COLUMNS,
    *("data_sha256", "step_program", "format", "started", "finished"),
)

NOTHING_TO_TELL = (("test/unknown", 0), ("train/read", 1), ("test/read", 1))
"""Metrics and values at which they are not shown."""

Section = tuple[str, list[tuple[str, ...]]]


def find_cell(begins: str, folder: Path | None) -> tuple[Results, "pd.Series[Any]"]:
    """Find the cell with an id prefix; return its results folder and its row.

    Args:
        begins: a cell's id, or a unique prefix of it.
        folder: results folder to search; ``None`` for all folders below ``results/``.

    Raises:
        UsageError: if no cell, or more than one, has this prefix.
    """
    tables, unread = read_tables(folder, begins)
    found: dict[str, tuple[Results, pd.Series[Any]]] = {}
    for results, cells in tables:
        if len(cells):
            wanted = [is_cell(cell) and cell.startswith(begins) for cell in cells["cell"]]
            for _, row in cells[wanted].iterrows():
                found.setdefault(row["cell"], (results, row))
    if not found:
        nowhere = "results/ (there are no results yet: gradbench run quick)"
        places = ", ".join(str(results.folder) for results, _ in tables) or nowhere
        damaged = [damage.path for results, _ in tables for damage in find_damage(results.folder)]
        torn = f"; damaged and not read: {', '.join(map(str, damaged))}" if damaged else ""
        raise UsageError(
            f"no cell begins with '{begins}' in {places}; ids are in the column 'cell' of the table of cells"
            + ("" if folder else "; another folder is searched with --results FOLDER")
            + torn
            + "".join(f"; not searched: {error}" for error in unread)
        )
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} cells begin with '{begins}': {', '.join(list(found)[:5])}; give more of the id"
        )
    return next(iter(found.values()))


def read_tables(
    folder: Path | None, begins: str
) -> tuple[list[tuple[Results, pd.DataFrame]], list[UsageError]]:
    """Read the cells with an id prefix of a results folder, or of all folders below ``results/``.

    Returns:
        Results folders with their tables, and why other folders below ``results/`` were left out.

    Raises:
        UsageError: if the given folder cannot be used.
    """
    tables, unread = [], []
    for path in [folder] if folder else sorted(cells.parent for cells in Path("results").glob("*/cells")):
        try:
            check_folder(path)
            tables.append((Results(path), Results(path).cells(begins=begins)))
        except UsageError as error:
            if folder:
                raise
            unread.append(error)
    return tables, unread


def sections(results: Results, row: "pd.Series[Any]") -> list[Section]:
    """Return the tables that ``gradbench show`` prints: status, config, provenance, curve, damaged files."""
    values = {escape_controls(str(key)): value for key, value in row.items() if not is_missing(value)}
    metrics = [key for key in values if "/" in key and (key, values[key]) not in NOTHING_TO_TELL]
    outcome = ["status", "diverged_at", *metrics, *COST]
    config = [
        key for key in values if key not in {*outcome, *PROVENANCE, *RECORDED, "cell", "command", "error"}
    ]
    shown: list[Section] = [
        (
            f"cell {row['cell']} in {results.folder}",
            [(key, format_value(values[key])) for key in outcome if key in values],
        ),
        ("config", [(key, format_setting(values[key])) for key in config]),
        ("provenance", [(key, format_value(values[key])) for key in PROVENANCE if key in values]),
    ]
    curve = results.curves(begins=row["cell"]).sort_values("step")
    if len(curve):
        shown.append((f"curve, {len(curve)} recorded steps", sample_curve(curve.drop(columns="cell"))))
    if damages := find_damage(results.folder):
        remedy = ("what to do", "type the command that made them again")
        lost = [(escape_controls(str(damage.path)), escape_controls(damage.reason)) for damage in damages]
        shown.append(("damaged files, not read", [*lost, remedy]))
    return shown


def copyable_texts(results: Results, row: "pd.Series[Any]") -> list[tuple[str, str]]:
    """Return the (title, text) pairs that are printed for copying: of a failed cell error and log, and the command.

    A stored command that is anything but a single ``gradbench run`` may be malicious, and is left out. One that names
    code is shown under a title that says so.
    """
    command = str(row.get("command"))
    command = command if is_command(command) else ""
    why = caution(command)
    titled = [("error", row.get("error"))]
    if row.get("status") == "failed" and (log := last_log(results.folder, str(row["cell"]))):
        titled.append((f"the end of its task's log, {log}", "\n".join(tail(log, LOG_LINES))))
    titled += [(f"its command. {why}" if why else "rerun it alone", command)] if command else []
    return [
        (escape_controls(title), escape_controls(str(value)))
        for title, value in titled
        if not is_missing(value)
    ]


def tail(path: Path, lines: int) -> list[str]:
    """Return the last lines of a text file; none if it cannot be read."""
    try:
        with open_regular(path, math.inf) as file:
            file.seek(max(0, file.seek(0, 2) - 200 * lines))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except (OSError, DamagedError):
        return []


def sample_curve(curve: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return a header and at most ``CURVE_ROWS`` evenly spaced rows of a curve, including the last one.

    Names in the header are on a line per word, or a narrow terminal would break them within words.
    """
    measured = [name for name in curve if curve[name].notna().mean() > 0.5]
    picked = sorted({round(index * (len(curve) - 1) / (CURVE_ROWS - 1)) for index in range(CURVE_ROWS)})
    rows = curve[measured].iloc[picked].itertuples(index=False)
    return [
        tuple(re.sub("([_/])", r"\1\n", escape_controls(str(name))) for name in measured),
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

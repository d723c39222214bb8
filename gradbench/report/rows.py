"""The table of cells as the page shows it: what sorts, what unfolds, and a small curve for each."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from gradbench.report import text
from gradbench.report.figures.traces import binned
from gradbench.report.tables import Results, leaves, same

COLUMNS = ("group", "treatment", "strength", "seed", "status", "metric", "ms / step")
SPARK = (160.0, 36.0)  # width and height of a cell's curve, in pixels


@dataclass(frozen=True)
class Row:
    """A cell's row: ``values`` as shown and ``order`` as sorted, one per column; the rest unfolds."""

    cell: str
    status: str
    values: tuple[str, ...]
    order: tuple[str, ...]
    command: str
    error: str
    config: tuple[tuple[str, str], ...]
    spark: str  # points of an SVG polyline, or empty


def rows(results: Results) -> list[Row]:
    """Return a row per cell, in the order of the table."""
    common = {leaf for leaf, _ in shared(results)}
    own = [leaf for leaf in leaves(results.cells) if leaf not in common]
    sparks = _sparks(results.curves)
    return [_row(cell, own, sparks) for cell in _records(results)]


def shared(results: Results) -> list[tuple[str, str]]:
    """Return the leaves that are alike in every cell, shown once instead of in each."""
    cells = results.cells
    return [(leaf, str(cells[leaf].iloc[0])) for leaf in leaves(cells) if same(cells[leaf].astype(str))]


def _records(results: Results) -> list[dict[str, object]]:
    return [{str(name): value for name, value in row.items()} for row in results.cells.to_dict("records")]


def _row(cell: dict[str, object], own: list[str], sparks: dict[str, str]) -> Row:
    value, strength = _float(cell["value"]), _float(cell["strength"])
    milliseconds = _float(cell.get("step_seconds")) * 1000
    stopped = _float(cell.get("diverged_at"))
    ident, status = str(cell["cell"]), str(cell["status"])
    names = (str(cell["comparison"]), str(cell["treatment"]))
    command, error = cell.get("command"), cell.get("error")
    return Row(
        cell=ident,
        status=status,
        values=(
            *names,
            text.strength(str(cell["quantity"]), [None if np.isnan(strength) else strength]) or "–",
            str(cell["seed"]),
            status if np.isnan(stopped) else f"{status} at {stopped:.0f}",
            text.number(value, 4),
            text.number(milliseconds),
        ),
        order=(*names, *(str(key) for key in (strength, cell["seed"], status, value, milliseconds))),
        command=command if isinstance(command, str) and command else f"gradbench show {ident}",
        error=error if isinstance(error, str) else "",
        config=tuple((leaf, str(cell[leaf])) for leaf in own if not _absent(cell[leaf])),
        spark=sparks.get(ident, ""),
    )


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


def _absent(value: object) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def _sparks(curves: pd.DataFrame) -> dict[str, str]:
    """Return each cell's loss as the points of a small line: steps across, log loss where it is positive."""
    table = binned(curves, "loss", 40)
    if table.empty:
        return {}
    steps = table.index.to_numpy(dtype=float) / float(table.index.max())
    found = {}
    for cell in table:
        values = table[cell].to_numpy(dtype=float)
        known = np.isfinite(values)
        values = values[known]
        heights = np.log(values) if (values > 0).all() else values
        low, span = heights.min(), float(np.ptp(heights)) or 1.0
        y = (SPARK[1] - 4) * (1 - (heights - low) / span) + 2
        found[str(cell)] = " ".join(
            f"{a * SPARK[0]:.1f},{b:.1f}" for a, b in zip(steps[known], y, strict=True)
        )
    return found

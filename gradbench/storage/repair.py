"""Notice what a results folder has lost, set damaged files aside, and drop the rows of cells to train again.

A run mends what concerns its own cells. A row is dropped before its damaged file is renamed: after a kill in between,
the next run finds a damaged file that no row needs, and a cell that is not finished. A damaged file that finished cells
of other grids need stays where it is, with their rows, until a run asks for them.
"""

import contextlib
import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from gradbench.atomic import remove, set_aside
from gradbench.errors import DamagedError
from gradbench.storage.grids import commands_by_cells, commands_that_train
from gradbench.storage.parquet import MISSING, check_arrays, read_table, write_table
from gradbench.storage.results import FINISHED, RECORDED
from gradbench.storage.sanitize import is_cell
from gradbench.storage.schema import current_parts, part_paths

MAX_COMMANDS = 3
"""Number of commands that a line on damage names."""


class FinishedRow(NamedTuple):
    """What repairs need of a finished cell's row; a number that the row does not have is NaN, and not checked."""

    part: str
    command: object
    arrays_bytes: float
    curve_rows: float


@dataclass(frozen=True)
class Damage:
    """A file that is damaged or missing.

    Attributes:
        path: the file.
        reason: the symptom, in a few words.
        cells: the cells whose results it holds, as far as they are known.
        needed: cell id -> command, of those of them that are finished: their rows promise the file.
    """

    path: Path
    reason: str
    cells: frozenset[str]
    needed: dict[str, object]

    @property
    def missing(self) -> bool:
        """Whether there is no file."""
        return self.reason == MISSING


# ---- finding -----------------------------------------------------------------------------------------------


def find_damage(folder: Path) -> list[Damage]:
    """Verify every file of a results folder, and find those that its finished cells' rows promise.

    Raises:
        UsageError: if a file or a folder cannot be read.
    """
    rows, torn = read_finished(folder)  # first: what a row promises was written before it
    counts, torn_curves = count_curves(folder)
    found = [
        Damage(path, reason, frozenset(held_cells(path, counts) - rows.keys()), {})
        for path, reason in torn.items()
    ]
    return found + lost_curves(folder, rows, counts, torn_curves) + lost_arrays(folder, rows)


def read_finished(folder: Path) -> tuple[dict[str, list[FinishedRow]], dict[Path, str]]:
    """Return cell id -> its finished rows, one unless a part was copied; and path -> reason of each damaged part."""
    rows, torn = defaultdict(list), {}
    for path in current_parts(folder / "cells"):
        try:
            table = read_table(path, ["cell", "status", "command", *RECORDED])
        except DamagedError as error:
            if path.exists():  # otherwise another run has removed a failure after a success
                torn[path] = error.reason
            continue
        if {"cell", "status"} <= set(table.column_names):
            for row in table.to_pylist():
                if is_cell(row["cell"]) and row["status"] in FINISHED:
                    recorded = [to_number(row.get(name)) for name in RECORDED]
                    rows[row["cell"]].append(FinishedRow(path.name, row.get("command"), *recorded))
    return rows, torn


def to_number(value: object) -> float:
    """Return a value of a table as a number; NaN for what is none."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def count_curves(folder: Path) -> tuple[dict[str, dict[str, int]], dict[Path, str]]:
    """Return part -> cell id -> number of rows in it; and path -> reason of each damaged part."""
    counts, torn = {}, {}
    for path in current_parts(folder / "curves"):
        try:
            table = read_table(path, ["cell"], verify=True)
        except DamagedError as error:
            if path.exists():
                torn[path] = error.reason
            continue
        if "cell" in table.column_names:
            counted = pc.value_counts(table["cell"])
            counts[path.name] = {item["values"]: item["counts"] for item in counted.to_pylist()}
    return counts, torn


def lost_curves(
    folder: Path,
    rows: dict[str, list[FinishedRow]],
    counts: dict[str, dict[str, int]],
    torn: dict[Path, str],
) -> list[Damage]:
    """Find the parts of curves that are damaged, and those that are missing but for some cells' rows."""
    most: dict[str, int] = {}
    for part in counts.values():
        for cell, count in part.items():
            most[cell] = max(count, most.get(cell, 0))
    needed: defaultdict[Path, dict[str, object]] = defaultdict(dict)
    for cell, own in rows.items():
        paths = [folder / "curves" / row.part for row in own]
        written = next((path for path in paths if path in torn), paths[0])
        count = most.get(cell, 0)
        # a row of before this was recorded has its curves in the part of the same name
        unrecorded = math.inf if written in torn and not count else 0
        if min(unrecorded if math.isnan(row.curve_rows) else row.curve_rows for row in own) > count:
            needed[written][cell] = own[0].command
    return [
        Damage(path, torn.get(path, MISSING), frozenset(needed[path]), dict(needed[path]))
        for path in sorted({*torn, *needed})
    ]


def lost_arrays(folder: Path, rows: dict[str, list[FinishedRow]]) -> list[Damage]:
    """Find the files of arrays that are damaged, missing, or of another size than their cells' rows say."""
    promised = {
        folder / "arrays" / f"{cell}.npz": {row.arrays_bytes for row in own}
        for cell, own in rows.items()
        if all(row.arrays_bytes > 0 for row in own)
    }
    found = []
    for path in sorted({*part_paths(folder / "arrays", ".npz"), *promised}):
        try:
            check_arrays(path)
            if path in promised and path.stat().st_size not in promised[path]:
                raise DamagedError(path, "its size is not that in its cell's row")
        except DamagedError as error:
            cells = frozenset({path.stem} if is_cell(path.stem) else ())
            needed = {cell: rows[cell][0].command for cell in cells & rows.keys()}
            if path in promised or error.reason != MISSING:
                found.append(Damage(path, error.reason, cells, needed))
    return found


def held_cells(part: Path, counts: dict[str, dict[str, int]]) -> set[str]:
    """Return the cells of a damaged part of the table of cells, from its name or from the curves of the same name."""
    failed = [part.stem.removeprefix("failed-")] if part.stem.startswith("failed-") else []
    return set(filter(is_cell, [*failed, *counts.get(part.name, {})]))


# ---- mending -----------------------------------------------------------------------------------------------


def mend(folder: Path, damages: Sequence[Damage], cells: Collection[str]) -> list[str]:
    """Drop the rows of a run's cells that have lost something, and set aside what no other finished cell needs.

    Args:
        folder: the results folder.
        damages: what is damaged.
        cells: ids of the run's cells.

    Returns:
        One line per damage, for the user.

    Raises:
        StorageError: if the disk cannot be written.
    """
    lines, grids = [], commands_by_cells(folder)
    drop_rows(folder / "cells", {cell for damage in damages for cell in damage.needed if cell in cells})
    for damage in damages:
        others = {cell: command for cell, command in damage.needed.items() if cell not in cells}
        kept = "it is left as it is" if others else None
        if not others and not damage.missing:
            with contextlib.suppress(FileNotFoundError):
                kept = f"it is kept as {set_aside(damage.path).name}"
        lines.append(describe_damage(folder, damage, cells, kept, grids))
    return lines


def drop_rows(folder: Path, cells: Collection[str]) -> None:
    """Remove the rows of cells from every part of a table; a part without other rows is removed."""
    for path in part_paths(folder) if cells else ():
        with contextlib.suppress(DamagedError):  # it promises nothing
            remove_rows(path, cells)


def remove_rows(path: Path, cells: Collection[str]) -> None:
    """Remove the rows of cells from one part of a table; without other rows the part is removed."""
    table = read_table(path)
    if "cell" not in table.column_names:
        return
    left = table.filter(pa.array([cell not in cells for cell in table["cell"].to_pylist()], pa.bool_()))
    if not len(left):
        remove(path)
    elif len(left) < len(table):
        write_table(path, left)


def describe_damage(
    folder: Path,
    damage: Damage,
    cells: Collection[str],
    kept: str | None,
    grids: Sequence[tuple[set[str], object]],
) -> str:
    """Describe a damage, what became of the file, and what trains its cells again."""
    ours = {cell for cell in damage.cells if cell in cells}
    others = {cell: damage.needed.get(cell) for cell in sorted(damage.cells - ours)}
    fate = f"{'its cell is' if len(damage.cells) == 1 else 'its cells are'} trained again"
    if damage.path.parent.name != "cells" and not (ours or damage.needed):
        fate = "no finished cell needs it"
    elif not damage.cells:
        fate = "cells that it held are trained again by the runs that ask for them"
    elif others:
        commands = commands_that_train(folder, others, grids)
        more = f" (and {len(commands) - MAX_COMMANDS} more)" if len(commands) > MAX_COMMANDS else ""
        typed = " and ".join(commands[:MAX_COMMANDS]) + more
        typed = f"type {typed}" if commands else "type the command that made them"
        fate = f"none of its cells is in this run; to train them again {typed}"
        if ours:
            verb = "is" if len(ours) == 1 else "are"
            fate = (
                f"{len(ours)} of its {len(damage.cells)} cells {verb} trained again; for the others {typed}"
            )
    symptom = "is missing" if damage.missing else f"is damaged ({damage.reason})"
    return f"{damage.path} {symptom}: {', '.join(filter(None, (kept, fate)))}"


# ---- tidying -----------------------------------------------------------------------------------------------


def remove_stale_curves(folder: Path) -> None:
    """Remove curves that cells trained again have left in parts of stacks that they were in before.

    A row of curves belongs to the row of its cell in the part of the same name. Where a cell has both in one part,
    its curves in other parts are left over: from before it was mended, or from a stack that was never finished.
    Parts that a person has put there, under other names, are left alone.
    """
    rows, _ = read_finished(folder)
    counts, _ = count_curves(folder)
    owners = {
        cell: {row.part for row in own if cell in counts.get(row.part, ())} for cell, own in rows.items()
    }
    for name, held in counts.items():
        stale = {cell for cell in held if owners.get(cell) and name not in owners[cell]}
        if stale and is_cell(Path(name).stem):
            with contextlib.suppress(DamagedError):
                remove_rows(folder / "curves" / name, stale)

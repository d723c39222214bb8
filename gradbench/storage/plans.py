"""The plans of a results folder: which cells a sweep has, and which of them train as one stack.

    plans/<id>.parquet   one row per cell: what it is, and the number of its stack

A plan is written once, and never changed: machines that share the folder, and the tasks of a cluster, all take their
stacks from the same one. Its rows are sorted by stack, in groups, so that one task reads little of a large plan.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from gradbench import FORMAT
from gradbench.config.hashing import canonical, digest
from gradbench.errors import DamagedError
from gradbench.grid.cell import Cell
from gradbench.grid.stacks import Stack
from gradbench.storage.parquet import open_verified, write_table

PLANS = "plans"
"""Folder of the plans in a results folder."""

ROWS = 1_000
"""Rows per group: what is read at least of a plan."""

TEXTS = ("data_sha256",)
MAPPINGS = ("config", "choices", "runtime", "neutral", "sources")
LISTS = ("settings", "options")

encode = json.JSONEncoder(separators=(",", ":")).encode  # a command has its words in the order of the keys

COLUMNS = pa.schema(
    [("stack", pa.int64()), ("format", pa.int64())]
    + [(name, pa.string()) for name in ("cell", *TEXTS, *MAPPINGS, *LISTS)]
)


def plan_id(cells: Iterable[Cell], kind: str) -> str:
    """Return the id of a plan: 16 hex digits, equal for equal cells that are run in the same way.

    Args:
        cells: all cells of the plan.
        kind: type of the device that they train on.
    """
    ids, runtimes = set[str](), set[str]()
    for cell in cells:
        ids.add(cell.id)
        runtimes.add(canonical({key: value for key, value in cell.runtime.items() if key != "launcher"}))
    return digest([sorted(ids), sorted(runtimes), kind])


def plan_path(folder: Path, plan: str) -> Path:
    """Return the path of a plan in a results folder."""
    return folder / PLANS / f"{plan}.parquet"


def write_plan(folder: Path, plan: str, stacks: Sequence[Stack]) -> None:
    """Write a plan, unless it is there.

    Args:
        folder: the results folder, with its folder of plans.
        plan: its id, of :func:`plan_id`.
        stacks: all of them, in the order of their numbers.

    Raises:
        StorageError: if it cannot be written.
    """
    if read_ids(folder, plan) is not None:
        return
    written: dict[int, str] = {}  # cells share most of what they are made of

    def text_of(value: Any) -> str:
        if id(value) not in written:
            written[id(value)] = encode(value)
        return written[id(value)]

    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS.names}
    for number, stack in enumerate(stacks):
        for cell in stack.cells:
            columns["stack"].append(number)
            columns["format"].append(FORMAT)
            columns["cell"].append(cell.id)
            for name in TEXTS:
                columns[name].append(getattr(cell, name))
            columns["config"].append(encode(cell.config))
            for name in (*MAPPINGS[1:], *LISTS):
                columns[name].append(text_of(getattr(cell, name)))
    write_table(plan_path(folder, plan), pa.table(columns, schema=COLUMNS), rows=ROWS)


def read_ids(folder: Path, plan: str) -> list[list[str]] | None:
    """Return the ids of the cells of each stack of a plan; ``None`` if the folder has no such plan, or it is damaged.

    Raises:
        UsageError: if it cannot be read, or a newer gradbench wrote it.
    """
    path = plan_path(folder, plan)
    if not path.exists():
        return None
    try:
        with open_verified(path) as (file, _):
            table = file.read(["stack", "cell"])
            rows = zip(table["stack"].to_pylist(), table["cell"].to_pylist(), strict=True)
            return [[cell for _, cell in group] for _, group in groupby(rows, key=itemgetter(0))]
    except DamagedError:
        return None


def read_stacks(folder: Path, plan: str, numbers: Collection[int]) -> dict[int, Stack]:
    """Read some stacks of a plan, by number.

    Raises:
        DamagedError: if the plan is not there, not what was written, or has no such stack.
        UsageError: if it cannot be read, or a newer gradbench wrote it.
    """
    path = plan_path(folder, plan)
    cells: dict[int, list[Cell]] = {number: [] for number in sorted(numbers)}
    with open_verified(path) as (file, _):
        for group in range(file.num_row_groups):
            bounds = file.metadata.row_group(group).column(COLUMNS.get_field_index("stack")).statistics
            if any(bounds.min <= number <= bounds.max for number in cells):
                for row in file.read_row_group(group).to_pylist():
                    if row["stack"] in cells:
                        cells[row["stack"]].append(cell_from(path, row))
    for number, found in cells.items():
        if not found:
            raise DamagedError(path, f"it has no stack {number}")
    return {number: Stack(tuple(found)) for number, found in cells.items()}


def cell_from(path: Path, row: Mapping[str, Any]) -> Cell:
    """Return the cell of a row.

    Raises:
        DamagedError: if its id is not the one that stands there.
    """
    parts: dict[str, Any] = {name: row[name] for name in TEXTS}
    parts |= {name: json.loads(row[name]) for name in MAPPINGS}
    parts |= {name: tuple(json.loads(row[name])) for name in LISTS}
    cell = Cell(**parts)
    if cell.id != row["cell"]:
        raise DamagedError(path, f"cell {row['cell']} is another one, {cell.id}")
    return cell


def regroup(stacks: Sequence[Stack], ids: Sequence[Sequence[str]] | None) -> list[Stack]:
    """Group the cells of stacks as a stored plan does; without one, or with other cells, they stay as they are."""
    cells = {cell.id: cell for stack in stacks for cell in stack.cells}
    if ids is None or cells.keys() != {cell for group in ids for cell in group}:
        return list(stacks)
    return [Stack(tuple(cells[cell] for cell in group)) for group in ids]

"""The two tables: what a results folder holds, how parts are written, how they are read back.

    experiment.yaml      the question, the grid and the command line
    cells/*.parquet      one row per cell
    curves/*.parquet     one row per cell and recorded step
    arrays/<cell>.npz    what figures need beyond numbers

Each finished stack writes one part per table, under a name derived from its cells: writing twice is harmless, and
no two writers share a file. The part in ``cells`` is written last: a cell is finished once it stands there.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from gradbench.config import leaves
from gradbench.errors import UsageError
from gradbench.grid import FORMAT, Cell, digest

GROUPS = ("model", "data", "regularizer", "optimizer")
FINISHED = ("completed", "diverged")


@dataclass(frozen=True)
class Results:
    """A results folder. Nothing is read or written before a method asks for it."""

    folder: Path

    def create(self, experiment: Mapping[str, Any]) -> None:
        """Make the folder, or check that it is one of ours, and write ``experiment.yaml``.

        Raises:
            UsageError: where it is no folder, holds something else, or cannot be written.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder} is a file; choose a folder with --results DIR")
        if self.folder.is_dir() and any(self.folder.iterdir()) and not self.is_results():
            raise UsageError(
                f"{self.folder} is not empty and not a results folder; choose another with --results DIR"
            )
        try:
            for table in ("cells", "curves", "arrays"):
                (self.folder / table).mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(json.loads(json.dumps(experiment)), sort_keys=False, allow_unicode=True)
            write_atomically(self.folder / "experiment.yaml", lambda file: file.write(text.encode()))
        except OSError as error:
            raise UsageError(
                f"cannot write to {self.folder} ({error.strerror}); choose another folder with --results DIR"
            ) from error

    def is_results(self) -> bool:
        """Return whether this is a folder that gradbench wrote."""
        return (self.folder / "experiment.yaml").is_file() or (self.folder / "cells").is_dir()

    def statuses(self) -> dict[str, str]:
        """Return cell -> status, for every cell that has one; a finished status outranks ``failed``."""
        cells = self.cells(columns=["cell", "status"])
        return dict(zip(cells["cell"], cells["status"], strict=True)) if len(cells) else {}

    def cells(self, columns: list[str] | None = None) -> pd.DataFrame:
        """Return the table of cells, one row each."""
        table = read_parts(self.folder / "cells", columns)
        if len(table):
            # a kill between two renames can leave a failure beside the success that followed it
            rank = table["status"].isin(FINISHED)
            table = table.assign(_rank=rank).sort_values("_rank", kind="stable").drop(columns="_rank")
            table = table.drop_duplicates("cell", keep="last").reset_index(drop=True)
        return table

    def curves(self) -> pd.DataFrame:
        """Return the table of curves, one row per cell and recorded step."""
        table = read_parts(self.folder / "curves")
        return table.drop_duplicates(["cell", "step"], keep="last") if len(table) else table

    def write(
        self, rows: Sequence[Mapping[str, Any]], curves: pd.DataFrame, arrays: Mapping[str, Mapping[str, np.ndarray]]
    ) -> None:
        """Write the parts of finished cells: arrays, then curves, then, as the mark of completion, cells."""
        name = part_name(row["cell"] for row in rows)
        for cell, named in arrays.items():
            write_atomically(
                self.folder / "arrays" / f"{cell}.npz",
                lambda file, named=named: np.savez_compressed(file, allow_pickle=False, **named),
            )
        write_table(self.folder / "curves" / name, curves)
        write_table(self.folder / "cells" / name, pd.DataFrame(list(rows)))
        for row in rows:
            failure_part(self.folder, row["cell"]).unlink(missing_ok=True)

    def write_failures(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write one part per failed cell; it goes once the cell is finished."""
        for row in rows:
            write_table(failure_part(self.folder, row["cell"]), pd.DataFrame([row]))

    def harmonise(self) -> None:
        """Give all parts of a table the same columns, so that ``pandas.read_parquet(folder)`` is the whole table."""
        for table in ("cells", "curves"):
            paths = part_paths(self.folder / table)
            schemas = {path: pq.read_schema(path) for path in paths}
            if len({schema.remove_metadata() for schema in schemas.values()}) < 2:
                continue
            union = pa.unify_schemas(list(schemas.values()), promote_options="permissive").remove_metadata()
            for path in paths:
                if schemas[path].remove_metadata() == union:
                    continue
                part = pq.read_table(path, partitioning=None)
                columns = [
                    part[field.name].cast(field.type) if field.name in part.column_names else pa.nulls(len(part), field.type)
                    for field in union
                ]
                whole = pa.table(columns, schema=union)
                write_atomically(path, lambda file, whole=whole: pq.write_table(whole, file))


# ---- rows --------------------------------------------------------------------------------------------------------


def describe(cell: Cell) -> dict[str, Any]:
    """Return the columns that say what a cell is: its id, its config's leaves, and the command that reruns it."""
    columns: dict[str, Any] = {"cell": cell.id}
    for key, value in leaves(cell.config):
        # a group's name stands for the group
        group, _, rest = key.partition(".")
        column = group if group in GROUPS and rest == "name" else key
        columns[column] = json.dumps(value) if isinstance(value, list) else value
    return columns | {"command": cell.command(), "data_sha256": cell.data_sha256, "format": FORMAT}


def curve_rows(
    cell: str,
    curves: Mapping[str, np.ndarray],
    evaluations: Mapping[int, Mapping[str, np.ndarray]],
    k: int,
    last: int,
    every: int,
) -> pd.DataFrame:
    """Return one cell's rows of the curves table.

    Args:
        cell: its id.
        curves: series [steps, K].
        evaluations: step -> metric -> [K].
        k: which of the K cells.
        last: the last step that it trained.
        every: record every so many steps; evaluated steps and the last are always recorded.
    """
    steps = sorted({*range(every, last + 1, every), *(step for step in evaluations if step <= last), last})
    index = np.asarray(steps) - 1
    table = pd.DataFrame({"cell": cell, "step": steps} | {name: series[index, k] for name, series in curves.items()})
    measured = pd.DataFrame(
        [{"step": step} | {name: values[k] for name, values in metrics.items()} for step, metrics in evaluations.items()]
    )
    return table.merge(measured, on="step", how="left") if len(measured) else table


# ---- files -------------------------------------------------------------------------------------------------------


def part_name(cells: Iterable[str]) -> str:
    """Return the name of the part that holds these cells."""
    return f"{digest(sorted(cells))}.parquet"


def failure_part(folder: Path, cell: str) -> Path:
    """Return where the failure of one cell is written."""
    return folder / "cells" / f"failed-{cell}.parquet"


def part_paths(folder: Path) -> list[Path]:
    """Return a table's parts, in a fixed order; temporary files are none."""
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))


def read_parts(folder: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Return the union of a table's parts; a column that a part lacks is null there."""
    parts = [pq.read_table(path, columns=columns, partitioning=None) for path in part_paths(folder)]
    if not parts:
        return pd.DataFrame()
    return pa.concat_tables(parts, promote_options="permissive").to_pandas()


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write one part."""
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata()
    write_atomically(path, lambda file: pq.write_table(arrow, file))


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file so that at any instant either the old one or the whole new one is there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself must survive a power cut
    finally:
        os.close(directory)

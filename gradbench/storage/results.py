"""The results folder and its two tables: write their parts, read them back.

    experiment.yaml      questions, grids and command lines: what the folder was asked for
    cells/*.parquet      one row per cell
    curves/*.parquet     one row per cell and recorded step
    arrays/<cell>.npz    what figures need beyond numbers
    plans/*.parquet      which cells train as one stack: see :mod:`gradbench.storage.plans`

Each finished stack writes one part per table, under a name derived from its cells: writing twice is harmless,
and no two writers share a file. The part in ``cells`` is written last: a cell with a row there is finished. The table
of costs, which is no result, is :mod:`gradbench.storage.costs`.
"""

import contextlib
import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gradbench import FORMAT
from gradbench.atomic import make_shared_folder
from gradbench.config.compose import GROUPS, leaves
from gradbench.config.composite import typed
from gradbench.config.identity import SOURCE
from gradbench.errors import DamagedError, StorageError, UsageError
from gradbench.grid.cell import Cell
from gradbench.storage.grids import remember_grid
from gradbench.storage.parquet import read_schema, read_table, write_arrays, write_table
from gradbench.storage.plans import PLANS
from gradbench.storage.sanitize import check_folder
from gradbench.storage.schema import (
    common_schema,
    concat_parts,
    conform,
    failure_path,
    part_name,
    part_paths,
    read_parts,
    table_from_rows,
)

FINISHED = ("completed", "diverged")

RECORDED = ("arrays_bytes", "curve_rows")
"""Columns of a finished cell: size of its file of arrays (0: it has none), and number of its rows of curves."""


@dataclass(frozen=True)
class Results:
    """Access to a results folder. Only its methods read or write."""

    folder: Path

    def check(self) -> None:
        """Check that the folder is new, empty or a results folder.

        Raises:
            UsageError: if it is no folder, holds something else, or contains links that lead outside.
        """
        try:
            ours = not self.folder.exists() or self.is_results() or not any(self.folder.iterdir())
        except OSError as error:
            reason = (
                "is a file" if isinstance(error, NotADirectoryError) else f"cannot be read ({error.strerror})"
            )
            raise UsageError(f"{self.folder} {reason}; choose a folder with --results DIR") from error
        if not ours:
            raise UsageError(
                f"{self.folder} is not empty and not a results folder; choose another with --results DIR"
            )
        check_folder(self.folder)

    def create(self, grid: Mapping[str, Any]) -> None:
        """Create the folder if needed, and remember a grid in its ``experiment.yaml``.

        Args:
            grid: question, command line, spec, ids of the cells.

        Raises:
            UsageError: as :meth:`check`, and if it cannot be written.
        """
        self.make_folder()
        try:
            remember_grid(self.folder, grid)
        except StorageError as error:
            raise UsageError(f"{error}; or choose another folder with --results DIR") from error

    def make_folder(self) -> None:
        """Create the folder and those of its tables, if needed.

        Raises:
            UsageError: as :meth:`check`, and if they cannot be written.
        """
        self.check()
        folders = [self.folder / table for table in ("cells", "curves", "arrays", PLANS)]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in folders:
                make_shared_folder(folder)
        except OSError as error:
            raise UsageError(
                f"cannot write to {self.folder} ({error.strerror}); choose another folder with --results DIR"
            ) from error
        for folder in folders:
            if not os.access(folder, os.W_OK | os.X_OK):
                raise UsageError(
                    f"cannot write to {folder}; ask its owner for permission (chmod g+w), or choose another folder "
                    "with --results DIR"
                )

    def is_results(self) -> bool:
        """Return whether gradbench wrote this folder."""
        return (self.folder / "experiment.yaml").is_file() or (self.folder / "cells").is_dir()

    def statuses(self) -> dict[str, str]:
        """Return cell id -> status of every cell in the table; a finished status outranks ``failed``.

        Raises:
            UsageError: as :meth:`cells`, and if an older gradbench, whose cells have other ids, made the folder.
        """
        cells = self.cells(columns=["cell", "status", "format", "gradbench"])
        refuse_older(self.folder, cells)
        return dict(zip(cells["cell"], cells["status"], strict=True)) if len(cells) else {}

    def cells(self, columns: list[str] | None = None, begins: str = "") -> pd.DataFrame:
        """Return the table of cells, one row per cell; damaged parts are left out.

        Args:
            columns: those to read; all by default.
            begins: read the cells alone whose ids begin so.

        Raises:
            UsageError: if the parts are no table of cells, or a newer gradbench wrote one.
        """
        parts = read_parts(self.folder / "cells", columns, begins)
        table = concat_parts(parts)
        if parts and not {"cell", "status"} <= set(table):
            raise UsageError(
                f"{self.folder / 'cells'} holds no table of cells; choose another with --results DIR"
            )
        if not parts:
            return table
        # a kill between two renames can leave a failure beside the success that followed it
        order = table["status"].isin(FINISHED).sort_values(kind="stable").index
        return table.loc[order].drop_duplicates("cell", keep="last").reset_index(drop=True)

    def curves(self, columns: list[str] | None = None, begins: str = "") -> pd.DataFrame:
        """Return the table of curves, one row per cell and recorded step; damaged parts are left out.

        Arguments are those of :meth:`cells`.
        """
        key = ["cell", "step"]
        parts = read_parts(self.folder / "curves", columns, begins)
        parts = [part for part in parts if set(key) <= set(part.column_names)]
        return concat_parts(parts).drop_duplicates(key, keep="last") if parts else pd.DataFrame(columns=key)

    def write(
        self,
        rows: Sequence[Mapping[str, Any]],
        curves: pd.DataFrame,
        arrays: Mapping[str, Mapping[str, np.ndarray]],
    ) -> None:
        """Write the parts of finished cells; the part in ``cells``, which marks completion, comes last.

        Each row also gets the columns ``RECORDED``, by which :mod:`gradbench.storage.repair` notices what is lost.

        Args:
            rows: one row of the table of cells per cell of a stack.
            curves: the stack's rows of the table of curves.
            arrays: cell id -> name -> array, for the cells that have arrays.
        """
        name = part_name(row["cell"] for row in rows)
        sizes = {
            cell: write_arrays(self.folder / "arrays" / f"{cell}.npz", named)
            for cell, named in arrays.items()
        }
        counts = curves["cell"].value_counts()
        recorded = [
            {"arrays_bytes": sizes.get(row["cell"], 0), "curve_rows": int(counts.get(row["cell"], 0))}
            for row in rows
        ]
        plain = pa.Table.from_pandas(curves, preserve_index=False).replace_schema_metadata()
        write_table(self.folder / "curves" / name, plain)
        write_table(
            self.folder / "cells" / name,
            table_from_rows([dict(row) | more for row, more in zip(rows, recorded, strict=True)]),
        )
        for row in rows:
            with contextlib.suppress(OSError):  # a failure that cannot be removed is outranked by the success
                failure_path(self.folder, row["cell"]).unlink()

    def write_failures(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write one part per failed cell; it is removed once the cell is finished."""
        for row in rows:
            write_table(failure_path(self.folder, row["cell"]), table_from_rows([row]))

    def unify_schemas(self) -> None:
        """Give all parts of a table one schema, so that ``pandas.read_parquet`` of its folder reads the whole table.

        Failures of cells that have finished since are removed.
        """
        finished = {cell for cell, status in self.statuses().items() if status in FINISHED}
        for path in part_paths(self.folder / "cells"):
            if path.stem.startswith("failed-") and path.stem.removeprefix("failed-") in finished:
                path.unlink(missing_ok=True)
        for table in ("cells", "curves"):
            schemas = {}
            for path in part_paths(self.folder / table):
                with contextlib.suppress(DamagedError):  # also raised if another run has just removed it
                    schemas[path] = read_schema(path)
            whole = common_schema(schemas.values())
            for path, schema in schemas.items():
                if not schema.equals(whole):
                    with contextlib.suppress(DamagedError):
                        write_table(path, conform(read_table(path), whole))


def refuse_older(folder: Path, cells: pd.DataFrame) -> None:
    """Refuse a table of cells of an older results format: its ids match no current cell.

    Raises:
        UsageError: if one of the rows has an older format.
    """
    if "format" not in cells:
        return
    formats = pd.to_numeric(cells["format"], errors="coerce")
    older = cells[formats < FORMAT]
    if len(older):
        version = older["gradbench"].iloc[0] if "gradbench" in older else "of unknown version"
        raise UsageError(
            f"{folder} holds cells of results format {formats.min():.0f}, made by gradbench {version}, and ids differ "
            f"since format {FORMAT}, so none would count as finished: choose another folder with --results DIR, or "
            f"move this one away; gradbench report {shlex.quote(str(folder))} still reads it"
        )


# ---- rows --------------------------------------------------------------------------------------------------


def describe(cell: Cell) -> dict[str, Any]:
    """Return the columns that identify a cell: id, leaves of the config, hashes of sources, program, data; command."""
    columns: dict[str, Any] = {"cell": cell.id}
    for key, value in leaves(cell.config):
        # the choice of a group (regularizer.name) is stored under the group's name (regularizer)
        group, _, rest = key.partition(".")
        column = group if group in GROUPS and rest == "name" else typed(key)
        columns[column] = json.dumps(value) if isinstance(value, list) else value
    columns |= {f"{node}.{SOURCE}": sha256 for node, sha256 in cell.sources.items()}
    columns |= {"step_program": cell.step_program, "data_sha256": cell.data_sha256}
    return columns | {"command": cell.command(), "format": FORMAT}


def curve_rows(
    cell: str,
    curves: Mapping[str, np.ndarray],
    evaluations: Mapping[int, Mapping[str, np.ndarray]],
    k: int,
    last: int,
    every: int,
) -> pd.DataFrame:
    """Return the rows of one cell for the table of curves.

    Args:
        cell: id of the cell.
        curves: name -> series [steps, K] of the cell's stack.
        evaluations: step -> metric -> values [K].
        k: index of the cell in its stack of K cells.
        last: last step that the cell trained.
        every: steps between recorded ones; evaluated steps and the last one are always recorded.
    """
    steps = sorted({*range(every, last + 1, every), *(step for step in evaluations if step <= last), last})
    index = np.asarray(steps) - 1
    table = pd.DataFrame(
        {"cell": cell, "step": steps} | {name: series[index, k] for name, series in curves.items()}
    )
    measured = pd.DataFrame(
        [
            {"step": step} | {name: values[k] for name, values in metrics.items()}
            for step, metrics in evaluations.items()
        ]
    )
    return table.merge(measured, on="step", how="left") if len(measured) else table

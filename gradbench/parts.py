"""Parts of the two tables: parquet files that appear whole or not at all, and whose columns fit together."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gradbench.errors import UsageError
from gradbench.grid import digest

ALWAYS = pa.schema(
    [("diverged_at", pa.int64()), ("error", pa.large_string())],
    # pandas reads an integer column that has nulls as floats, unless it is told not to
    metadata={
        "pandas": json.dumps(
            {
                "index_columns": [],
                "column_indexes": [],
                "columns": [
                    {
                        "name": "diverged_at",
                        "field_name": "diverged_at",
                        "pandas_type": "int64",
                        "numpy_type": "Int64",
                        "metadata": None,
                    }
                ],
            }
        )
    },
)
"""Columns of the table of cells whose type is known even where they are null throughout."""


def part_name(cells: Iterable[str]) -> str:
    """Return the name of the part that holds these cells."""
    return f"{digest(sorted(cells))}.parquet"


def failure_part(folder: Path, cell: str) -> Path:
    """Return where the failure of one cell is written."""
    return folder / "cells" / f"failed-{cell}.parquet"


def part_paths(folder: Path) -> list[Path]:
    """Return a table's parts, in a fixed order; temporary files are none."""
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))


def read_part(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Return one part; of the columns asked for, those that it has.

    Raises:
        UsageError: where it cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            return file.read(columns=[name for name in names if columns is None or name in columns])
    except (OSError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"cannot read {path} ({reason}); delete it and run the same command again"
        ) from error


def read_parts(folder: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Return the union of a table's parts; a column that a part lacks is null there."""
    parts = [read_part(path, columns) for path in part_paths(folder)]
    if not parts:
        return pd.DataFrame()
    whole = unified(part.schema for part in parts)
    table: pd.DataFrame = pa.concat_tables([conform(part, whole) for part in parts]).to_pandas()
    return table


def write_table(path: Path, table: pa.Table) -> None:
    """Write one part."""
    write_atomically(path, partial(pq.write_table, table))


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows of the table of cells as a table; a column that a row lacks is null there."""
    parts = [pa.Table.from_pylist([dict(row)]) for row in rows]
    whole = unified([*(part.schema for part in parts), ALWAYS]).with_metadata(ALWAYS.metadata)
    return pa.concat_tables([conform(part, whole) for part in parts])


def unified(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Return the columns of all schemas, each of a type that holds it everywhere; at worst, text."""
    fields: dict[str, pa.Field] = {}
    metadata = None
    for schema in schemas:
        metadata = metadata or schema.metadata
        for field in schema:
            before = fields.setdefault(field.name, field)
            if not before.equals(field):
                fields[field.name] = common(before, field)
    return pa.schema(list(fields.values()), metadata=metadata)


def common(one: pa.Field, other: pa.Field) -> pa.Field:
    """Return a column of a type that holds the values of two."""
    try:
        both = [pa.schema([one]), pa.schema([other])]
        return pa.unify_schemas(both, promote_options="permissive").field(0)
    except pa.ArrowException:
        return pa.field(one.name, pa.large_string())


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with the columns of a schema; those that it lacks are null."""
    names = set(table.column_names)
    columns = [
        table[field.name].cast(field.type) if field.name in names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def write_arrays(path: Path, named: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name, as numbers alone."""
    write_atomically(path, lambda file: np.savez_compressed(file, allow_pickle=False, **named))


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


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that it is neither used nor lost; return its new name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)
    return aside

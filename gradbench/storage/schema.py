"""Parts of the two tables: file names, and one schema for parts with different columns."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from gradbench.atomic import unreadable
from gradbench.config.hashing import digest
from gradbench.errors import DamagedError
from gradbench.storage.parquet import is_text, largest_table, read_table, reading

FIXED_TYPES = pa.schema(
    [("diverged_at", pa.int64()), ("error", pa.large_string())],
    # without this metadata pandas reads an integer column that has nulls as floats
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
"""Columns of the table of cells whose type is fixed, even if all of their values are null."""


MAX_SMALL = 2**28
"""Bytes in memory that a table may have however small its files are."""


def part_name(cells: Iterable[str]) -> str:
    """Return the file name of the part that holds these cells."""
    return f"{digest(sorted(cells))}.parquet"


def failure_path(folder: Path, cell: str) -> Path:
    """Return the path of the part that records the failure of one cell."""
    return folder / "cells" / f"failed-{cell}.parquet"


def part_paths(folder: Path, suffix: str = ".parquet") -> list[Path]:
    """List the parts of a table, as :func:`part_names` does."""
    return [folder / name for name in part_names(folder, suffix)]


def part_names(folder: Path, suffix: str = ".parquet") -> list[str]:
    """List the names of a table's parts in a fixed order, without temporary files; none where there is no folder.

    Raises:
        UsageError: if the folder cannot be listed, which says nothing of its content.
    """
    try:
        names = os.listdir(folder)  # noqa: PTH208 - unlike glob, it raises for a folder that cannot be read
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(folder, error) from error
    return [name for name in sorted(names) if name.endswith(suffix) and not name.startswith(".")]


def current_parts(folder: Path) -> Iterator[Path]:
    """List the parts of a table, then those that appeared meanwhile, in which some that are gone may be united.

    Raises:
        UsageError: as :func:`part_paths`.
    """
    known: set[Path] = set()
    while new := [path for path in part_paths(folder) if path not in known]:
        known.update(new)
        yield from new


def read_parts(folder: Path, columns: list[str] | None = None, begins: str = "") -> list[pa.Table]:
    """Read the parts of a table; requested columns that a part lacks are left out.

    Only rows of cells whose ids begin as asked for are read; of parts that have none, their ids alone.

    Damaged parts are skipped. The caller can report them with :func:`gradbench.storage.repair.find_damage`.
    """
    return [part for part in scan_parts(folder, columns, begins) if isinstance(part, pa.Table)]


def scan_parts(
    folder: Path, columns: list[str] | None = None, begins: str = ""
) -> Iterator[pa.Table | DamagedError]:
    """Read the parts of a table one by one; for a part that is damaged, yield the error.

    The parts are about to become one table, so a part with which that would be larger than its files can hold is an
    error: a part with a thousand columns and one with a million rows make a billion values.
    """
    rows, size, names = 0, 0, set[str]()
    for path in current_parts(folder):
        try:
            wanted = find_rows(path, begins) if begins else None
            if wanted is not None and not pc.any(wanted).as_py():
                continue
            part = read_table(path, columns)
            part = part if wanted is None else part.filter(wanted)
            with reading(path):
                size += path.stat().st_size
            rows, names = rows + len(part), names | set(part.column_names)
            if 8 * rows * len(names) > largest_table(size, MAX_SMALL):
                raise DamagedError(path, "with it the table is larger than its files can hold")
        except DamagedError as error:
            if os.path.lexists(path):  # otherwise another process has removed it
                yield error
        else:
            yield part


def find_rows(path: Path, begins: str) -> pa.ChunkedArray | None:
    """Return which rows of a part are of cells whose ids begin so; ``None`` if it has no ids.

    Raises as :func:`read_table`.
    """
    ids = read_table(path, ["cell"])
    if ids.column_names and is_text(ids["cell"].type):
        return pc.fill_null(pc.starts_with(ids["cell"], begins), False)
    return None


def concat_parts(parts: Sequence[pa.Table]) -> pd.DataFrame:
    """Concatenate parts into one table; a column that a part lacks is null there."""
    if not parts:
        return pd.DataFrame()
    whole = common_schema(part.schema for part in parts)
    table: pd.DataFrame = pa.concat_tables([conform(part, whole) for part in parts]).to_pandas()
    return table


def table_from_rows(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Build a part of the table of cells from its rows; a column that a row lacks is null there."""
    parts = [pa.Table.from_pylist([dict(row)]) for row in rows]
    whole = common_schema([*(part.schema for part in parts), FIXED_TYPES]).with_metadata(FIXED_TYPES.metadata)
    return pa.concat_tables([conform(part, whole) for part in parts])


def common_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Return the union of schemas; a column with several types gets one that holds them all, in the end text."""
    fields: dict[str, pa.Field] = {}
    metadata = None
    for schema in schemas:
        metadata = metadata or schema.metadata
        for field in schema:
            before = fields.setdefault(field.name, field)
            if not before.equals(field):
                fields[field.name] = common_field(before, field)
    return pa.schema(list(fields.values()), metadata=metadata)


def common_field(one: pa.Field, other: pa.Field) -> pa.Field:
    """Return a field whose type holds the values of two fields of one name."""
    try:
        both = [pa.schema([one]), pa.schema([other])]
        return pa.unify_schemas(both, promote_options="permissive").field(0)
    except pa.ArrowException:
        return pa.field(one.name, pa.large_string())


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Cast a table to a schema; columns that it lacks are null."""
    if table.schema.equals(schema):
        return table.replace_schema_metadata(schema.metadata)
    names = set(table.column_names)
    columns = [
        # safe=False, because integers in a column that holds floats elsewhere become floats
        table[field.name].cast(field.type, safe=False)
        if field.name in names
        else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)

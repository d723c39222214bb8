"""The table of costs of a results folder: how long steps took, timed side by side after a sweep.

    costs/*.parquet      one row per program and round

A program is all cells whose steps cost the same (``step_program`` in the table of cells). Those of a part were timed
together, in rounds: each round times every program once. The table is no result: without it a report shows no cost.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from gradbench import FORMAT
from gradbench.atomic import make_shared_folder, unwritable
from gradbench.config.hashing import digest
from gradbench.errors import DamagedError
from gradbench.storage.parquet import write_table
from gradbench.storage.schema import concat_parts, scan_parts

NAME = "costs"
"""Name of the table's folder."""

NUMBERS = {
    "round": pa.int64(),
    "step_seconds": pa.float64(),
    "step_ratio": pa.float64(),
    "width": pa.int64(),
    "steps": pa.int64(),
}
TEXTS = ("step_program", "model", "regularizer", "device", "device_name", "gradbench", "torch", "measured")
SCHEMA = pa.schema(
    [*((name, pa.string()) for name in TEXTS), *NUMBERS.items(), pa.field("format", pa.int64())]
)


def write_costs(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a part of the table: the rows of programs that were timed together on one device.

    Raises:
        StorageError: if it cannot be written.
    """
    named = digest([rows[0]["device"], *sorted({row["step_program"] for row in rows})])
    path = folder / NAME / f"{named}.parquet"
    try:
        make_shared_folder(path.parent)
    except OSError as error:
        raise unwritable(path.parent, error) from error
    write_table(path, pa.Table.from_pylist([{**row, "format": FORMAT} for row in rows], SCHEMA))


def read_costs(folder: Path, columns: list[str] | None = None) -> tuple[pd.DataFrame, list[DamagedError]]:
    """Read the table, and why parts of it are left out; it is empty in a folder without one."""
    parts, damaged = [], []
    for part in scan_parts(folder / NAME, columns):
        if isinstance(part, DamagedError):
            damaged.append(part)
        else:
            parts.append(part)
    return concat_parts(parts), damaged

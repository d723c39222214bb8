"""Compact a results folder: many small parts of the tables of cells and curves become few.

A new part has the rows of several old ones, under the name that its cells give it, in both tables; the row of a cell in
``cells`` and its rows in ``curves`` stay in parts of one name. It is written before the old ones are removed: a kill in
between leaves some rows twice, which readers drop, and the same command completes it. The table of costs has few parts,
whose names say what they measured, and is left as it is.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from gradbench.atomic import sync_folder, unwritable
from gradbench.errors import UsageError
from gradbench.storage import repair
from gradbench.storage.cleanup import remove_stale_files
from gradbench.storage.locks import hold_alone
from gradbench.storage.parquet import read_table, write_table
from gradbench.storage.results import Results
from gradbench.storage.sanitize import check_folder, is_cell
from gradbench.storage.schema import common_schema, conform, part_name, part_paths

TABLES = ("cells", "curves")

MAX_ROWS, MAX_BYTES = 50_000, 2**26
"""Rows of a new part of ``cells``, and bytes of it and its curves; a damaged part costs all of its cells."""


def compact(folder: Path) -> list[str]:
    """Unite the parts of the tables of cells and curves; no value changes.

    Parts of failed cells, damaged ones and those that a person has put there under other names are left as they are.

    Returns:
        Lines for the user.

    Raises:
        UsageError: if it is no results folder, or a run is at work in it.
        StorageError: if it cannot be written; typed again, the command completes it.
    """
    results = Results(folder)
    if not folder.is_dir() or not results.is_results():
        raise UsageError(f"{folder} is no results folder; name one that `gradbench run` has written")
    check_folder(folder)
    with hold_alone(folder):
        before = count_parts(folder)
        remove_stale_files(folder)
        repair.remove_stale_curves(folder)
        results.unify_schemas()
        rows, _ = repair.read_finished(folder)
        damages = repair.find_damage(folder)
        torn = [damage for damage in damages if damage.path.parent.name in TABLES]
        left = {damage.path.name for damage in torn}
        left |= {row.part for damage in torn for cell in damage.needed for row in rows[cell]}
        held = Counter(row.part for own in rows.values() for row in own if row.part not in left)
        for names in plan_parts(folder, held):
            unite(folder, names)
        after = count_parts(folder)
    lines = [f"{table}: {before[table]:,} parts, now {after[table]:,}" for table in TABLES]
    if damages:
        lines.append(
            f"{damages[0].path} is damaged or missing ({damages[0].reason})"
            + (f", and {len(damages) - 1} more" if len(damages) > 1 else "")
            + ": what they concern is left as it is; type the command that made them again"
        )
    return lines


def count_parts(folder: Path) -> dict[str, int]:
    """Return the number of parts of each table."""
    return {table: len(part_paths(folder / table)) for table in TABLES}


def plan_parts(folder: Path, held: Mapping[str, int]) -> list[list[str]]:
    """Return which parts become one, the small ones first; of one that is large enough nothing is to be done.

    Args:
        folder: the results folder.
        held: name of a part -> number of its cells.
    """
    groups: list[list[str]] = []
    rows, size = 0, 0
    for name in sorted(
        filter(lambda name: is_cell(Path(name).stem), held), key=lambda name: (held[name], name)
    ):
        paths = [folder / table / name for table in TABLES]
        own = sum(path.stat().st_size for path in paths if path.is_file())
        if not groups or rows + held[name] > MAX_ROWS or size + own > MAX_BYTES:
            groups.append([])
            rows, size = 0, 0
        groups[-1].append(name)
        rows, size = rows + held[name], size + own
    return [sorted(names) for names in groups if len(names) > 1]


def unite(folder: Path, names: Sequence[str]) -> None:
    """Write one part in place of several, in both tables: curves first, and rows of cells before any is removed.

    Raises:
        StorageError: if it cannot be written.
    """
    cells = keep_last(concat([folder / "cells" / name for name in names]), ["cell"])
    curves = [path for path in (folder / "curves" / name for name in names) if path.is_file()]
    united = part_name(cells["cell"].to_pylist())
    if curves:
        write_table(folder / "curves" / united, keep_last(concat(curves), ["cell", "step"]))
    write_table(folder / "cells" / united, cells)
    for table in TABLES:
        remove_all([folder / table / name for name in names if name != united])


def concat(paths: Sequence[Path]) -> pa.Table:
    """Read parts and concatenate them."""
    parts = [read_table(path) for path in paths]
    whole = common_schema(part.schema for part in parts)
    return pa.concat_tables([conform(part, whole) for part in parts])


def keep_last(table: pa.Table, key: Sequence[str]) -> pa.Table:
    """Drop all but the last of the rows with equal keys: a killed command has left some twice."""
    doubled = table.select(list(key)).to_pandas().duplicated(keep="last").to_numpy()
    return table.filter(pa.array(~doubled)) if np.any(doubled) else table


def remove_all(paths: Sequence[Path]) -> None:
    """Remove files of one folder, durably.

    Raises:
        StorageError: if the disk cannot be written.
    """
    try:
        for path in paths:
            path.unlink(missing_ok=True)
        sync_folder(paths[0].parent)
    except OSError as error:
        raise unwritable(paths[0].parent, error) from error

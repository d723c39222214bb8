"""Merge results folders: what machines that share no folder have trained becomes one.

Folders stand in the order in which they were named, the target first if it holds results: what several have is taken
from the first of them, and what the target has stays. Everything is compared before anything is written. A part of the
target is written like a worker's, its rows in ``cells`` last, so that after a kill the same command completes it.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from gradbench.atomic import make_shared_folder, unwritable, write_atomically
from gradbench.config.hashing import digest
from gradbench.config.identity import LABELS, WEIGHTS, is_data_location
from gradbench.errors import DamagedError, UsageError
from gradbench.storage import costs, repair
from gradbench.storage.cleanup import checkpoint_cells, remove_stale_files
from gradbench.storage.grids import cells_of, list_grids, read_experiment, remember_grids
from gradbench.storage.locks import hold_alone, refuse_run_in
from gradbench.storage.parquet import check_arrays, read_content, read_table, write_table
from gradbench.storage.plans import PLANS
from gradbench.storage.provenance import COLUMNS
from gradbench.storage.results import FINISHED, RECORDED, Results, refuse_older
from gradbench.storage.sanitize import check_folder, is_cell
from gradbench.storage.schema import common_schema, conform, failure_path, part_name, part_paths

OUTCOME = frozenset(
    (
        *("cell", "command", "status", "diverged_at", "error", "step_seconds", "seconds", "width", "exact"),
        *("test_examples", "execution", "started", "finished", "step_program", *RECORDED, *COLUMNS),
    )
)
"""Columns of the table of cells that are no config, but for metrics, which have a slash in their name.

The program of a step follows from the config, in a way that may differ between versions.
"""


@dataclass(frozen=True)
class Source:
    """A results folder that is merged.

    Attributes:
        folder: the folder.
        cells: its table of cells, by their ids.
        damages: what is damaged or missing in it.
        grids: those that it was asked for.
    """

    folder: Path
    cells: pd.DataFrame
    damages: list[repair.Damage]
    grids: list[dict[str, Any]]

    @property
    def incomplete(self) -> set[str]:
        """The finished cells that have lost curves or arrays."""
        return {cell for damage in self.damages for cell in damage.needed}

    @property
    def known_cells(self) -> set[str]:
        """The cells that it was asked for, and those that it has."""
        return {cell for grid in self.grids for cell in cells_of(grid)} | set(self.cells.index)


def merge(folders: Sequence[Path], into: Path) -> list[str]:
    """Merge results folders into one, which may be one of them.

    Args:
        folders: the folders; none of them is changed, but for the target.
        into: the target: new, empty or a results folder.

    Returns:
        Lines for the user: what was done, and what was left out.

    Raises:
        UsageError: if a folder cannot be used or a run is at work in it, or if folders contradict each other.
        StorageError: if the target cannot be written; typed again, the command completes it.
    """
    target = Results(into)
    try:
        target.check()
    except UsageError as error:
        raise UsageError(str(error).replace("--results DIR", "--into DIR")) from error
    same: dict[Path, Path] = {}
    for folder in folders:
        same.setdefault(folder.resolve(), folder)
    others = [folder for path, folder in same.items() if path != into.resolve()]
    for folder in folders:
        if not folder.is_dir() or not Results(folder).is_results():
            raise UsageError(f"{folder} is no results folder; name folders that `gradbench run` has written")
    if not others:
        raise UsageError(
            f"there is nothing to merge into {into} but itself; name other results folders before --into"
        )
    for folder in others:
        check_folder(folder)
        refuse_run_in(folder)
    with contextlib.ExitStack() as held:
        lines: list[str] = []
        existed = target.is_results()
        if existed:
            held.enter_context(hold_alone(into))
            others = [into, *others]
        sources = [read_source(folder, lines) for folder in others]
        lines += [*compare(sources), *note_strangers(sources)]
        chosen = choose(sources)
        target.make_folder()
        if not existed:
            held.enter_context(hold_alone(into))
        write(sources, chosen, target)
        lines += note_checkpoints(sources, target)
    return [*describe(sources, chosen, target), *lines]


def read_source(folder: Path, lines: list[str]) -> Source:
    """Read what a folder holds; lines on what is damaged, and left out, are added to ``lines``.

    Raises:
        UsageError: if another version wrote it, or it cannot be read.
    """
    cells = Results(folder).cells()
    refuse_older(folder, cells)
    if len(cells):
        known = cells["cell"].map(is_cell) & cells["status"].isin((*FINISHED, "failed"))
        cells = cells[known].set_index("cell")
    damages = repair.find_damage(folder)
    lines += [f"left out: {damage.path} is damaged or missing ({damage.reason})" for damage in damages]
    try:
        grids = [grid for grid in list_grids(read_experiment(folder)) if grid]
    except DamagedError as error:
        lines.append(f"left out: {error.path} is damaged ({error.reason})")
        grids = []
    return Source(folder, cells, damages, grids)


# ---- comparing ---------------------------------------------------------------------------------------------


def compare(sources: Sequence[Source]) -> list[str]:
    """Compare the cells that folders have in common; return a line on metric values that differ.

    Raises:
        UsageError: if a config or the status of a finished cell differs.
    """
    differing: dict[str, tuple[float, str]] = {}
    for one, other in itertools.combinations(sources, 2):
        common = one.cells.index.intersection(other.cells.index, sort=False)
        if common.empty:
            continue
        left, right = one.cells.loc[common], other.cells.loc[common]
        refuse_other_configs(one.folder, left, other.folder, right)
        finished = left["status"].isin(FINISHED) & right["status"].isin(FINISHED)
        left, right = left[finished], right[finished]
        statuses = left["status"] != right["status"]
        if statuses.any():
            cell = statuses.index[statuses][0]
            what = f"{left['status'][cell]} in {one.folder} and {right['status'][cell]} in {other.folder}"
            raise contradiction(cell, what, int(statuses.sum()), other.folder)
        for cell, size, text in differing_values(one.folder, left, other.folder, right):
            if size >= differing.get(cell, (-1.0, ""))[0]:
                differing[cell] = size, text
    if not differing:
        return []
    size, text = max(differing.values())
    number = f"{len(differing)} cells have" if len(differing) > 1 else "1 cell has"
    return [
        f"{number} other metric values in another folder, the relative difference is up to {size:.2g} ({text}): kept "
        f"are those of the first of {', '.join(str(source.folder) for source in sources)}"
    ]


def refuse_other_configs(one: Path, left: pd.DataFrame, other: Path, right: pd.DataFrame) -> None:
    """Raise a UsageError if cells, aligned in two tables, have other configs; a key that one lacks was added later."""
    for column in filter(is_config, left.columns.intersection(right.columns)):
        differs = differ(left[column], right[column])
        if differs.any():
            cell = differs.index[differs][0]
            what = f"has {column}={left[column][cell]} in {one} and {right[column][cell]} in {other}"
            raise contradiction(cell, what, int(differs.sum()), other)


def contradiction(cell: str, what: str, number: int, folder: Path) -> UsageError:
    """Return the error to raise for cells that two folders contradict each other on.

    Args:
        cell: the first of them.
        what: what each folder has of it.
        number: how many there are.
        folder: one of the two.
    """
    more = f" (and {number - 1} more)" if number > 1 else ""
    held = [path for path, _ in read_rows(folder, {cell}, (*FINISHED, "failed"))]
    return UsageError(
        f"cell {cell} {what}{more}; nothing is merged. Leave out one of the two folders, or move "
        f"{' and '.join(map(str, held))} away: the next run trains its cells again"
    )


def is_config(column: str) -> bool:
    """Return whether a column is a part of the config that determines what a cell computes."""
    group, _, key = column.rpartition(".")
    described = column in (*OUTCOME, *LABELS, WEIGHTS) or key == "family" or "/" in column
    return not described and key != "_target_" and not is_data_location(group, key)


def differ(one: pd.Series, other: pd.Series) -> "pd.Series[bool]":
    """Return where two aligned columns have other values; a missing value differs from none."""
    if not (pd.api.types.is_numeric_dtype(one) and pd.api.types.is_numeric_dtype(other)):
        one, other = one.map(as_text, na_action="ignore"), other.map(as_text, na_action="ignore")
    return (one.notna() & other.notna() & (one != other)).astype(bool)


def as_text(value: object) -> str:
    """Return a value as text that is the same in whichever type a table has stored it."""
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    try:
        return repr(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(value)


def differing_values(
    one: Path, left: pd.DataFrame, other: Path, right: pd.DataFrame
) -> Iterator[tuple[str, float, str]]:
    """Yield cells whose metrics differ between two aligned tables, the relative difference, and where it is."""
    metrics = [
        name for name in left.columns.intersection(right.columns) if "/" in name or name == "diverged_at"
    ]
    for column in metrics:
        a = pd.to_numeric(left[column], errors="coerce").astype(float)
        b = pd.to_numeric(right[column], errors="coerce").astype(float)
        differs = a.notna() & b.notna() & (a != b)
        for cell, x, y in zip(a.index[differs], a[differs], b[differs], strict=True):
            largest = max(abs(x), abs(y))
            size = abs(x - y) / largest if math.isfinite(largest) else math.inf
            yield cell, size, f"{column} of {cell} is {x:.9g} in {one} and {y:.9g} in {other}"


def note_strangers(sources: Sequence[Source]) -> list[str]:
    """Say which folders have no cell in common with those named before them, neither made nor asked for."""
    lines = []
    for index, source in enumerate(sources):
        before = set().union(*(one.known_cells for one in sources[:index]))
        if before and source.known_cells and before.isdisjoint(source.known_cells):
            lines.append(f"{source.folder} has no grid in common with what is named before it: both are kept")
    return lines


# ---- choosing ----------------------------------------------------------------------------------------------


def choose(sources: Sequence[Source]) -> list[dict[str, str]]:
    """Choose the folder that each cell is taken from.

    That is the first in which it is finished with all its files; else the first in which it is finished; else the
    first in which it failed.

    Returns:
        Of each folder, cell -> status.
    """
    best: dict[str, tuple[int, int, str]] = {}
    for place, source in enumerate(sources):
        incomplete = source.incomplete
        statuses: dict[str, str] = dict(source.cells.get("status", {}))
        for cell, status in statuses.items():
            rank = 2 if status not in FINISHED else int(cell in incomplete)
            found = (rank, place, status)
            best[cell] = min(found, best.get(cell, found))
    chosen: list[dict[str, str]] = [{} for _ in sources]
    for cell, (_, place, status) in best.items():
        chosen[place][cell] = status
    return chosen


# ---- writing -----------------------------------------------------------------------------------------------


def write(sources: Sequence[Source], chosen: Sequence[dict[str, str]], target: Results) -> None:
    """Write to the target what is chosen of the other folders, and the grids and timings of all of them.

    Raises:
        StorageError: if it cannot be written.
    """
    remove_stale_files(target.folder)
    remember_grids(target.folder, [grid for source in reversed(sources) for grid in reversed(source.grids)])
    for source, cells in zip(sources, chosen, strict=True):
        if source.folder == target.folder:
            elsewhere = source.incomplete - cells.keys()
            healed = [damage for damage in source.damages if damage.needed.keys() & elsewhere]
            repair.mend(target.folder, healed, elsewhere)
        else:
            copy_finished(source, {cell for cell, status in cells.items() if status in FINISHED}, target)
            copy_failures(source, {cell for cell, status in cells.items() if status not in FINISHED}, target)
            copy_costs(source.folder, target.folder)
            copy_plans(source.folder, target.folder)
    repair.remove_stale_curves(target.folder)
    target.unify_schemas()


def copy_finished(source: Source, cells: set[str], target: Results) -> None:
    """Copy finished cells part by part: arrays, then curves, then rows."""
    counts, _ = repair.count_curves(source.folder) if cells else ({}, {})
    holders: dict[str, list[str]] = {}
    for name, held in counts.items():
        for cell in held.keys() & cells:
            holders.setdefault(cell, []).append(name)
    left = set(cells)
    for path, rows in read_rows(source.folder, left, FINISHED):
        here = list(dict.fromkeys(rows["cell"].to_pylist()))
        left.difference_update(here)
        name = part_name(here)
        for cell in here:
            copy_arrays(source.folder, target.folder, cell)
        # a cell's curves are in the part of the same name, but for those that a person has moved
        parts = dict.fromkeys(
            path.name if path.name in holders[cell] else max(holders[cell], key=lambda one: counts[one][cell])
            for cell in here
            if cell in holders
        )
        curves = [select(read_table(source.folder / "curves" / part), here) for part in parts]
        if curves:
            whole = common_schema(part.schema for part in curves)
            write_table(
                target.folder / "curves" / name, pa.concat_tables([conform(part, whole) for part in curves])
            )
        write_table(target.folder / "cells" / name, rows)


def copy_failures(source: Source, cells: set[str], target: Results) -> None:
    """Copy the rows of failed cells."""
    left = set(cells)
    for _, rows in read_rows(source.folder, left, ("failed",)):
        for cell in rows["cell"].to_pylist():
            write_table(failure_path(target.folder, cell), select(rows, [cell]))
            left.discard(cell)


def read_rows(folder: Path, cells: set[str], statuses: Sequence[str]) -> Iterator[tuple[Path, pa.Table]]:
    """Yield the parts of the table of cells, the last first, with their rows of these cells and statuses.

    Args:
        folder: the results folder.
        cells: ids; the caller removes those that it has.
        statuses: those of the rows.
    """
    for path in reversed(part_paths(folder / "cells") if cells else []):
        with contextlib.suppress(DamagedError):
            table = read_table(path)
            rows = select(table, [cell for cell in table["cell"].to_pylist() if cell in cells])
            rows = rows.filter(pc.is_in(rows["status"], pa.array(statuses, rows["status"].type)))
            if len(rows):
                yield path, rows


def select(table: pa.Table, cells: Sequence[str]) -> pa.Table:
    """Select the rows of cells."""
    return table.filter(pc.is_in(table["cell"], pa.array(cells, table["cell"].type)))


def copy_arrays(folder: Path, into: Path, cell: str) -> None:
    """Copy the arrays of a cell, if it has some that are not damaged."""
    path = folder / "arrays" / f"{cell}.npz"
    with contextlib.suppress(DamagedError):
        check_arrays(path)
        copy(path, into / "arrays" / path.name)


def copy_costs(folder: Path, into: Path) -> None:
    """Copy timings; those of the same treatments on another machine get another name, and the latest are read.

    Raises:
        StorageError: if they cannot be written.
    """
    paths = part_paths(folder / costs.NAME)
    try:
        if paths:
            make_shared_folder(into / costs.NAME)
    except OSError as error:
        raise unwritable(into / costs.NAME, error) from error
    for path in paths:
        with contextlib.suppress(DamagedError):
            read_table(path)
            content, to = read_content(path), into / costs.NAME / path.name
            if to.exists() and read_content(to) != content:
                to = to.with_name(f"{digest(content.hex())}.parquet")
            copy(path, to)


def copy_plans(folder: Path, into: Path) -> None:
    """Copy plans, whose names say which cells they have."""
    for path in part_paths(folder / PLANS):
        if not (into / PLANS / path.name).exists():
            with contextlib.suppress(DamagedError):
                copy(path, into / PLANS / path.name)


def copy(path: Path, to: Path) -> None:
    """Copy a file, whole or not at all; raises as :func:`read_content` and :func:`write_atomically`."""
    content = read_content(path)
    write_atomically(to, lambda file: file.write(content))


# ---- telling -----------------------------------------------------------------------------------------------


def note_checkpoints(sources: Sequence[Source], target: Results) -> list[str]:
    """Say where checkpoints of unfinished stacks stay: a copy would be believed as this user's own."""
    finished = {cell for cell, status in target.statuses().items() if status in FINISHED}
    lines = []
    for source in sources:
        paths = part_paths(source.folder / "checkpoints", ".pt") if source.folder != target.folder else []
        number = sum(finished.isdisjoint(checkpoint_cells(path)) for path in paths)
        if number:
            stacks = "1 stack" if number == 1 else f"{number} stacks"
            lines.append(
                f"checkpoints of {stacks} stay in {source.folder}: a run in {target.folder} trains their cells from "
                "their first step"
            )
    return lines


def describe(sources: Sequence[Source], chosen: Sequence[dict[str, str]], target: Results) -> list[str]:
    """Say how many cells the target holds, from which folders, and how many are not finished."""
    number = sum(map(len, chosen))
    parts = [
        f"{len(cells)} {'that it had' if source.folder == target.folder else f'from {source.folder}'}"
        for source, cells in zip(sources, chosen, strict=True)
    ]
    lines = [f"{target.folder}: {number} {'cell' if number == 1 else 'cells'}, {', '.join(parts)}"]
    finished = {cell for cells in chosen for cell, status in cells.items() if status in FINISHED}
    left = set().union(*(source.known_cells for source in sources)) - finished
    if left:
        lines.append(
            f"{len(left)} of the cells that were asked for {'is' if len(left) == 1 else 'are'} not finished: the run's "
            f"command, with --results {target.folder}, trains them"
        )
    return lines

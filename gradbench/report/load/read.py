"""Read the files of a results folder as untrusted data: checked and cleaned, never executed."""

import functools
from collections.abc import Container
from pathlib import Path

import numpy as np
import pandas as pd

from gradbench.errors import MAX_LENGTH, DamagedError, UsageError, excerpt
from gradbench.storage.grids import commands_of, read_experiment
from gradbench.storage.parquet import check_arrays
from gradbench.storage.results import RECORDED
from gradbench.storage.sanitize import escape_controls, is_cell, is_command
from gradbench.storage.schema import part_paths, scan_parts

LEFT_OUT = "left out"
"""How a note on a file begins that was not read."""

STATUSES = ("completed", "diverged", "failed")
NEEDED = ("model", "model.metric", "model.goal", "regularizer")
MADE_BY = ("gradbench", "torch", "python", "device", "device_name", "execution", "git_commit")
"""Columns that name the versions, device and commit a cell was made with."""
TEXT_COLUMNS = (
    *NEEDED,
    "model.unit",
    "error",
    "started",
    "finished",
    "data_sha256",
    "step_program",
    *MADE_BY,
)
"""Columns that hold text or null."""
MEASURED = ("step_seconds", "seconds", "width", "exact", "test_examples")
NUMBERS = (*MEASURED, *RECORDED, "diverged_at", "seed")
CURVES = ("loss", "grad_norm", "grad_norm_used", "clipped", "cosine", "penalty")


ADDED = {
    "accumulate": 1,
    "schedule": "constant",
    "schedule._target_": "gradbench.optimizers.schedules.constant",
    "optimizer.weight_decay": 0.0,
    "optimizer.decoupled": False,
}
"""Keys that came later -> what cells of before have."""

MAX_TEXT = {"error": 2**16, "model.unit": 200}
"""Characters of a text in these columns of the table of cells; ``MAX_LENGTH`` in the others."""


def read_experiment_texts(folder: Path) -> tuple[dict[str, str], list[str], list[str]]:
    """Read the text entries of ``experiment.yaml``, sanitized, its commands, and a note if it cannot be read."""
    try:
        content = read_experiment(folder)
    except DamagedError as error:
        remedy = "the next run in this folder writes it anew"
        return {}, [], [f"cannot read {error.path} ({error.reason}): {remedy}"]
    texts = {str(key): value for key, value in content.items() if isinstance(value, str)}
    shown = {key: excerpt(escape_controls(value), MAX_LENGTH) for key, value in texts.items()}
    return shown, commands_of(content), []


def read_parts(path: Path, table: str) -> tuple[pd.DataFrame, list[str]]:
    """Read a table from all of its parts, and note each part that is damaged.

    Raises:
        UsageError: the table has no finished part.

    """
    if not part_paths(path / table):
        below = sorted(child.parent for child in path.glob("*/cells") if part_paths(child))
        hint = f"; did you mean {below[0]}?" if below else ": make some with `gradbench run quick`"
        raise UsageError(f"{path} holds no finished {table} ({table}/*.parquet){hint}")
    frames, notes = [], []
    for part in scan_parts(path / table):
        if isinstance(part, DamagedError):
            notes.append(f"{LEFT_OUT}: {part}")
        else:
            # A column that is null throughout a part has no type; the other parts decide it.
            frames.append(part.to_pandas().dropna(axis="columns", how="all"))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(), notes


def find_damaged_arrays(path: Path, cells: pd.DataFrame) -> list[str]:
    """List a note for each file of arrays that is damaged, and for each that a cell's row promises and that is gone."""
    notes = []
    sizes = cells["arrays_bytes"] if "arrays_bytes" in cells else pd.Series(0.0, cells.index)
    promised = {path / "arrays" / f"{cell}.npz" for cell in cells["cell"][sizes > 0]}
    for file in sorted({*part_paths(path / "arrays", ".npz"), *promised}):
        try:
            check_arrays(file)
        except DamagedError as error:
            notes.append(f"{LEFT_OUT}: {error}")
    return notes


def clean_cells(cells: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Keep the rows that are cells, cast each column to the type a run writes, and sanitize texts for a terminal.

    Returns:
        The cells, and a note on the rows left out.

    """
    kept = cells[cells["cell"].map(is_cell) & cells["status"].isin(STATUSES)].copy()
    for column in map(str, kept):
        values = kept[column]
        if column in NUMBERS or "/" in column:
            kept[column] = to_numbers(values)
        elif column == "command":
            kept[column] = [escape_controls(value) if is_command(value) else None for value in values]
        elif column == "git_dirty":
            kept[column] = [isinstance(value, bool) and value for value in values]
        elif column in TEXT_COLUMNS or not pd.api.types.is_numeric_dtype(values):
            strict, most = column in TEXT_COLUMNS, MAX_TEXT.get(column, MAX_LENGTH)
            kept[column] = values.map(functools.partial(_clean_word, most=most, strict=strict))
    older = kept["schedule"].isna() if "schedule" in kept else pd.Series(True, kept.index)
    for column in ADDED.keys() & set(kept):
        kept[column] = kept[column].mask(older & kept[column].isna(), ADDED[column])
    for column in {*MEASURED, "seed"} & set(kept):
        kept[column] = kept[column].where(np.isfinite(kept[column].astype(float)))
    kept.columns = pd.Index([escape_controls(str(column)) for column in kept])
    kept = kept.dropna(subset=[*NEEDED, "seed"])
    gone = len(cells) - len(kept)
    return kept, [f"{gone} rows left out: not what a run writes of a cell"] if gone else []


@functools.lru_cache(maxsize=4096)
def _cached_plain(word: str) -> str:
    """Sanitize a text with :func:`escape_controls`, cached because most columns repeat a few texts."""
    return escape_controls(word)


def _clean_word(value: object, *, most: int, strict: bool) -> object:
    if isinstance(value, str):
        return _cached_plain(excerpt(value, most))
    return None if strict else value


def to_numbers(values: pd.Series) -> pd.Series:
    """Convert a column to numbers; other values become missing."""
    return values if pd.api.types.is_numeric_dtype(values) else pd.to_numeric(values, errors="coerce")


def clean_curves(curves: pd.DataFrame, cells: Container[str]) -> pd.DataFrame:
    """Keep the curve rows of known cells, one per step, with all expected columns as numbers."""
    if not {"cell", "step"} <= set(curves):
        curves = pd.DataFrame(columns=["cell", "step"])
    # Millions of rows repeat a few ids: as categories, each id is checked once.
    named = curves["cell"].astype("category")
    known = np.array([*(name in cells for name in named.cat.categories), False])  # the last is for code -1
    curves = curves.assign(cell=named)[known[named.cat.codes.to_numpy()]]
    kept = curves.drop_duplicates(["cell", "step"], keep="last")
    kept = kept.assign(**{name: to_numbers(kept[name]) for name in map(str, kept) if name != "cell"})
    kept = kept[kept["step"].between(1, 2**31)].astype({"step": "int64"})
    absent = {name: np.nan for name in CURVES if name not in kept}
    return kept.assign(**absent).sort_values(["cell", "step"]).reset_index(drop=True)

"""What stands in a results folder, read as data that a stranger may have written: checked, cleaned, never run."""

import functools
from collections.abc import Container
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from gradbench.atomic import reason
from gradbench.errors import DamagedError, UsageError
from gradbench.storage.parquet import check_arrays, read_table
from gradbench.storage.sanitize import escape_controls, is_cell, is_command

STATUSES = ("completed", "diverged", "failed")
NEEDED = ("model", "model.metric", "model.goal", "regularizer")
WORDS = (
    *(*NEEDED, "model.unit", "error", "started", "finished", "data_sha256"),
    *("gradbench", "torch", "python", "device", "device_name", "execution", "git_commit"),
)
"""Columns that hold words or nothing."""
COST = ("step_seconds", "seconds", "width")
CURVES = ("loss", "grad_norm", "grad_norm_used", "clipped", "cosine", "penalty")


def experiment(path: Path) -> tuple[dict[str, str], list[str]]:
    """Return what the folder says of itself, in words, and a note where that cannot be read."""
    try:
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, []
    except Exception as error:  # PyYAML fails in any way at all on a tag that does not suit its value
        return {}, [f"cannot read {path} ({reason(error)}): the next run in this folder writes it anew"]
    stated = spec if isinstance(spec, dict) else {}
    return {key: escape_controls(value) for key, value in stated.items() if isinstance(value, str)}, []


def parts(folder: Path) -> list[Path]:
    """Return the finished part files; a leading dot marks one still being written."""
    return sorted(part for part in folder.glob("*.parquet") if not part.name.startswith("."))


def read(path: Path, table: str) -> tuple[pd.DataFrame, list[str]]:
    """Return a table, and a note on each part that is damaged."""
    found = parts(path / table)
    if not found:
        below = sorted(child.parent for child in path.glob("*/cells") if parts(child))
        hint = f"; did you mean {below[0]}?" if below else ": make some with `gradbench run quick`"
        raise UsageError(f"{path} holds no finished {table} ({table}/*.parquet){hint}")
    frames, notes = [], []
    for part in found:
        try:
            # A column that is null throughout a part has no type of its own; the other parts decide it.
            frames.append(read_table(part).to_pandas().dropna(axis="columns", how="all"))
        except DamagedError as error:
            notes.append(f"left out: {error}")
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(), notes


def damaged_arrays(path: Path) -> list[str]:
    """Return a note on each file of arrays that is damaged."""
    notes = []
    for stored in sorted((path / "arrays").glob("*.npz")):
        try:
            check_arrays(stored)
        except DamagedError as error:
            notes.append(f"left out: {error}")
    return notes


def cleaned(cells: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return what is a cell, every column of the kind that a run writes, its words free of what a terminal would obey.

    Returns also a note on what was left out.
    """
    kept = cells[cells["cell"].map(is_cell) & cells["status"].isin(STATUSES)].copy()
    for column in map(str, kept):
        values = kept[column]
        if column in (*COST, "diverged_at", "seed") or "/" in column:
            kept[column] = numbers(values)
        elif column == "command":
            kept[column] = [value if is_command(value) else None for value in values]
        elif column == "git_dirty":
            kept[column] = [isinstance(value, bool) and value for value in values]
        elif column in WORDS or not pd.api.types.is_numeric_dtype(values):
            kept[column] = values.map(lambda value, strict=column in WORDS: _word(value, strict=strict))
    for column in {*COST, "seed"} & set(kept):
        kept[column] = kept[column].where(np.isfinite(kept[column].astype(float)))
    kept.columns = pd.Index([escape_controls(str(column)) for column in kept])
    kept = kept.dropna(subset=[*NEEDED, "seed"])
    gone = len(cells) - len(kept)
    return kept, [f"{gone} rows left out: not what a run writes of a cell"] if gone else []


@functools.lru_cache(maxsize=4096)
def _plain(word: str) -> str:
    """Return :func:`escape_controls` of a word; most columns repeat a few."""
    return escape_controls(word)


def _word(value: object, *, strict: bool) -> object:
    return _plain(value) if isinstance(value, str) else None if strict else value


def numbers(values: pd.Series) -> pd.Series:
    """Return a column as numbers; what is none is missing."""
    return values if pd.api.types.is_numeric_dtype(values) else pd.to_numeric(values, errors="coerce")


def whole(curves: pd.DataFrame, cells: Container[str]) -> pd.DataFrame:
    """Keep the curve rows of known cells, once per step, with every expected column present and numbers."""
    if not {"cell", "step"} <= set(curves):
        curves = pd.DataFrame(columns=["cell", "step"])
    # Millions of rows repeat a few ids: as categories, each is looked at once.
    named = curves["cell"].astype("category")
    known = np.array([*(name in cells for name in named.cat.categories), False])  # the last is for code -1
    curves = curves.assign(cell=named)[known[named.cat.codes.to_numpy()]]
    kept = curves.drop_duplicates(["cell", "step"], keep="last")
    kept = kept.assign(**{name: numbers(kept[name]) for name in map(str, kept) if name != "cell"})
    kept = kept[kept["step"].between(1, 2**31)].astype({"step": "int64"})
    absent = {name: np.nan for name in CURVES if name not in kept}
    return kept.assign(**absent).sort_values(["cell", "step"]).reset_index(drop=True)

"""From a results folder to tables ready to compare: read, check, and name what each cell was.

Columns derived here and used by every figure: ``treatment`` (the regularizer, with its options where those
vary), ``quantity`` (``threshold``, ``lambda``, … or "" where there is no strength), ``strength`` (number or
nan), ``comparison`` (the label of the group whose cells differ in nothing but the regularizer and the seed),
``value`` (the model's primary metric, nan unless the cell completed) and ``score`` (the value, signed so that
lower is better; inf where the cell diverged, nan where it failed).
"""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradbench.errors import DamagedError, UsageError
from gradbench.report.load import read as stored
from gradbench.report.load.read import COST, numbers
from gradbench.report.render import formatting as text
from gradbench.storage.parquet import read_arrays
from gradbench.storage.sanitize import escape_controls, is_command, refuse_links

NONE = "none"
REQUIRED = ("cell", "model", "model.metric", "model.goal", "regularizer", "seed", "status")
OUTCOME = ("cell", "status", "diverged_at", "error")
PROVENANCE = (
    *("gradbench", "torch", "python", "device", "device_name", "execution", "git_commit", "git_dirty"),
    *("data_sha256", "format", "started", "finished", "command"),
)
DERIVED = ("comparison", "treatment", "quantity", "strength", "value", "score")


@dataclass(frozen=True)
class Results:
    """What a results folder holds of its cells, with the derived columns; :mod:`curves` reads the rest."""

    path: Path
    name: str
    question: str
    command: str
    cells: pd.DataFrame
    notes: tuple[str, ...] = field(default=())  # what reading had to decide, for the audit

    def arrays_of(self, cell: str) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """Return the arrays stored for a cell; empty where it stored none, or they are damaged."""
        path = self.path / "arrays" / f"{cell}.npz"
        with contextlib.suppress(DamagedError):  # the audit names it
            return read_arrays(path) if path.is_file() else {}
        return {}


def load(path: Path) -> Results:
    """Read a results folder.

    Raises:
        UsageError: the folder, its cells or a needed column is missing, or it leads out of itself.

    """
    if not path.is_dir():
        raise UsageError(f"no results at {path}: make some with `gradbench run quick`")
    refuse_links(path)
    spec, unread = stored.experiment(path / "experiment.yaml")
    cells, damaged = stored.read(path, "cells")
    if cells.empty and damaged:
        raise UsageError(damaged[0])
    if missing := [column for column in REQUIRED if column not in cells]:
        raise UsageError(
            f"{path / 'cells'} has no column {', '.join(missing)}: these are not the cells of a run, "
            f"or of another version; make new ones with `gradbench run quick`"
        )
    cells, unknown = stored.cleaned(cells)
    if cells.empty:
        raise UsageError(f"{path / 'cells'} holds no cell: make some results with `gradbench run quick`")
    cells, replaced = _latest(cells)
    cells, twice = _derive(cells)
    torn_arrays = stored.damaged_arrays(path)
    return Results(
        path=path,
        name=spec.get("experiment") or escape_controls(path.resolve().name),
        question=spec.get("question", ""),
        command=spec.get("command", "") if is_command(spec.get("command")) else "",
        cells=cells,
        notes=tuple(map(escape_controls, (*unread, *damaged, *torn_arrays, *unknown, *replaced, *twice))),
    )


def leaves(cells: pd.DataFrame) -> list[str]:
    """Return the columns that are leaves of the config, in their stored order."""
    other = {*OUTCOME, *COST, *PROVENANCE, *DERIVED}
    return [column for column in cells.columns if column not in other and "/" not in column]


def metrics(cells: pd.DataFrame) -> list[str]:
    """Return the columns that are final metrics."""
    return [column for column in cells.columns if "/" in column]


def same(values: pd.Series) -> bool:
    """Whether every cell has the same value there, an absent one included."""
    return bool(values.nunique(dropna=False) <= 1)


def _latest(cells: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Keep one row per cell: a retried cell's outcome replaces its failure, a later one an earlier."""
    order = pd.DataFrame({"ok": cells["status"] != "failed"})
    order["finished"] = cells["finished"].astype(str) if "finished" in cells else ""
    kept = cells.loc[order.sort_values(["ok", "finished"], kind="stable").index]
    kept = kept.drop_duplicates("cell", keep="last").sort_index()
    gone = len(cells) - len(kept)
    return kept, [f"{gone} rows replaced by a later row of the same cell"] if gone else []


def _derive(cells: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    cells = cells.copy()
    key = cells["regularizer.strength"] if "regularizer.strength" in cells else pd.Series(None, cells.index)
    cells["quantity"] = [
        str(value) if isinstance(value, str) and f"regularizer.{value}" in cells else "" for value in key
    ]
    strengths = [f"regularizer.{quantity}" if quantity else "" for quantity in cells["quantity"]]
    cells["strength"] = _picked(cells, strengths)
    cells["treatment"] = _treatments(cells)
    cells["comparison"] = _comparisons(cells)
    cells["value"] = _picked(cells, cells["model.metric"])
    cells["value"] = cells["value"].where(cells["status"] == "completed")
    endless = np.isinf(cells["value"])  # a perplexity beyond all floats is as bad as divergence
    cells["value"] = cells["value"].mask(endless)
    signed = np.where(cells["model.goal"] == "max", -cells["value"], cells["value"])
    cells["score"] = np.where(endless | (cells["status"] == "diverged"), np.inf, signed)
    labels = sorted(cells["comparison"].unique(), key=text.natural)
    group = cells["comparison"].map({label: place for place, label in enumerate(labels)})
    cells = cells.assign(_group=group, _rank=cells["treatment"] != NONE).sort_values(
        ["_group", "_rank", "treatment", "strength", "seed", "cell"], kind="stable"
    )
    point = ["comparison", "treatment", "strength", "seed"]
    once = cells.drop_duplicates(point, keep="last").drop(columns=["_group", "_rank"]).reset_index(drop=True)
    twice = len(cells) - len(once)
    note = f"{twice} cells share model, treatment, strength and seed with another one; the last was kept"
    return once, [note] if twice else []


def _treatments(cells: pd.DataFrame) -> list[str]:
    """Name each cell's treatment: its regularizer, and those of its options that vary with its model."""
    strengths = {f"regularizer.{quantity}" for quantity in cells["quantity"]}
    fixed = {*strengths, "regularizer.strength"}
    options = [leaf for leaf in leaves(cells) if leaf.startswith("regularizer.") and leaf not in fixed]
    names = cells["regularizer"].astype(str)
    for _, rows in cells.groupby(["model", "regularizer"]):
        varying = [option for option in options if not same(rows[option].astype(str))]
        if varying:
            names.loc[rows.index] += [f" ({words})" for words in _settings(rows, varying)]
    return names.tolist()


def _comparisons(cells: pd.DataFrame) -> pd.Series:
    """Name each cell's group: the model, and every leaf that varies among that model's cells.

    Left out is what follows from a group's option that varies. The data's fingerprint counts as a leaf of its group:
    the same name over other data is another comparison.
    """
    fixed = [c for c in leaves(cells) if c != "seed" and c != "model" and not c.startswith("regularizer")]
    if "data_sha256" in cells:
        fixed.append("data_sha256")
    names = cells["model"].astype(str)
    for _, rows in cells.groupby("model"):
        values = rows[fixed].astype(str)
        varying = [leaf for leaf in fixed if not same(values[leaf])]
        telling = [leaf for leaf in varying if not _follows(leaf, varying, values)]
        if telling:
            names.loc[rows.index] += [f" ({words})" for words in _settings(rows, telling)]
    return names


def _follows(leaf: str, varying: Sequence[str], values: pd.DataFrame) -> bool:
    """Return whether a leaf is the same wherever its group's option is, which varies as well."""
    group = "data" if leaf == "data_sha256" else leaf.split(".")[0]
    return leaf != group and group in varying and values.groupby(group)[leaf].nunique().max() == 1


def _settings(rows: pd.DataFrame, columns: Sequence[str]) -> Iterable[str]:
    short = [column.rsplit(".", 1)[-1] for column in columns]
    names = [brief if short.count(brief) == 1 else full for brief, full in zip(short, columns, strict=True)]
    for values in rows[list(columns)].itertuples(index=False, name=None):
        yield ", ".join(f"{name}={text.value(value)[:24]}" for name, value in zip(names, values, strict=True))


def _picked(cells: pd.DataFrame, columns: Iterable[str]) -> pd.Series:
    """Return, for each row, the number in the column that is named for it; nan where there is none."""
    named = np.array(list(columns), dtype=object)
    found = np.full(len(cells), np.nan)
    for column in set(named) & set(cells):
        own = named == column
        found[own] = numbers(cells[column]).to_numpy(dtype=float, na_value=np.nan)[own]
    return pd.Series(found, cells.index)

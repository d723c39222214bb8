"""Load a results folder into a table of cells, with derived columns for comparisons.

Derived columns, used by every figure: ``treatment`` (the regularizer, with its options where those
vary), ``quantity`` (``threshold``, ``lambda``, … or "" where there is no strength; ``gp.lambda+clip_norm.threshold`` of
a composition), ``strength`` (number or nan), ``strengths`` (those of a composition as text, ``1.0,0.1``, else ""),
``comparison`` (the label of the group whose cells differ in nothing but the regularizer and the seed),
``at_any_rate`` (the same of cells that may differ in the learning rate, too),
``value`` (the model's primary metric, nan unless the cell completed) and ``score`` (the value, signed so that
lower is better; inf where the cell diverged, nan where it failed).
"""

import contextlib
import itertools
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradbench.config.composite import JOINT, names_code
from gradbench.config.identity import SOURCE
from gradbench.errors import DamagedError, UsageError
from gradbench.report.load.added_keys import fill_added_keys
from gradbench.report.load.costs import add_costs, load_rounds
from gradbench.report.load.read import (
    MADE_BY,
    MEASURED,
    clean_cells,
    find_damaged_arrays,
    read_experiment_texts,
    read_parts,
    to_numbers,
)
from gradbench.report.render.formatting import format_value, natural_key
from gradbench.storage.parquet import read_arrays
from gradbench.storage.results import RECORDED
from gradbench.storage.sanitize import check_folder, escape_controls

NONE = "none"
REQUIRED = ("cell", "model", "model.metric", "model.goal", "regularizer", "seed", "status")
OUTCOME = ("cell", "status", "diverged_at", "error")
PROVENANCE = (
    *MADE_BY,
    "git_dirty",
    "data_sha256",
    "step_program",
    "format",
    "started",
    "finished",
    "command",
)
READING = ("model.scale", "model.margin")
"""Columns that say how the metric is read; cells of before have none."""
DERIVED = ("comparison", "at_any_rate", "treatment", "quantity", "strength", "strengths", "value", "score")


@dataclass(frozen=True)
class LoadedResults:
    """The cells of a results folder, with derived columns; :mod:`gradbench.report.load.curves` reads its curves."""

    path: Path
    name: str
    question: str
    commands: tuple[str, ...]
    cells: pd.DataFrame
    rounds: pd.DataFrame = field(default_factory=pd.DataFrame)  # of the measurement of costs, see load.costs
    notes: tuple[str, ...] = field(default=())  # what was left out or replaced while reading, for the audit

    def arrays_of(self, cell: str) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """Read the arrays stored for a cell; empty if there are none or they are damaged."""
        path = self.path / "arrays" / f"{cell}.npz"
        with contextlib.suppress(DamagedError):  # the audit lists it
            return read_arrays(path) if path.is_file() else {}
        return {}


def load_results(path: Path) -> LoadedResults:
    """Load the cells of a results folder.

    Raises:
        UsageError: the folder, its cells or a required column is missing, or a link in it leads outside.

    """
    if not path.is_dir():
        raise UsageError(f"no results at {path}: make some with `gradbench run quick`")
    check_folder(path)
    spec, commands, unread = read_experiment_texts(path)
    cells, damaged = read_parts(path, "cells")
    if cells.empty and damaged:
        raise UsageError(damaged[0])
    if missing := [column for column in REQUIRED if column not in cells]:
        raise UsageError(
            f"{path / 'cells'} has no column {', '.join(missing)}: these are not the cells of a run, "
            f"or of another version; make new ones with `gradbench run quick`"
        )
    cells, unknown = clean_cells(cells)
    if cells.empty:
        raise UsageError(f"{path / 'cells'} holds no cell: make some results with `gradbench run quick`")
    cells, replaced = _keep_latest_rows(fill_added_keys(cells))
    cells, twice = _add_derived_columns(cells)
    rounds, untimed = load_rounds(path)
    torn_arrays = find_damaged_arrays(path, cells)
    return LoadedResults(
        path=path,
        name=spec.get("experiment") or escape_controls(path.resolve().name),
        question=spec.get("question", ""),
        commands=tuple(map(escape_controls, commands)),
        cells=add_costs(cells, rounds),
        rounds=rounds,
        notes=tuple(
            map(escape_controls, (*unread, *damaged, *torn_arrays, *untimed, *unknown, *replaced, *twice))
        ),
    )


def config_columns(cells: pd.DataFrame) -> list[str]:
    """List the columns that are leaves of the config, in their stored order."""
    other = {*OUTCOME, *MEASURED, *RECORDED, *PROVENANCE, *DERIVED, *READING}
    return [column for column in cells.columns if column not in other and "/" not in column]


def metric_columns(cells: pd.DataFrame) -> list[str]:
    """List the columns that are final metrics."""
    return [column for column in cells.columns if "/" in column]


def is_constant(values: pd.Series) -> bool:
    """Whether a column has a single value, counting an absent one as a value."""
    return bool(values.nunique(dropna=False) <= 1)


def _keep_latest_rows(cells: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Keep one row per cell: an outcome replaces a failure, a later row an earlier one."""
    order = pd.DataFrame({"ok": cells["status"] != "failed"})
    order["finished"] = cells["finished"].astype(str) if "finished" in cells else ""
    kept = cells.loc[order.sort_values(["ok", "finished"], kind="stable").index]
    kept = kept.drop_duplicates("cell", keep="last").sort_index()
    gone = len(cells) - len(kept)
    return kept, [f"{gone} rows replaced by a later row of the same cell"] if gone else []


def _add_derived_columns(cells: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Add the derived columns, sort the cells, and keep one per treatment, strength and seed."""
    cells = cells.copy()
    key = cells["regularizer.strength"] if "regularizer.strength" in cells else pd.Series(None, cells.index)
    cells["quantity"] = [
        value if isinstance(value, str) and set(strength_columns(value)) <= set(cells) else ""
        for value in key
    ]
    strengths = [f"regularizer.{quantity}" if quantity else "" for quantity in cells["quantity"]]
    cells["strength"] = _pick_values(cells, strengths)
    cells["strengths"] = _join_strengths(cells)
    cells["treatment"] = _name_treatments(cells)
    cells["comparison"] = _name_comparisons(cells)
    cells["at_any_rate"] = _name_comparisons(cells, leave_out="optimizer.lr")
    cells["value"] = _pick_values(cells, cells["model.metric"])
    cells["value"] = cells["value"].where(cells["status"] == "completed")
    # An infinite metric, such as an overflowing perplexity, counts as divergence.
    infinite = np.isinf(cells["value"])
    cells["value"] = cells["value"].mask(infinite)
    signed = np.where(cells["model.goal"] == "max", -cells["value"], cells["value"])
    cells["score"] = np.where(infinite | (cells["status"] == "diverged"), np.inf, signed)
    labels = sorted(cells["comparison"].unique(), key=natural_key)
    group = cells["comparison"].map({label: place for place, label in enumerate(labels)})
    places = {text: place for place, text in enumerate(sorted(set(cells["strengths"]), key=split_strengths))}
    several = cells["strengths"].map(places)
    cells = cells.assign(_group=group, _rank=cells["treatment"] != NONE, _several=several).sort_values(
        ["_group", "_rank", "treatment", "strength", "_several", "seed", "cell"], kind="stable"
    )
    point = ["comparison", "treatment", "strength", "strengths", "seed"]
    once = cells.drop_duplicates(point, keep="last")
    once = once.drop(columns=["_group", "_rank", "_several"]).reset_index(drop=True)
    twice = len(cells) - len(once)
    note = f"{twice} cells share model, treatment, strength and seed with another one; the last was kept"
    return once, [note] if twice else []


def strength_columns(quantity: str) -> list[str]:
    """List the columns of a kind of strength: several of a composition."""
    return [f"regularizer.{key}" for key in quantity.split(JOINT)]


def split_strengths(text: str) -> tuple[float, ...]:
    """Return the numbers of the derived column ``strengths``."""
    return tuple(map(float, text.split(","))) if text else ()


def _join_strengths(cells: pd.DataFrame) -> pd.Series:
    """Write the strengths of each cell that has several: ``1.0,0.1``; empty for others."""
    found = pd.Series("", cells.index)
    for quantity in set(cells["quantity"]):
        if JOINT in quantity:
            own = cells["quantity"] == quantity
            columns = [
                to_numbers(cells.loc[own, column]).astype(float) for column in strength_columns(quantity)
            ]
            texts = [",".join(map(str, values)) for values in zip(*columns, strict=True)]
            found[own] = np.array(texts, dtype=object)
    return found


def _name_treatments(cells: pd.DataFrame) -> list[str]:
    """Name each cell's treatment: its regularizer, and the options that vary among its model's cells."""
    fixed = {"regularizer.strength"}.union(*map(strength_columns, set(cells["quantity"])))
    options = [
        leaf for leaf in config_columns(cells) if leaf.startswith("regularizer.") and leaf not in fixed
    ]
    names = cells["regularizer"].astype(str)
    for _, rows in cells.groupby(["model", "regularizer"]):
        varying = [option for option in options if not is_constant(rows[option].astype(str))]
        if varying:
            names.loc[rows.index] += [f" ({words})" for words in _describe_values(rows, varying)]
    return names.tolist()


def _name_comparisons(cells: pd.DataFrame, leave_out: str = "seed") -> pd.Series:
    """Name each cell's group: the model, and every leaf that varies among that model's cells, but one.

    Leaves that follow from what varies above them are left out: from the option of their config group, from the network
    that they belong to, or a schedule's steps from those of the training. The hash of the data counts as a leaf of the
    group ``data``: the same name with other data is another comparison.
    """
    ignored = ("seed", "model", leave_out)
    fixed = [c for c in config_columns(cells) if c not in ignored and not c.startswith("regularizer")]
    if "data_sha256" in cells:
        fixed.append("data_sha256")
    names = cells["model"].astype(str)
    for _, rows in cells.groupby("model"):
        values = rows[fixed].astype(str)
        varying = [leaf for leaf in fixed if not is_constant(values[leaf])]
        distinct = [leaf for leaf in varying if not _is_implied(leaf, varying, values)]
        if distinct:
            names.loc[rows.index] += [f" ({words})" for words in _describe_values(rows, distinct)]
    return names


def _is_implied(leaf: str, varying: Sequence[str], values: pd.DataFrame) -> bool:
    """Whether a leaf follows from a varying column above it, such as the option of its config group."""
    above = (
        ["data"] if leaf == "data_sha256" else [*itertools.accumulate(leaf.split("."), "{}.{}".format)][:-1]
    )
    above += ["steps"] if leaf == "schedule.steps" else []
    return any(values.groupby(node)[leaf].nunique().max() == 1 for node in above if node in varying)


def follows_from_node(leaf: str, cells: pd.DataFrame) -> bool:
    """Whether a column of hashes has one for each value of the column it belongs to, such as ``model.network``."""
    node = leaf.removesuffix(f".{SOURCE}")
    return node in cells and cells.groupby(node)[leaf].nunique().max() == 1


def _describe_values(rows: pd.DataFrame, columns: Sequence[str]) -> Iterable[str]:
    """Write the values of some columns for each row: ``lr=0.1, network=Net``."""
    plain = [column.removesuffix(f".{SOURCE}") for column in columns]
    plain = [
        column if plain.count(column) == 1 else full for column, full in zip(plain, columns, strict=True)
    ]
    short = [column.rsplit(".", 1)[-1] for column in plain]
    names = [brief if short.count(brief) == 1 else full for brief, full in zip(short, plain, strict=True)]
    texts = rows[list(columns)].map(format_value).mask(rows[list(columns)].isna(), "null")
    for column in columns:
        texts[column] = texts[column].map(abbreviations(column, set(texts[column])))
    for values in texts.itertuples(index=False, name=None):
        yield ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))


def abbreviations(column: str, texts: Set[str]) -> dict[str, str]:
    """Map the values of a column to short ones, as far as these differ too: of a dotted name, to its last parts."""
    if names_code(column):
        ways = [{text: ".".join(text.split(".")[-parts:]) for text in texts} for parts in (1, 2, 3)]
    else:
        ways = [{text: text[: 8 if column.endswith(SOURCE) else 24] for text in texts}]
    unique = (short for short in ways if len(set(short.values())) == len(texts))
    return next(unique, {text: text for text in texts})


def _pick_values(cells: pd.DataFrame, columns: Iterable[str]) -> pd.Series:
    """Pick for each row the number in the column that is named for it; nan if there is none."""
    named = np.array(list(columns), dtype=object)
    found = np.full(len(cells), np.nan)
    for column in set(named) & set(cells):
        own = named == column
        found[own] = to_numbers(cells[column]).to_numpy(dtype=float, na_value=np.nan)[own]
    return pd.Series(found, cells.index)

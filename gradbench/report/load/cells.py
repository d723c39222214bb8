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
import re
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
from gradbench.report.render.formatting import format_value, natural_key, shorten_middle
from gradbench.storage.parquet import read_arrays
from gradbench.storage.results import RECORDED
from gradbench.storage.sanitize import check_folder, escape_controls

NONE = "none"
MAX_VALUE = 40  # characters of a config value in a label, if that tells it from the others
HASH = re.compile("[0-9a-f]{32,}")
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
    broken = _call_diverged(cells)
    cells["value"] = cells["value"].where(cells["status"] == "completed")
    signed = np.where(cells["model.goal"] == "max", -cells["value"], cells["value"])
    cells["score"] = np.where(cells["status"] == "diverged", np.inf, signed)
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
    return once, [*broken, *([note] if twice else [])]


def _call_diverged(cells: pd.DataFrame) -> list[str]:
    """Let completed cells whose compared metric is no finite number be diverged, as a run decides; change in place.

    Cells of before this rule, or of another program, may say that they completed.
    """
    reported = cells["model.metric"].isin(cells.columns)
    broken = reported & (cells["status"] == "completed") & ~np.isfinite(cells["value"])
    if not broken.any():
        return []
    cells.loc[broken, "status"] = "diverged"
    if "steps" in cells:
        ended = cells["diverged_at"] if "diverged_at" in cells else pd.Series(np.nan, cells.index)
        cells["diverged_at"] = to_numbers(ended).astype(float).mask(broken, to_numbers(cells["steps"]))
    return [
        f"{broken.sum()} cells completed without a finite value of the compared metric: they count as diverged"
    ]


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
    """Write the values of some columns for each row, different ones differently: ``lr=0.1, network=Net``.

    Values that a row lacks are left out; where rows could not be told apart without, they are ``not given``.
    """
    texts = rows[list(columns)].map(format_value).mask(rows[list(columns)].isna())
    names = _short_names(columns)
    hashes = [column for column in columns if _is_hash(column, texts[column])]
    pairs = {
        column: _describe_column(name, column, set(texts[column].dropna()), alone=len(columns) == 1)
        for column, name in zip(columns, names, strict=True)
    }
    words = pd.DataFrame({column: texts[column].map(pairs[column]) for column in columns}, rows.index)
    shown = [column for column in columns if column not in hashes]
    if hashes and (not shown or len(texts.drop_duplicates()) > len(texts[shown].drop_duplicates())):
        shown = list(columns)
    absent = {column: f"{name} not given" for column, name in zip(columns, names, strict=True)}
    for filled in (words[shown], words[shown].fillna(absent)):
        labels = pd.Series(
            [", ".join(v for v in row if isinstance(v, str)) for row in filled.to_numpy()], rows.index
        )
        if labels.nunique() == len(texts[shown].drop_duplicates()) and labels.all():
            break
    return labels


def _short_names(columns: Sequence[str]) -> list[str]:
    """Name columns by the last part of their keys, as far as these differ."""
    plain = [column.removesuffix(f".{SOURCE}").removesuffix("_sha256") for column in columns]
    plain = [
        column if plain.count(column) == 1 or _is_hash(full, ()) else full
        for column, full in zip(plain, columns, strict=True)
    ]
    short = [column.rsplit(".", 1)[-1] for column in plain]
    alike = [{full for full, one in zip(plain, short, strict=True) if one == brief} for brief in short]
    return [brief if len(same) == 1 else full for brief, full, same in zip(short, plain, alike, strict=True)]


def _is_hash(column: str, texts: Iterable[object]) -> bool:
    """Whether a column holds hashes, of a source or of data."""
    found = [text for text in texts if isinstance(text, str)]
    return column.endswith((SOURCE, "_sha256")) or (bool(found) and all(map(HASH.fullmatch, found)))


def _describe_column(name: str, column: str, texts: Set[str], *, alone: bool) -> dict[str, str]:
    """Map the values of a column to ``name=value``; hashes to letters, or first digits if nothing else differs."""
    if _is_hash(column, texts) and (not alone or len({text[:8] for text in texts}) < len(texts)):
        return {text: f"{name} {_letters(place)}" for place, text in enumerate(sorted(texts))}
    short = {text: text[:8] for text in texts} if _is_hash(column, texts) else abbreviations(column, texts)
    return {text: f"{name}={value}" for text, value in short.items()}


def _letters(place: int) -> str:
    """Number things with letters: A, B, …, Z, AA, AB, …"""
    return (_letters(place // 26 - 1) if place > 25 else "") + chr(ord("A") + place % 26)


def abbreviations(column: str, texts: Set[str]) -> dict[str, str]:
    """Map the values of a column to short ones, as far as these differ too.

    Of a dotted name and of a path the last parts are kept, of another long text both ends.
    """
    ways: list[dict[str, str]] = []
    for sign in "." if names_code(column) else "/" if any(len(text) > MAX_VALUE for text in texts) else "":
        ways += [{text: sign.join(text.split(sign)[-parts:]) for text in texts} for parts in (1, 2, 3)]
    if not names_code(column):
        ways.append({text: shorten_middle(text, MAX_VALUE) for text in texts})
        ways = [way for way in ways if all(len(short) <= MAX_VALUE for short in way.values())]
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

"""DataFrames as examples: columns chosen, texts one-hot encoded, missing values refused, left out or filled in.

N rows, D columns of the inputs once texts are one-hot encoded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradbench.data import Data
from gradbench.data.checks import Place
from gradbench.data.examples import Examples, Preparation
from gradbench.data.prepare import prepare
from gradbench.errors import UsageError, excerpt, nearest, nearest_first

MISSING = ("mean", "drop")

MOST_CATEGORIES = 1000
"""Different texts of a column from which it is taken for no category."""

NUMERIC = 0.5
"""Share of a text column's values that are numbers, from which the others are taken for mistakes."""


def check_names(names: Sequence[str], source: str) -> None:
    """Raise ``UsageError`` if two columns have the same name."""
    for name in names:
        if names.count(name) > 1 and name:
            raise UsageError(f"{source} has two columns {name!r}; rename one of them")


def from_frame(
    frame: pd.DataFrame,
    source: str,
    target: str | None,
    input: str | Sequence[str] | None,
    missing: str | None,
    how: Preparation,
) -> Data:
    """Make a data set of a table that comes from ``source``; other keys as of :mod:`gradbench.data.table_files`."""
    if missing is not None and missing not in MISSING:
        raise UsageError(
            f"data.missing must be mean, drop or null, got {missing}{nearest(str(missing), MISSING)}"
        )
    frame, target = frame.rename(columns=str), None if target is None else str(target)
    check_names(list(frame.columns), source)
    columns = choose_columns(frame, source, target, input, how)
    table = Table(frame, source)
    notes = []
    used = frame[columns + ([target] if target and how.targets != "none" else [])]
    empty = used.isna()
    if not len(used):
        raise UsageError(f"{source} has no rows below its header; expected one per example")
    if missing == "drop" and empty.to_numpy().any():
        kept = ~empty.any(axis=1).to_numpy()
        if not kept.any():
            raise UsageError(f"{source} has no row without a missing value; data.missing=mean keeps them")
        notes.append(
            f"{source}: {int((~kept).sum())} of {len(kept)} rows have missing values and are left out"
        )
        table = Table(frame, source, np.flatnonzero(kept))
    elif empty.to_numpy().any():
        refused = empty if missing is None else empty[[c for c in empty if c == target]]
        table.refuse_missing(refused, "" if missing is None else " to predict")
        notes.append(
            f"{source}: {int(empty.to_numpy().sum())} missing values are the mean of their column; of texts, of each "
            "one-hot column"
        )
    x, names, encoded = table.encode(columns)
    if encoded:
        notes.append(f"{source}: texts are one-hot encoded by all of them: {', '.join(encoded)}")
    y = table.target(target) if target and how.targets != "none" else None
    examples = Examples(
        *(x, y, (source, f"{source}: column {target!r}"), table.place(names), table.place([str(target)])),
        may_miss=missing == "mean",
    )
    return prepare(examples, None, how, notes)


def choose_columns(
    frame: pd.DataFrame, source: str, target: str | None, input: str | Sequence[str] | None, how: Preparation
) -> list[str]:
    """Return the names of the columns of the inputs.

    Raises:
        UsageError: for a name that is no column, a target that is missing, or no column at all.
    """
    known = list(frame.columns)
    chosen = [str(input)] if isinstance(input, str | int) else [str(name) for name in input or ()]
    if input is not None and not chosen:
        raise UsageError("data.input names no column; leave it out to take all but the target")
    for name in chosen:
        if chosen.count(name) > 1:
            raise UsageError(f"data.input names the column {name!r} twice; name it once")
    for key, name in [
        *([("target", target)] if target is not None else []),
        *(("input", one) for one in chosen),
    ]:
        if name not in known:
            wide = next((mark for mark in ";\t|" if len(known) == 1 and mark in known[0]), None)
            shown = str(wide).replace("\t", "\\t")
            hint = (
                f"; columns seem to be separated otherwise: add \"data.separator='{shown}'\"" if wide else ""
            )
            raise UsageError(
                f"{source} has no column {name!r} (data.{key}); it has {nearest_first(name, known)}{hint}"
            )
    if target is None and how.targets != "none":
        raise UsageError(
            f"the column to predict must be named: add data.target=NAME; {source} has {nearest_first('target', known)}"
        )
    if target in chosen:
        raise UsageError(f"data.input names the target {target!r} too; leave it out there")
    columns = chosen or [name for name in known if name != target]
    if not columns:
        raise UsageError(f"{source} has no column beside the target {target!r}, expected at least one")
    unnamed = [index for index, name in enumerate(known) if name in columns and not is_name(name)]
    if unnamed:
        raise UsageError(
            f"column {unnamed[0] + 1} of {source} has no name (an index that pandas saved?); name those of the inputs "
            "with data.input=[a,b], or save without it: index=False"
        )
    return columns


def is_name(name: str) -> bool:
    """Return whether a column has a name, and none that pandas gave it."""
    return bool(name) and not name.startswith("Unnamed: ")


@dataclass
class Table:
    """Some rows of a table, which become numbers.

    Args:
        frame: the whole table: categories are those of all its rows.
        source: what it comes from.
        rows: numbers of the rows that are kept; ``None`` for all.
    """

    frame: pd.DataFrame
    source: str
    rows: NDArray[np.int64] | None = None

    def place(self, names: Sequence[str]) -> Place:
        """Return where a value stands, of columns with these names, by its index among the kept rows."""

        def place(index: tuple[int, ...]) -> str:
            row = index[0] if self.rows is None else int(self.rows[index[0]])
            name = names[index[1] if len(index) > 1 else 0]
            return f"{self.source}: column {name!r}, row {row + 1} below the header,"

        return place

    def refuse_missing(self, empty: pd.DataFrame, what: str) -> None:
        """Raise ``UsageError`` for the first missing value."""
        rows, columns = np.nonzero(empty.to_numpy())
        if len(rows):
            place = self.place(list(empty.columns))((int(rows[0]), int(columns[0])))
            raise UsageError(
                f"{place} has no value{what} ({len(rows)} in all); fill it in, or add data.missing=drop to leave such "
                "rows out" + ("" if what else ", or data.missing=mean")
            )

    def kept(self, name: str) -> pd.Series:
        """Return the kept rows of a column."""
        series = self.frame[name]
        return series if self.rows is None else series.iloc[self.rows]

    def encode(self, columns: Sequence[str]) -> tuple[NDArray[np.float64], list[str], list[str]]:
        """Return the inputs [N, D], the name of each column, and each column of texts with the number of its texts."""
        parts, names, encoded = [], [], []
        for name in columns:
            series = self.frame[name]
            if not is_text(series):
                parts.append(self.numbers(name)[:, None])
                names.append(name)
                continue
            categories = self.categories(name)
            texts = self.kept(name)
            marks = (texts.astype(object).to_numpy()[:, None] == np.array(categories, object)).astype(
                np.float64
            )
            marks[texts.isna().to_numpy()] = np.nan
            parts.append(marks)
            names += [name] * len(categories)
            rare = " of which hardly any occurs twice" if len(categories) > 0.9 * len(texts) > 9 else ""
            encoded.append(f"{name} ({len(categories)}{rare})")
        return np.concatenate(parts, axis=1), names, encoded

    def categories(self, name: str) -> list[str]:
        """Return the different texts of a column, sorted.

        Raises:
            UsageError: if most of them are numbers, if there are too many, or none.
        """
        texts = self.frame[name].dropna()
        others = np.flatnonzero(pd.to_numeric(texts, errors="coerce").isna().to_numpy())
        if 0 < len(others) < (1 - NUMERIC) * len(texts):
            row = int(np.flatnonzero(self.frame[name].notna())[others[0]])
            given = excerpt(repr(str(texts.iloc[others[0]])), 40)
            raise UsageError(
                f"{self.source}: column {name!r}, row {row + 1} below the header, is {given}, and most others are "
                "numbers; correct it, or empty it and add data.missing=mean"
            )
        categories = sorted(set(texts.astype(str)))
        if len(categories) > MOST_CATEGORIES:
            raise UsageError(
                f"{self.source}: column {name!r} has {len(categories)} different texts, too many for categories (at "
                f"most {MOST_CATEGORIES}); name the columns to use with data.input=[a,b]"
            )
        return categories

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column as numbers, NaN for missing ones; raise ``UsageError`` if it holds anything else."""
        series = self.kept(name)
        if series.dtype == object and all(
            isinstance(value, bool) for value in series.dropna()
        ):  # truths, some of them missing
            series = series.astype("boolean")
        if not pd.api.types.is_numeric_dtype(series.dtype) and not pd.api.types.is_bool_dtype(series.dtype):
            raise UsageError(
                f"{self.source}: column {name!r} holds {series.dtype} values, expected numbers or texts; convert it, "
                "or name the columns to use with data.input=[a,b]"
            )
        values: NDArray[Any] = series.to_numpy(dtype=np.float64, na_value=np.nan)
        if not np.isfinite(values).any():
            raise UsageError(
                f"{self.source}: column {name!r} has no values; name the columns to use with data.input=[a,b]"
            )
        return values

    def target(self, name: str) -> NDArray[Any]:
        """Return the column to predict as texts or numbers."""
        series = self.kept(name)
        if is_text(self.frame[name]):
            return np.array([str(value) for value in series], np.str_)
        if pd.api.types.is_integer_dtype(series.dtype):
            return series.to_numpy(dtype=np.int64)
        return self.numbers(name)


def is_text(series: "pd.Series[Any]") -> bool:
    """Return whether a column holds texts, its missing values aside."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        return is_text(series.cat.categories.to_series())
    if pd.api.types.is_string_dtype(series.dtype) and not pd.api.types.is_object_dtype(series.dtype):
        return True
    known = series.dropna()
    return bool(
        pd.api.types.is_object_dtype(series.dtype)
        and len(known)
        and known.map(lambda v: isinstance(v, str)).all()
    )

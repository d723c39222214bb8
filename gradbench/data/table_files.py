"""Tables in files of a user's own: CSV and Parquet."""

import codecs
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gradbench.data import Data
from gradbench.data.examples import Preparation
from gradbench.data.files import existing_file, refuse_other_kind
from gradbench.data.frames import check_names, from_frame
from gradbench.errors import UsageError, nearest

FORMATS = ("csv", "parquet")


def load(
    path: str,
    target: str | None = None,
    input: str | Sequence[str] | None = None,
    missing: str | None = None,
    format: str | None = None,
    separator: str = ",",
    **keys: Any,
) -> Data:
    """Load a table; columns of texts are one-hot encoded by all texts of the file, in sorted order.

    Args:
        path: a CSV file with a header, or a Parquet file.
        target: name of the column to predict.
        input: names of the columns of the inputs; ``None`` for all others.
        missing: ``None`` to refuse missing values; ``drop`` to leave out their rows; ``mean`` to take the mean of the
            column over the training rows (of each one-hot column, for texts).
        format: ``csv`` or ``parquet``; ``None`` for the one that the suffix says.
        separator: between the columns of a CSV file; ``\\t`` is a tab.
        keys: those of :class:`Preparation`.

    Returns:
        The arrays and sizes of :func:`gradbench.data.prepare.prepare`.
    """
    how = Preparation(**keys)
    file = existing_file(path)
    kind = format or ("parquet" if file.suffix.lower() in (".parquet", ".pq") else "csv")
    if kind not in FORMATS:
        raise UsageError(f"data.format must be csv or parquet, got {kind}{nearest(kind, FORMATS)}")
    frame = read_parquet(file) if kind == "parquet" else read_csv(file, separator)
    return from_frame(frame, str(path), target, input, missing, how)


def read_csv(path: Path, separator: str) -> pd.DataFrame:
    """Read a CSV file with a header; raise ``UsageError`` for anything else."""
    refuse_other_kind(path, "a CSV file")
    with path.open("rb") as file:
        encoding = "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    separator = separator.replace("\\t", "\t")
    options: dict[str, Any] = {"sep": separator, "encoding": encoding, "skipinitialspace": True}
    try:
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            head = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, **options)
            names = [str(name) for name in head.iloc[0]]
            check_names(names, str(path))
            frame: pd.DataFrame = pd.read_csv(path, index_col=False, low_memory=False, **options)
            return frame
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text (byte {error.start}); convert it: iconv -f latin1 -t utf-8 {path} > utf8.csv"
        ) from error
    except pd.errors.EmptyDataError as error:
        raise UsageError(f"{path} is empty, expected a header and rows") from error
    except (ValueError, OSError, pd.errors.ParserError, pd.errors.ParserWarning) as error:
        reason = str(error).strip().splitlines()[0].removeprefix("Error tokenizing data. C error: ")
        raise UsageError(
            f"{path} is no CSV file with '{separator}' between columns ({reason}); add data.separator=';' or what it is"
        ) from error


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a Parquet file; raise ``UsageError`` for anything else."""
    try:
        return pd.read_parquet(path)
    except Exception as error:  # Arrow's errors have no common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{path} is no Parquet file that can be read ({reason}); is it CSV? use data=csv"
        ) from error

"""Data sets of Hugging Face, by name, or of a folder on disk; needs the package ``datasets``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gradbench.data import Array, Data, folders
from gradbench.data.examples import Examples, Preparation
from gradbench.data.folders import Size
from gradbench.data.frames import from_frame
from gradbench.data.prepare import prepare
from gradbench.errors import UsageError, nearest_first


def load(
    source: str,
    input: str | Sequence[str] | None = None,
    target: str | None = None,
    subset: str | None = None,
    train_split: str = "train",
    test_split: str | None = None,
    missing: str | None = None,
    size: Size = None,
    mode: str | None = None,
    **keys: Any,
) -> Data:
    """Load a data set whose inputs are one column of images or of equally shaped numbers, or several columns.

    Args:
        source: name at huggingface.co, such as ``ylecun/mnist``; or a folder that ``save_to_disk`` wrote, or of CSV or
            Parquet files.
        input: name of the column of inputs, or of several, which are read as a table; ``None`` for all others.
        target: name of the column to predict.
        subset: configuration of the data set, where it has several.
        train_split: split to train on.
        test_split: split to test on; ``None`` for ``test``, or for a share of the training split if there is none.
        missing: as of :func:`gradbench.data.table_files.load`, for a table.
        size: as of :func:`gradbench.data.folders.load`, for images; so is ``mode``.
        mode: see there.
        keys: those of :class:`Preparation`.

    Returns:
        The arrays and sizes of :func:`gradbench.data.prepare.prepare`.
    """
    how = Preparation(**keys)
    folders.check_mode(mode)
    found = open_source(source, subset)
    for key, split in (("train_split", train_split), ("test_split", test_split)):
        if split is not None and split not in found:
            raise UsageError(
                f"{source} has no split {split!r} (data.{key}); it has {nearest_first(split, found)}"
            )
    train = found[train_split]
    for key, name in (("target", target), ("input", input if isinstance(input, str) else None)):
        if name is not None and name not in train.column_names:
            raise UsageError(
                f"{source} has no column {name!r} (data.{key}); it has {nearest_first(name, train.column_names)}"
            )
    if not isinstance(input, str):
        if test_split is not None:
            raise UsageError(
                f"data.test_split={test_split}: several columns are read of one split; leave it out, and a share of "
                f"{train_split} is kept for testing"
            )
        return from_frame(train.to_pandas(), source, target, input, missing, how)
    if test_split is None and "test" in found and train_split != "test":
        test_split = "test"
    if target is None and how.targets != "none":
        raise UsageError(
            f"the column to predict must be named: add data.target=NAME; {source} has "
            f"{nearest_first('label', train.column_names)}"
        )
    parts = [
        Examples.of_arrays(
            column(found[split], input, f"{source}, {split}: {input}", size, mode),
            column(found[split], target, f"{source}, {split}: {target}", None, None)
            if target is not None and how.targets != "none"
            else None,
            (f"{source}, {split}: {input}", f"{source}, {split}: {target}"),
        )
        for split in (train_split, test_split)
        if split is not None
    ]
    return prepare(parts[0], parts[1] if len(parts) > 1 else None, how)


def open_source(source: str, subset: str | None) -> Any:
    """Open a data set, without running any code of it; return split -> table.

    Raises:
        UsageError: if ``datasets`` is not installed, or the data set cannot be read.
    """
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            "data=huggingface needs the package datasets; install it with: pip install 'gradbench[huggingface]'"
        ) from error
    saved = [Path(source) / name for name in ("dataset_dict.json", "state.json")]
    try:
        if any(one.is_file() for one in saved):
            found = datasets.load_from_disk(source)
        else:
            found = datasets.load_dataset(source, subset)
    except Exception as error:  # the package raises its own errors and those of four libraries
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"data.source={source} could not be read ({reason}); give a name of huggingface.co such as ylecun/mnist, "
            "or an existing folder, and check the network"
        ) from error
    return found if isinstance(found, dict) else {"train": found}


def column(table: Any, name: str, place: str, size: Size, mode: str | None) -> Array:
    """Return a column as an array: pixels float32 [N, C, H, W] of images; numbers or texts [N, ...]."""
    values = table[name][:]
    if values and isinstance(values[0], Image.Image):
        named = ((f"{place}[{index}]", image) for index, image in enumerate(values))
        return folders.stack_images(named, folders.height_and_width(size), mode)
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise UsageError(f"{place} has rows of different shapes; expected one shape") from error
    if array.dtype.hasobject:
        raise UsageError(
            f"{place} has values that are missing, or neither numbers nor texts; choose another column"
        )
    return array

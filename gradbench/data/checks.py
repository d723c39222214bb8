"""Checks of a data set's values: numbers that are none, labels that are no classes, splits without examples.

Every data set is checked, whatever it comes from. Messages name the first wrong value and where it stands.

N examples.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gradbench.data import Array, Data
from gradbench.errors import UsageError, excerpt

Place = Callable[[tuple[int, ...]], str]
"""Index of a value -> where it stands, for messages: ``mine.npz: x[3, 0]``."""


def in_array(name: str) -> Place:
    """Return the place of a value in an array: its name and index."""
    return lambda index: f"{name}[{', '.join(map(str, index))}]"


def check_data(data: Data) -> None:
    """Check the arrays of a data set: numbers, finite, as many targets as inputs, labels in 0 … C - 1.

    Raises:
        UsageError: naming the array, and the first wrong value.
    """
    for name, array in data.arrays.items():
        check_numbers(array, name, in_array(name))
    for split in ("train", "test"):
        of_split = {name: array for name, array in data.arrays.items() if name.startswith(f"{split}/")}
        check_lengths(of_split)
        labels, classes = data.arrays.get(f"{split}/y"), data.sizes.get("outputs", data.sizes.get("answers"))
        if labels is not None and labels.dtype.kind in "iu" and labels.ndim == 1 and classes is not None:
            check_labels(labels.astype(np.int64), classes, in_array(f"{split}/y"))
            if split == "train":
                check_several(labels, f"{split}/y")


def check_lengths(arrays: dict[str, Array]) -> None:
    """Raise ``UsageError`` unless arrays have the same number of rows, at least one."""
    for name, array in arrays.items():
        if array.ndim == 0:
            raise UsageError(f"{name} is a single number, expected one row per example")
        if not array.size:
            raise UsageError(f"{name} is empty, {list(array.shape)}; expected at least one example")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        counts = " and ".join(f"{name} has {length} rows" for name, length in lengths.items())
        raise UsageError(f"{counts}; expected one row of each per example")


def check_numbers(array: Array, name: str, place: Place, *, may_miss: bool = False) -> None:
    """Raise ``UsageError`` unless an array holds finite numbers; with ``may_miss``, NaN stands for a missing one."""
    if array.dtype.kind not in "biuf":
        raise UsageError(f"{name} holds {type_text(array)}, expected numbers")
    if array.dtype.kind == "f":
        wrong = np.isinf(array) if may_miss else ~np.isfinite(array)
        if wrong.any():
            index = first_index(wrong)
            raise UsageError(
                f"{place(index)} is {array[index]}, expected a finite number; correct it, or leave its row out"
            )


def check_labels(labels: NDArray[np.int64], classes: int, place: Place) -> None:
    """Raise ``UsageError`` unless labels [N] are from 0 to ``classes`` - 1."""
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        index = first_index(wrong)
        raise UsageError(
            f"{place(index)} is {labels[index]}, expected a class from 0 to {classes - 1} ({classes} classes); "
            "number the classes 0, 1, 2, …, or give them as texts"
        )


def check_several(labels: Array, name: str) -> None:
    """Raise ``UsageError`` if all labels [N] are the same."""
    if (labels == labels[0]).all():
        raise UsageError(f"{name} has one class only, {labels[0]}; expected at least two")


def whole_numbers(array: Array, place: Place) -> NDArray[np.int64]:
    """Return labels as int64; raise ``UsageError`` for one that is no whole number."""
    if array.dtype.kind == "f":
        wrong = array != np.trunc(array)
        if wrong.any():
            index = first_index(wrong)
            raise UsageError(
                f"{place(index)} is {array[index]}, expected a class: a whole number or a text; "
                "model=regressor predicts numbers"
            )
    return array.astype(np.int64)


def first_index(wrong: NDArray[np.bool_]) -> tuple[int, ...]:
    """Return the index of the first true value."""
    return tuple(map(int, np.unravel_index(int(wrong.argmax()), wrong.shape)))


def type_text(array: Array) -> str:
    """Return what an array holds, in words."""
    words = {"U": "texts", "S": "bytes", "O": "Python objects", "c": "complex numbers", "M": "dates"}
    return words.get(array.dtype.kind, excerpt(str(array.dtype), 40))

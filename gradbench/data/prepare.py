"""From inputs and targets of any source to :class:`Data`: converted, checked, split and standardised, in this order.

N examples, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from gradbench.data import Array, Data, splits
from gradbench.data.conversion import (
    as_float32,
    classes_note,
    fill,
    inputs_notes,
    is_pixels,
    standardise,
    standardised,
    with_inputs,
    with_labels,
    with_numbers,
)
from gradbench.data.examples import TEST_SHARE, Examples, Preparation
from gradbench.errors import UsageError


def prepare(
    train: Examples,
    test: Examples | None,
    how: Preparation,
    notes: Sequence[str] = (),
    classes: Sequence[str] = (),
) -> Data:
    """Make a data set of examples.

    Args:
        train: the training examples; without ``test``, all examples.
        test: the test examples, if the source has them apart.
        how: the keys that all sources have.
        notes: lines for the user.
        classes: names of the classes, if the targets are their numbers.

    Returns:
        Arrays ``train/x``, ``test/x`` [N, ...] float32, or int64 for whole numbers, and unless ``how.targets`` is
        ``none``, ``train/y``, ``test/y``: int64 [N], or float32 [N, ...]. Sizes ``inputs``; ``outputs`` (C) for
        classes; for inputs [N, T, D] also ``length`` (T), ``features`` (D) and ``answers`` (C, or 1).

    Raises:
        UsageError: naming the first wrong value and its place.
    """
    if test is not None and how.test_share is not None:
        raise UsageError(
            f"{test.names[0]} holds the test examples, so none are split off; leave out data.test_share"
        )
    parts = {"train": train} | ({"test": test} if test is not None else {})
    if len({is_pixels(part.x) for part in parts.values()}) > 1:
        raise UsageError(
            f"{' and '.join(part.names[0] for part in parts.values())} differ: only one of them is bytes"
        )
    notes = [*notes, *inputs_notes(train, how)]
    parts = {name: with_inputs(part, how) for name, part in parts.items()}
    if how.targets == "classes":
        parts, names = with_labels(parts)
        classes = classes or names
        notes += [classes_note(train.names[1], names)] if names else []
    elif how.targets == "numbers":
        parts = {name: with_numbers(part) for name, part in parts.items()}
    else:
        parts = {name: replace(part, y=None) for name, part in parts.items()}
    if test is None:
        parts = split(parts["train"], how, classes)
    check_alike(parts["train"], parts["test"])
    arrays: dict[str, Array] = {f"{name}/x": part.x for name, part in parts.items()}
    arrays |= {f"{name}/y": part.y for name, part in parts.items() if part.y is not None}
    if train.may_miss:
        arrays["train/x"], arrays["test/x"] = fill(arrays["train/x"], arrays["test/x"])
    for name in standardised(how):
        both = standardise(arrays[f"train/{name}"], arrays[f"test/{name}"])
        arrays[f"train/{name}"], arrays[f"test/{name}"] = both
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            which = name.endswith("/y")
            arrays[name] = as_float32(array, train.names[which], "both" if which else "inputs")
    return Data(arrays, sizes_of(arrays, how), notes=tuple(notes))


def split(part: Examples, how: Preparation, classes: Sequence[str]) -> dict[str, Examples]:
    """Split examples into training and test parts: of each class, or of all."""
    labels = part.y if how.targets == "classes" else np.zeros(len(part.x), np.int64)
    assert labels is not None
    share = TEST_SHARE if how.test_share is None else how.test_share
    counts = np.bincount(labels)
    if counts.min() < 2:
        label = int(counts.argmin())
        of = f" of class {classes[label] if classes else label}" if how.targets == "classes" else ""
        raise UsageError(
            f"{part.names[0]} has one example{of}, expected at least one to train on and one to test with; add some"
            + (", or leave the class out" if of else "")
        )
    train, test = splits.split_stratified(labels.astype(np.int64), share, how.split_seed)
    chosen = {"train": train, "test": test}
    return {
        name: replace(part, x=part.x[rows], y=None if part.y is None else part.y[rows])
        for name, rows in chosen.items()
    }


def check_alike(train: Examples, test: Examples) -> None:
    """Raise ``UsageError`` unless the examples of both parts have the same shape and type."""
    for index, (one, other) in enumerate(((train.x, test.x), (train.y, test.y))):
        if one is None or other is None:
            continue
        name, its = train.names[index], test.names[index]
        if one.shape[1:] != other.shape[1:]:
            raise UsageError(
                f"{name} has shape {list(one.shape)} and {its} {list(other.shape)}; expected the same but for the first"
            )
        if one.dtype != other.dtype:
            raise UsageError(f"{name} is of {one.dtype} and {its} of {other.dtype}; save both as float32")


def sizes_of(arrays: Mapping[str, Array], how: Preparation) -> dict[str, int]:
    """Return the sizes that a model is built from."""
    x = arrays["train/x"]
    sizes = {"inputs": int(np.prod(x.shape[1:]))}
    classes = int(arrays["train/y"].max()) + 1 if how.targets == "classes" else None
    if classes is not None:
        sizes["outputs"] = classes
    if x.ndim == 3:
        sizes |= {"length": x.shape[1], "features": x.shape[2], "answers": classes or 1}
    return sizes

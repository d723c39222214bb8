"""Convert and check inputs and targets: numbers in float32, classes 0 … C - 1, mean 0 and variance 1.

N examples, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gradbench.data import Array
from gradbench.data.checks import (
    Place,
    check_labels,
    check_lengths,
    check_numbers,
    check_several,
    first_index,
    type_text,
    whole_numbers,
)
from gradbench.data.examples import Examples, Preparation
from gradbench.errors import UsageError, excerpt

LISTED = 10
"""Classes that a note lists."""


# ---- inputs ------------------------------------------------------------------------------------------------


def with_inputs(part: Examples, how: Preparation) -> Examples:
    """Return examples with checked inputs: fractions, or int64 if they are whole numbers and stay as they are."""
    name, x = part.names[0], part.x
    check_lengths({name: x} | ({part.names[1]: part.y} if part.y is not None else {}))
    if x.ndim < 2:
        raise UsageError(f"{name} has shape {list(x.shape)}, expected [N, ...]; write x.reshape(-1, 1)")
    check_numbers(x, name, part.x_place, may_miss=part.may_miss)
    if is_pixels(x):
        return replace(part, x=x.astype(np.float32) / np.float32(255))
    if x.dtype.kind in "iu" and how.standardise == "none":
        return replace(part, x=x.astype(np.int64))
    check_numbers(x, name, part.x_place, may_miss=part.may_miss)
    return replace(part, x=precise(x, part.x_place))


def is_pixels(x: Array) -> bool:
    """Return whether inputs are bytes, which stand for pixels from 0 to 255."""
    return x.dtype == np.uint8


COLOURS = (1, 3, 4)
"""Channels of an image: grey, colour, and colour with transparency."""


def inputs_notes(part: Examples, how: Preparation) -> list[str]:
    """Return what is said of inputs that are no fractions, or whose last axis may be that of colours."""
    name, shape, notes = part.names[0], part.x.shape, []
    if len(shape) == 4 and shape[3] in COLOURS and shape[1] not in COLOURS:
        notes.append(
            f"{name} is taken as [N, C, H, W] with {shape[1]} channels of {shape[2]} × {shape[3]}; if its last axis "
            "holds colours, save x.transpose(0, 3, 1, 2)"
        )
    if is_pixels(part.x):
        notes.append(
            f"{name} holds bytes: they are taken for pixels and divided by 255; save whole numbers as int64"
        )
    elif part.x.dtype.kind in "iu" and how.standardise == "none":
        notes.append(
            f"{name} holds whole numbers, which stay whole, as for nn.Embedding; save measurements as float32"
        )
    return notes


def precise(array: Array, place: Place) -> Array:
    """Return numbers in float64, or in float32 as they are; raise ``UsageError`` for one too large for float32."""
    too_large = np.abs(array) > np.finfo(np.float32).max
    if too_large.any():
        index = first_index(too_large)
        raise UsageError(f"{place(index)} is {array[index]}, which is too large for float32; scale it down")
    return array if array.dtype == np.float32 else array.astype(np.float64)


def as_float32(array: Array, name: str, key: str) -> Array:
    """Return numbers [N, ...] in float32; raise ``UsageError`` where different ones would all be the same.

    Args:
        array: finite numbers.
        name: of the array, for messages.
        key: value of ``data.standardise`` that would tell them apart.
    """
    converted = array.astype(np.float32)
    if array.dtype == np.float64:
        merged = (np.ptp(array, axis=0) > 0) & (np.ptp(converted, axis=0) == 0)
        if merged.any():
            value = float(array[(0, *first_index(np.atleast_1d(merged)))[: array.ndim]])
            raise UsageError(
                f"{name} has numbers like {value!r} that float32 cannot tell apart; add data.standardise={key}, or "
                "subtract what they share"
            )
    return converted


def fill(train: Array, test: Array) -> tuple[Array, Array]:
    """Replace NaN by the mean of its column over the training examples. Shapes: [N, D] each."""
    known = ~np.isnan(train)
    counts = known.sum(axis=0)
    if not counts.all():
        column = int(np.flatnonzero(counts == 0)[0])
        raise UsageError(
            f"the training examples have no value in column {column} of the inputs, so there is no mean; "
            "leave the column out with data.input"
        )
    means = np.where(known, train, 0).sum(axis=0, dtype=np.float64) / counts
    filled = (np.where(np.isnan(one), means, one) for one in (train, test))
    return next(filled), next(filled)


def standardised(how: Preparation) -> list[str]:
    """Return which of x and y are standardised; classes never are."""
    return (
        []
        if how.standardise == "none"
        else ["x", "y"]
        if (how.standardise, how.targets) == ("both", "numbers")
        else ["x"]
    )


def standardise(train: Array, test: Array) -> tuple[Array, Array]:
    """Give each column or channel (axis 1) mean 0 and variance 1 over the training examples; a constant is 0."""
    axes = tuple(axis for axis in range(train.ndim) if axis != 1)
    mean = train.mean(axis=axes, keepdims=True, dtype=np.float64)
    deviation = train.std(axis=axes, keepdims=True, dtype=np.float64)
    safe = np.where(deviation > 0, deviation, 1.0)
    scaled = ((one - mean) / safe for one in (train, test))
    return next(scaled), next(scaled)


# ---- targets -----------------------------------------------------------------------------------------------


def targets_of(part: Examples) -> Array:
    """Return the targets; raise ``UsageError`` if there are none."""
    if part.y is None:
        raise UsageError(
            f"{part.names[0]} has no targets, and the model learns from some; name them with data.target"
        )
    return part.y


def with_numbers(part: Examples) -> Examples:
    """Return examples whose targets are numbers, [N] or [N, ...]."""
    y = targets_of(part)
    if y.dtype.kind == "U":
        raise UsageError(
            f"{part.y_place((0,))} is {excerpt(repr(str(y.flat[0])), 40)}, expected a number to predict; "
            "model=classifier learns classes"
        )
    check_numbers(y, part.names[1], part.y_place)
    if len(y) and (y == y.flat[0]).all():
        raise UsageError(
            f"{part.names[1]} is {y.flat[0]} everywhere, so there is nothing to predict; choose another target"
        )
    return replace(part, y=precise(y, part.y_place))


def with_labels(parts: Mapping[str, Examples]) -> tuple[dict[str, Examples], list[str]]:
    """Return examples whose targets are classes 0 … C - 1, int64 [N], and the names of the classes, if they are texts.

    Texts are numbered in sorted order. Numbers must be 0 … C - 1, where C different ones are in the training examples.
    """
    labels = {name: one_each(part) for name, part in parts.items()}
    names: list[str] = []
    if labels["train"].dtype.kind == "U":
        names = sorted(set(labels["train"].tolist()))
        check_several(np.asarray(names), parts["train"].names[1])
        labels = {name: numbered(one, names, parts[name]) for name, one in labels.items()}
    whole: dict[str, NDArray[np.int64]] = {}
    for name, part in parts.items():
        if labels[name].dtype.kind not in "biuf":
            held = type_text(labels[name])
            raise UsageError(f"{part.names[1]} holds {held}, expected classes: whole numbers or texts")
        check_numbers(labels[name], part.names[1], part.y_place)
        whole[name] = whole_numbers(labels[name], part.y_place)
    check_several(whole["train"], parts["train"].names[1])
    classes = len(np.unique(whole["train"]))
    for name, part in parts.items():
        check_labels(whole[name], classes, part.y_place)
    return {name: replace(part, y=whole[name]) for name, part in parts.items()}, names


def one_each(part: Examples) -> Array:
    """Return targets as one label per example, [N]; raise ``UsageError`` if there are several."""
    y = targets_of(part)
    if y.shape[1:] not in ((), (1,)):
        raise UsageError(
            f"{part.names[1]} has shape {list(y.shape)}, expected one class per example, [N]; "
            "write y.argmax(axis=1) if each row marks its class"
        )
    return y.reshape(-1)


def numbered(labels: Array, names: Sequence[str], part: Examples) -> NDArray[np.int64]:
    """Return the number of each text, [N]; raise ``UsageError`` for one that no training example has."""
    number = {name: index for index, name in enumerate(names)}
    found = np.array([number.get(str(label), -1) for label in labels.tolist()], np.int64)
    if (found < 0).any():
        index = first_index(found < 0)
        raise UsageError(
            f"{part.y_place(index)} is {excerpt(repr(str(labels[index])), 40)}, a class that no training example has"
        )
    return found


def classes_note(name: str, names: Sequence[str]) -> str:
    """Return the line that says which number each class has."""
    listed = ", ".join(f"{index} {excerpt(one, 40)}" for index, one in enumerate(names[:LISTED]))
    rest = len(names) - LISTED
    return f"classes of {name}: {listed}" + (f" and {rest} more, in sorted order" if rest > 0 else "")

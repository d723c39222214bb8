"""From inputs and targets of any source to :class:`Data`: converted, checked, split and standardised, in this order.

N examples, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gradbench.data import Array, Data, splits
from gradbench.data.checks import (
    Place,
    check_labels,
    check_lengths,
    check_numbers,
    check_several,
    first_index,
    in_array,
    type_text,
    whole_numbers,
)
from gradbench.errors import UsageError, excerpt, nearest

TARGETS = {
    "classes": "each example has a class",
    "numbers": "each example has a number or several to predict",
    "none": "there are inputs alone",
}
"""Value of ``data.targets`` -> what it means. A model's ``targets`` is the default."""

STANDARDISE = ("none", "inputs", "both")

TEST_SHARE = 0.2
"""Share of the test part where the source has no test examples and no share was asked for."""

LISTED = 10
"""Classes that a note lists."""


@dataclass(frozen=True)
class Preparation:
    """How the examples of a source become a data set: the keys that all sources have.

    Args:
        targets: a key of ``TARGETS``; ``None`` if the model leaves it open, and nothing was typed.
        test_share: share of the examples (of each class) that is kept for testing; ``None`` for ``TEST_SHARE``, or for
            the source's own test examples.
        split_seed: seed of the draw of the test part.
        standardise: ``none``, ``inputs`` or ``both``: to mean 0 and variance 1 over the training examples, each column
            or channel (axis 1) of the inputs, and each number to predict.
    """

    targets: str | None
    test_share: float | None
    split_seed: int
    standardise: str

    def __post_init__(self) -> None:
        """Raise ``UsageError`` for a value that there is not."""
        if self.targets is None:
            raise UsageError(
                "this model does not say what it learns; add data.targets=classes, data.targets=numbers or "
                "data.targets=none"
            )
        for key, value, known in (
            ("targets", self.targets, TARGETS),
            ("standardise", self.standardise, STANDARDISE),
        ):
            if value not in known:
                raise UsageError(
                    f"data.{key} must be one of {', '.join(known)}, got {value!r}{nearest(str(value), known)}"
                )
        if self.split_seed < 0:
            raise UsageError(
                f"data.split_seed must be >= 0, got {self.split_seed}; give a whole number like 0"
            )
        if self.test_share is not None:
            splits.check_share(self.test_share)


@dataclass(frozen=True)
class Examples:
    """Inputs and targets as a source has them.

    Args:
        x: inputs [N, ...], numbers.
        y: targets [N] or [N, ...], numbers or texts; ``None`` without.
        names: of inputs and targets, for messages.
        x_place: where an input stands.
        y_place: where a target stands.
        may_miss: whether NaN among the inputs stands for a missing number, which becomes the mean of its column over
            the training examples.
    """

    x: Array
    y: Array | None
    names: tuple[str, str]
    x_place: Place
    y_place: Place
    may_miss: bool = False

    @classmethod
    def of_arrays(cls, x: Array, y: Array | None, names: tuple[str, str]) -> "Examples":
        """Return the examples of arrays, whose places are their names with an index."""
        return cls(x, y, names, in_array(names[0]), in_array(names[1]))


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
    return Data(arrays, sizes_of(arrays, how), tuple(notes))


# ---- inputs ------------------------------------------------------------------------------------------------


def with_inputs(part: Examples, how: Preparation) -> Examples:
    """Return examples with checked inputs in float32, or in int64 if they are whole numbers and stay as they are."""
    name, x = part.names[0], part.x
    check_lengths({name: x} | ({part.names[1]: part.y} if part.y is not None else {}))
    if x.ndim < 2:
        raise UsageError(f"{name} has shape {list(x.shape)}, expected [N, ...]; write x.reshape(-1, 1)")
    check_numbers(x, name, part.x_place, may_miss=part.may_miss)
    if is_pixels(x):
        return replace(part, x=x.astype(np.float32) / np.float32(255))
    if x.dtype.kind in "iu" and how.standardise == "none":
        return replace(part, x=x.astype(np.int64))
    return replace(part, x=as_float32(x, name, part.x_place, may_miss=part.may_miss))


def is_pixels(x: Array) -> bool:
    """Return whether inputs are bytes, which stand for pixels from 0 to 255."""
    return x.dtype == np.uint8


def inputs_notes(part: Examples, how: Preparation) -> list[str]:
    """Return what is said of inputs that are no fractions."""
    if is_pixels(part.x):
        return [
            f"{part.names[0]} holds bytes: they are taken for pixels and divided by 255; save whole numbers as int64"
        ]
    if part.x.dtype.kind in "iu" and how.standardise == "none":
        return [
            f"{part.names[0]} holds whole numbers, which stay whole, as for nn.Embedding; save measurements as float32"
        ]
    return []


def as_float32(array: Array, name: str, place: Place, *, may_miss: bool = False) -> Array:
    """Return numbers in float32; raise ``UsageError`` for one that is not finite, or too large for it."""
    check_numbers(array, name, place, may_miss=may_miss)
    with np.errstate(over="ignore"):
        converted = array.astype(np.float32)
    too_large = np.isinf(converted)
    if too_large.any():
        index = first_index(too_large)
        raise UsageError(f"{place(index)} is {array[index]}, which is too large for float32; scale it down")
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
    filled = (np.where(np.isnan(one), means, one).astype(np.float32) for one in (train, test))
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
    scaled = (((one - mean) / safe).astype(np.float32) for one in (train, test))
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
    """Return examples whose targets are numbers, float32 [N] or [N, ...]."""
    y = targets_of(part)
    if y.dtype.kind == "U":
        raise UsageError(
            f"{part.y_place((0,))} is {excerpt(repr(str(y.flat[0])), 40)}, expected a number to predict; "
            "model=classifier learns classes"
        )
    return replace(part, y=as_float32(y, part.names[1], part.y_place))


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


# ---- the whole ---------------------------------------------------------------------------------------------


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

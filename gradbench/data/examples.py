"""Inputs and targets of any source, and how they become a data set.

N examples.
"""

from dataclasses import dataclass

from gradbench.data import Array, splits
from gradbench.data.checks import Place, in_array
from gradbench.errors import UsageError, nearest

TARGETS = {
    "classes": "each example has a class",
    "numbers": "each example has a number or several to predict",
    "none": "there are inputs alone",
}
"""Value of ``data.targets`` -> what it means. A model's ``targets`` is the default."""

STANDARDISE = ("none", "inputs", "both")

TEST_SHARE = 0.2
"""Share of the test part where the source has no test examples and no share was asked for."""


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
    standardise: str
    test_share: float | None = None
    split_seed: int = 0

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

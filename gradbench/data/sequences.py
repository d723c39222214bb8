"""Sequences whose target depends on two positions far from the end: temporal order, and adding.

Both tasks are from Hochreiter and Schmidhuber, "Long short-term memory" (Neural Computation 9(8), 1997), as used by
Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks" (arXiv:1211.5063, 2013); the
positions are those of their published program. Deviation: sequences are drawn once, have equal length, and are the
same for every cell.

N sequences, T steps, D features of a step.
"""

import numpy as np
from numpy.typing import NDArray

from gradbench.data import Array, Data
from gradbench.errors import UsageError, nearest

TASKS = ("temporal_order", "adding")
MIN_LENGTH = 10
"""Fewest steps of a sequence: with fewer, a tenth of it is empty."""

RELEVANT, DISTRACTORS = 2, 4
"""Number of symbols of the temporal order task: A and B determine the class, c, d, e and f do not."""


def load(task: str, length: int, train: int, test: int, seed: int) -> Data:
    """Draw a training and a test set of sequences.

    Args:
        task: ``temporal_order`` or ``adding``.
        length: T.
        train: number of training sequences.
        test: number of test sequences.
        seed: seed of the draw; each set has its own generator, so the size of one does not change the other.

    Returns:
        Arrays ``train/x``, ``test/x`` float32 [N, T, D] and ``train/y``, ``test/y`` [N], int64 classes or float32
        numbers; sizes ``features`` (D), ``length`` (T) and ``answers`` (classes, or 1 for a number).
    """
    if task not in TASKS:
        raise UsageError(f"data.task must be one of {', '.join(TASKS)}, got '{task}'{nearest(task, TASKS)}")
    if length < MIN_LENGTH:
        raise UsageError(f"data.length must be at least {MIN_LENGTH} steps, got {length}; try data.length=50")
    for name, count in (("train", train), ("test", test)):
        if count < 1:
            raise UsageError(f"data.{name} must be at least 1 sequence, got {count}; try data.{name}=2048")
    draw = draw_temporal_order if task == "temporal_order" else draw_adding
    arrays: dict[str, Array] = {}
    for index, (split, count) in enumerate((("train", train), ("test", test))):
        arrays[f"{split}/x"], arrays[f"{split}/y"] = draw(np.random.default_rng([seed, index]), count, length)
    answers = RELEVANT**2 if task == "temporal_order" else 1
    return Data(arrays, {"features": arrays["test/x"].shape[2], "length": length, "answers": answers})


def draw_temporal_order(
    generator: np.random.Generator, count: int, length: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw sequences of one-hot symbols, whose class is the order AA, BA, AB or BB of two relevant ones.

    One relevant symbol is in the second tenth of the sequence and one in the sixth; all other symbols are
    distractors. Returns x [N, T, 6] and the class, first + 2 · second with A = 0 and B = 1, [N].
    """
    tenth, rows = length // 10, np.arange(count)
    symbols = RELEVANT + generator.integers(DISTRACTORS, size=(count, length))
    first, second = generator.integers(RELEVANT, size=(2, count))
    symbols[rows, tenth + generator.integers(tenth, size=count)] = first
    symbols[rows, length // 2 + generator.integers(tenth, size=count)] = second
    one_hot = np.eye(RELEVANT + DISTRACTORS, dtype=np.float32)
    return one_hot[symbols], first + RELEVANT * second


def draw_adding(
    generator: np.random.Generator, count: int, length: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw sequences of numbers with two marked ones, and half the sum of these two.

    A step is (mark, number), the number ~ U[0, 1). One mark is in the first tenth of the sequence, the other between
    there and the middle. Returns x [N, T, 2] and half the sum, in [0, 1), [N].
    """
    tenth, rows = length // 10, np.arange(count)
    numbers = generator.random((count, length), dtype=np.float32)
    first = generator.integers(tenth, size=count)
    second = generator.integers(tenth, length // 2, size=count)
    marks = np.zeros_like(numbers)
    marks[rows, first] = marks[rows, second] = 1.0
    halves = (numbers[rows, first] + numbers[rows, second]) / 2
    return np.stack([marks, numbers], axis=2), halves.astype(np.float32)

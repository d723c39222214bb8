"""Generated sequences: every answer can be worked out from its sequence, and nothing else gives it away."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from gradbench.data import sequences
from gradbench.errors import UsageError

lengths = st.integers(sequences.MIN_LENGTH, 60)


@given(lengths, st.integers(0, 9))
def test_the_order_of_two_symbols_is_the_class_and_they_stand_where_pascanus_program_puts_them(length, seed):
    data = sequences.load("temporal_order", length, 30, 5, seed)
    x, y = data.arrays["train/x"], data.arrays["train/y"]
    assert x.shape == (30, length, 6)
    assert (x.sum(axis=2) == 1).all()
    for symbols, answer in zip(x.argmax(axis=2), y, strict=True):
        (first, second) = np.flatnonzero(symbols < 2)
        assert length // 10 <= first < 2 * (length // 10)
        assert length // 2 <= second < length // 2 + length // 10
        assert answer == symbols[first] + 2 * symbols[second]


@given(lengths, st.integers(0, 9))
def test_the_answer_of_an_addition_is_half_the_sum_of_the_two_marked_numbers(length, seed):
    data = sequences.load("adding", length, 30, 5, seed)
    x, y = data.arrays["train/x"], data.arrays["train/y"]
    marks, numbers = x[..., 0], x[..., 1]
    assert x.shape == (30, length, 2)
    np.testing.assert_allclose((marks * numbers).sum(axis=1) / 2, y, rtol=1e-6)
    for row in marks:
        first, second = np.flatnonzero(row)
        assert first < length // 10 <= second < length // 2
    assert (numbers >= 0).all()
    assert (numbers < 1).all()


def test_classes_and_distractors_are_drawn_evenly_and_numbers_uniformly():
    order = sequences.load("temporal_order", 20, 20_000, 1, 0).arrays
    assert chisquare(np.bincount(order["train/y"], minlength=4)).pvalue > 1e-3
    distractors = order["train/x"].argmax(axis=2)
    assert chisquare(np.bincount(distractors.ravel(), minlength=6)[2:]).pvalue > 1e-3
    numbers = sequences.load("adding", 20, 1000, 1, 0).arrays["train/x"][..., 1]
    assert kstest(numbers.ravel(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("task", sequences.TASKS)
def test_a_draw_depends_on_its_seed_and_the_sizes_say_what_a_model_must_know(task):
    one, same = sequences.load(task, 15, 100, 50, 0), sequences.load(task, 15, 100, 50, 0)
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != sequences.load(task, 15, 100, 50, 1).fingerprint
    larger = sequences.load(task, 15, 200, 50, 0)
    np.testing.assert_array_equal(larger.arrays["test/x"], one.arrays["test/x"])
    assert one.sizes["length"] == one.arrays["train/x"].shape[1] == 15
    assert one.sizes["features"] == one.arrays["train/x"].shape[2]
    assert one.sizes["answers"] == (4 if task == "temporal_order" else 1)
    assert one.arrays["train/y"].dtype == (np.int64 if task == "temporal_order" else np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "addding"}, "data.task must be one of temporal_order, adding, got 'addding'; did you mean"),
        ({"length": 9}, "data.length must be at least 10 steps, got 9; try data.length=50"),
        ({"train": 0}, "data.train must be at least 1 sequence, got 0"),
        ({"test": 0}, "data.test must be at least 1 sequence, got 0"),
    ],
)
def test_settings_that_make_no_sense_are_answered_in_one_line(change, message):
    with pytest.raises(UsageError, match=message):
        sequences.load(**{"task": "adding", "length": 20, "train": 5, "test": 5, "seed": 0} | change)

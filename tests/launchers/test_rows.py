"""Rows and arrays of trained cells: what their data tells, and text in place of its tokens."""

import numpy as np
import pytest
from small import CPU, cells, data_of

from gradbench.data import Data
from gradbench.data.text import decode_tokens
from gradbench.launchers.rows import arrays_of, finished_rows
from gradbench.training.loop import train


@pytest.mark.parametrize("level", ["character", "word"])
def test_a_cell_of_a_language_model_stores_what_it_wrote_as_text(level):
    (cell,) = cells("lstm", "none", steps=2, eval_every=1, data__level=level)
    data = data_of(cell)
    outcome = train([cell], data, CPU)
    (stored,) = arrays_of([cell], outcome, data).values()
    for name in ("prompt", "sample"):
        text = stored[name].tobytes().decode()
        assert text == decode_tokens(data, outcome.arrays[0][f"{name}_tokens"])
    assert not any(name.endswith("_tokens") for name in stored)
    assert stored["sample"].nbytes < 5000
    (row,) = finished_rows([cell], outcome, data, CPU, "then")
    assert row["test/unknown"] == data.facts["test/unknown"]
    assert (row["test/unknown"] > 0) == (level == "word")


def test_tokens_without_a_vocabulary_are_not_stored():
    (cell,) = cells("lstm", "none", steps=1, eval_every=1)
    whole = data_of(cell)
    outcome = train([cell], whole, CPU)
    data = Data({name: whole.arrays[name] for name in ("train/tokens", "test/tokens")}, whole.sizes)
    (stored,) = arrays_of([cell], outcome, data).values()
    assert stored
    assert not {"prompt", "sample"} & stored.keys()
    assert all(isinstance(array, np.ndarray) for array in stored.values())

"""Cells that have diverged are left out of the arithmetic, and nobody else notices."""

import pytest
from small import CONFIGS, CPU, cells, data_of
from stopping import StopError, always, assert_same_outcome, stop_at

from gradbench.stack import CHUNK, without_diverged
from gradbench.train import train


def wild_and_calm(model, **values):
    """Return a stack of four cells of which all but the third overflow at once, and the third alone."""
    given = {
        "precision": "float32",
        "divergence__patience": 5,
        "steps": 2 * CHUNK + 20,
        "eval_every": CHUNK // 2,
    } | values
    stack = [cells(model, "none", optimizer__lr=lr, **given)[0] for lr in (1e30, 2e30, 0.01, 3e30)]
    return stack, data_of(stack[0])


@pytest.mark.parametrize("model", CONFIGS.groups["model"])
def test_leaving_out_diverged_cells_changes_no_bit_of_the_others(model, monkeypatch):
    stack, data = wild_and_calm(model)
    widths = []

    def watched(*args):
        setup, state = without_diverged(*args)
        widths.append(len(setup.places))
        return setup, state

    monkeypatch.setattr("gradbench.train.without_diverged", watched)
    left_out = train(stack, data, CPU)
    assert widths == [1], "the others must have been left out"
    monkeypatch.setattr("gradbench.train.has_thinned", lambda setup, state: False)
    kept = train(stack, data, CPU)
    assert list(left_out.diverged_at > 0) == [True, True, False, True]
    assert_same_outcome(left_out, kept)


@pytest.mark.parametrize("stop", [CHUNK, CHUNK + 25, 2 * CHUNK])
def test_a_stack_without_its_diverged_cells_is_gone_on_with_to_the_same_bits(stop, tmp_path):
    stack, data = wild_and_calm("mlp")
    whole = train(stack, data, CPU)
    with pytest.raises(StopError):
        train(stack, data, CPU, stop_at(stop + 1), always(tmp_path / "stack.pt"))
    assert_same_outcome(train(stack, data, CPU, checkpoint=always(tmp_path / "stack.pt")), whole)

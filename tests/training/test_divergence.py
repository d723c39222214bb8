"""Cells that have diverged are left out of the arithmetic, and nobody else notices; so does who breaks at the end."""

import math

import numpy as np
import pytest
import torch
from small import CPU, INEXACT, NETWORKS, cells, data_of, each_model
from stopping import StopError, always, assert_same_outcome, stop_at

from gradbench.launchers.rows import arrays_of, curves_of, finished_rows
from gradbench.training import loop
from gradbench.training.divergence import Divergence, has_finite
from gradbench.training.draws import CHUNK
from gradbench.training.loop import evaluate, train
from gradbench.training.setup import build_stack, compact


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


@each_model(1)
def test_leaving_out_diverged_cells_changes_the_others_by_no_bit_or_by_their_tolerance(model, monkeypatch):
    stack, data = wild_and_calm(model, steps=CHUNK + 20)
    widths = []

    def watched(*args):
        setup, state = compact(*args)
        widths.append(len(setup.cell_indices))
        return setup, state

    monkeypatch.setattr("gradbench.training.loop.compact", watched)
    left_out = train(stack, data, CPU)
    assert widths[-1] == 1, "the others must have been left out"
    monkeypatch.setattr("gradbench.training.loop.should_compact", lambda setup, state: False)
    kept = train(stack, data, CPU)
    assert list(left_out.diverged_at > 0) == [True, True, False, True]
    if build_stack(stack, data, CPU).is_exact:
        assert_same_outcome(left_out, kept)
        return
    assert model in {*NETWORKS, *INEXACT}, "gradbench's other networks are exact"
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(left_out.curves[name][:50, 2], kept.curves[name][:50, 2], rtol=1e-3)


@pytest.mark.parametrize("stop", [CHUNK, CHUNK + 25, 2 * CHUNK])
def test_a_stack_without_its_diverged_cells_is_gone_on_with_to_the_same_bits(stop, tmp_path):
    stack, data = wild_and_calm("mlp")
    whole = train(stack, data, CPU)
    with pytest.raises(StopError):
        train(stack, data, CPU, stop_at(stop + 1), always(tmp_path / "stack.pt"))
    assert_same_outcome(train(stack, data, CPU, checkpoint=always(tmp_path / "stack.pt")), whole)


# ---- what the last update breaks ---------------------------------------------------------------------------------

# as large as no parameter can be in float32
BROKEN = 1e300

# the critic's update is the last one where no generator follows it, an agent's where it is the only one
LAST = {
    "wgan": {"model__generator": "fixed", "model__critic_steps": 1},
    "image_gan": {"model__critic_steps": 1},
    "actor_critic": {"model__minibatches": 1},
    "a2c": {"model__minibatches": 1},
}


def calm_and_broken(model, lr=BROKEN, **values):
    """Return a stack of two cells, of which the second's first update breaks it."""
    given = {"precision": "float32", "steps": 1, "eval_every": 1} | LAST.get(model, {}) | values
    stack = [cells(model, "none", optimizer__lr=rate, **given)[0] for rate in (0.01, lr)]
    return stack, data_of(stack[0])


@each_model(2)
def test_a_cell_that_breaks_in_its_last_update_has_diverged_then_and_leaves_the_others_their_bits(model):
    stack, data = calm_and_broken(model)
    outcome = train(stack, data, CPU)
    assert list(outcome.diverged_at) == [0, 1]
    assert np.isfinite(outcome.curves["loss"]).all(), "it broke after its loss was known"
    assert all(np.isnan(values[1]) for values in outcome.evaluations[1].values())
    assert outcome.arrays[1] == {}
    alone = train(stack[:1], data, CPU)
    for name, values in alone.evaluations[1].items():
        same = pytest.approx(values[0], rel=1e-5 if model in INEXACT else 0, abs=0)
        assert outcome.evaluations[1][name][0] == same, name
    assert outcome.arrays[0].keys() == alone.arrays[0].keys() != set()


def test_a_generator_that_breaks_in_its_last_update_has_diverged():
    given = {"model__critic_steps": 1, "regularizer__threshold": 0.01, "optimizer__lr": 1e38}
    (cell,) = cells("wgan", "weight_clip", precision="float32", steps=1, eval_every=1, **given)
    outcome = train([cell], data_of(cell), CPU)
    assert math.isfinite(outcome.curves["generator/loss"][0, 0])
    assert list(outcome.diverged_at) == [1]


def test_its_row_says_diverged_without_metrics_and_its_curve_ends_at_its_last_step():
    stack, data = calm_and_broken("mlp")
    outcome = train(stack, data, CPU)
    calm, broken = finished_rows(stack, outcome, data, CPU, "then")
    assert (calm["status"], calm["diverged_at"]) == ("completed", None)
    assert (broken["status"], broken["diverged_at"]) == ("diverged", 1)
    assert math.isnan(broken["test/accuracy"])
    curves = curves_of(stack, outcome).set_index("cell")
    assert curves.loc[stack[1].id, "step"] == 1
    assert math.isnan(curves.loc[stack[1].id, "test/accuracy"])
    assert set(arrays_of(stack, outcome, data)) == {stack[0].id}


@pytest.mark.parametrize("model", ["mlp", "lstm"])
def test_an_evaluation_shows_no_metric_of_a_cell_that_the_update_before_it_broke(model):
    stack, data = calm_and_broken(model, steps=2)
    outcome = train(stack, data, CPU)
    assert list(outcome.diverged_at) == [0, 2], "the next loss says so"
    for values in outcome.evaluations[1].values():
        assert np.isfinite(values[0])
        assert np.isnan(values[1])


def test_logits_that_overflow_are_no_accuracy_although_the_parameters_are_finite():
    stack, data = calm_and_broken("mlp", lr=1e30)
    outcome = train(stack, data, CPU)
    assert math.isfinite(outcome.curves["update_norm"][0, 1])
    assert list(outcome.diverged_at) == [0, 1]


def test_a_perplexity_that_overflows_at_the_end_has_diverged_although_its_loss_is_finite():
    given = {"precision": "float64", "steps": 1, "eval_every": 1, "optimizer__lr": 1e6}
    (perplexity,), (loss,) = (
        cells("lstm", "none", model__metric=metric, **given) for metric in ("test/perplexity", "test/loss")
    )
    data = data_of(loss)
    assert list(train([perplexity], data, CPU).diverged_at) == [1]
    outcome = train([loss], data, CPU)
    assert list(outcome.diverged_at) == [0]
    assert math.isinf(outcome.evaluations[1]["test/perplexity"][0]), "only what is compared must be finite"
    assert math.isfinite(outcome.evaluations[1]["test/loss"][0])
    together = [loss, *cells("lstm", "none", model__metric="test/perplexity", seed=0, **given)]
    assert list(train(together, data, CPU).diverged_at) == [0, 1], "each is judged by its own metric"


@pytest.mark.parametrize(
    ("step", "metric", "value", "diverged_at"),
    [
        (20, "test/accuracy", math.nan, 20),
        (20, "test/accuracy", -math.inf, 20),
        (20, "test/gradient_norm", math.nan, 0),
        (10, "test/accuracy", math.inf, 0),  # it may recover
    ],
)
def test_only_the_compared_metric_of_the_last_evaluation_counts(
    step, metric, value, diverged_at, monkeypatch
):
    def altered(calls, state):
        metrics, arrays = evaluate(calls, state)
        if state.step == step:
            metrics[metric][0] = value
        return metrics, arrays

    monkeypatch.setattr("gradbench.training.loop.evaluate", altered)
    stack = cells("mlp", "none", seed=[0, 1], eval_every=10)
    assert list(train(stack, data_of(stack[0]), CPU).diverged_at) == [diverged_at, 0]


def test_one_that_diverges_earlier_keeps_its_step_and_one_that_breaks_at_the_end_gets_the_last(monkeypatch):
    stack, data = wild_and_calm("mlp")

    def broken_at_the_end(parameters):
        found = has_finite(parameters)
        return torch.zeros_like(found) if len(found) == 1 else found

    monkeypatch.setattr("gradbench.training.loop.has_finite", broken_at_the_end)
    outcome = train(stack, data, CPU)
    assert outcome.diverged_at[2] == 2 * CHUNK + 20
    assert (outcome.diverged_at[[0, 1, 3]] < 10).all()
    assert outcome.arrays == [{}] * 4


@pytest.mark.parametrize("at", [0, 4, 16])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_number_of_one_player_that_is_not_finite_is_found_and_none_is_too_large(at, bad):
    huge = torch.full((3, 17), torch.finfo(torch.float32).max)
    huge[1, at] = bad
    assert has_finite({"critic": torch.ones(3, 2), "generator": huge}).tolist() == [True, False, True]


def test_parameters_as_large_as_floats_can_be_fail_no_stack():
    stack, data = calm_and_broken("wgan", lr=1e308, precision="float64", optimizer="sgd")
    assert train(stack, data, CPU).diverged_at[0] == 0


@pytest.mark.parametrize(
    ("returns", "has_fallen"),
    [
        ([20, 500, 90, 90], True),
        ([20, 500, 90, 110], False),  # it recovers
        ([20, 500, 110, 90], False),  # not for good
        ([500, 90], False),
        ([20, 30, 20, 20], False),
        ([20, 500, 500, 500], False),
    ],
)
def test_a_metric_that_has_lost_most_of_its_best_for_good_has_fallen(returns, has_fallen):
    rule = Divergence(math.inf, 50, fall=0.8)
    assert rule.has_fallen(returns, "max") == has_fallen
    assert rule.has_fallen([1 / value for value in returns], "min") == has_fallen
    assert not Divergence(math.inf, 50).has_fallen(returns, "max")


def test_an_agent_whose_return_has_fallen_for_good_has_diverged_at_the_end(monkeypatch):
    stack = cells("actor_critic", "none", seed=[0, 1], steps=4, eval_every=1)
    data = data_of(stack[0])
    whole = train(stack, data, CPU)
    assert whole.statuses == ["completed", "completed"]
    courses = iter(
        [np.array([50.0, 5.0]), np.array([50.0, 50.0]), np.array([5.0, 9.0]), np.array([50.0, 9.0])]
    )
    evaluate = loop.evaluate

    def falling(stepper, state):
        metrics, arrays = evaluate(stepper, state)
        return metrics | {"test/return": next(courses)}, arrays

    monkeypatch.setattr(loop, "evaluate", falling)
    outcome = train(stack, data, CPU)
    assert list(outcome.diverged_at) == [0, 4]
    assert np.isnan(outcome.evaluations[4]["test/return"]).tolist() == [False, True]

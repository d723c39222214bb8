"""The loop: divergence as an outcome, telemetry against plain numpy, evaluation, early ends."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import CPU, DEAR, FAMILIES, advance, cells, data_of
from stopping import Heard, assert_same_outcome
from torch import nn

from gradbench.functional.flat_params import Layout
from gradbench.functional.seeding import derive, generator
from gradbench.models.mlp import Classifier
from gradbench.regularizers import Regularizer
from gradbench.regularizers.clip_value import clip_value
from gradbench.training.bind import bring_data, init_state
from gradbench.training.divergence import Divergence, init_divergence_state, update_divergence_state
from gradbench.training.draws import CHUNK, draw_chunk
from gradbench.training.loop import train, until
from gradbench.training.program import build_regularizer
from gradbench.training.regularize import group_by_regularizer
from gradbench.training.series import FULL, effect, effect_from_norms
from gradbench.training.setup import LOOK_EVERY, build_stack
from gradbench.training.state import PlayerState, Update
from gradbench.training.telemetry import COMPARE_EVERY, HISTOGRAM_EDGES, Telemetry


def test_data_lie_row_by_row_however_they_were_read_since_each_batch_would_copy_them_whole_otherwise():
    (cell,) = cells("cnn", "none")
    data = data_of(cell)
    turned = replace(data, arrays={name: np.asfortranarray(array) for name, array in data.arrays.items()})
    assert not turned.arrays["train/x"].flags.c_contiguous
    for name, tensor in bring_data(turned, CPU, torch.float32).items():
        assert tensor.is_contiguous()
        np.testing.assert_array_equal(tensor, data.arrays[name])


def test_a_cell_whose_numbers_overflow_diverges_at_that_step_and_its_curve_ends_there():
    calm, wild = (cells("mlp", "none", optimizer__lr=lr, precision="float32")[0] for lr in (0.1, 1e30))
    outcome = train([calm, wild], data_of(calm), CPU)
    step = outcome.diverged_at[1]
    assert outcome.diverged_at[0] == 0
    assert 1 <= step <= 4
    assert np.isnan(outcome.curves["loss"][step:, 1]).all()
    assert np.isfinite(outcome.curves["loss"][: step - 1, 1]).all()
    assert np.isfinite(outcome.curves["loss"][:, 0]).all()
    for name, values in outcome.evaluations[20].items():
        assert math.isnan(values[1]), f"{name}: a diverged cell has no final metrics"
        assert math.isfinite(values[0])
    assert outcome.arrays[1] == {}


def test_a_cell_whose_loss_stays_far_above_its_first_diverges_after_patience_steps():
    patient, strict = (
        cells(
            "mlp", "none", optimizer__lr=50.0, steps=60, divergence__patience=patience, divergence__factor=1.5
        )[0]
        for patience in (55, 7)
    )
    for cell, patience in ((patient, 55), (strict, 7)):
        outcome = train([cell], data_of(cell), CPU)
        loss, step = outcome.curves["loss"][:, 0], outcome.diverged_at[0]
        loss_limit = loss[0] + 0.5 * max(abs(loss[0]), 1)
        above = loss > loss_limit
        run = 0
        expected = 0
        for index, high in enumerate(above, start=1):
            run = run + 1 if high else 0
            if run == patience:
                expected = index
                break
        assert step == expected
    assert step > 0, "at this learning rate the loss must stay high"


def test_an_infinite_factor_counts_only_losses_that_are_not_finite():
    (cell,) = cells("mlp", "none", optimizer__lr=50.0, divergence__factor=math.inf, divergence__patience=2)
    assert train([cell], data_of(cell), CPU).diverged_at[0] == 0


def test_a_loss_is_too_high_for_too_long_after_as_many_updates_in_a_row_as_it_is_given():
    divergence_state, active = init_divergence_state(1, CPU), []
    for loss in [9.0] * 4 + [0.0] + [9.0] * 6:
        size = torch.full((1,), loss)
        divergence_state = update_divergence_state(divergence_state, size, size, torch.ones(1), 5)
        active.append(bool(divergence_state["active"]))
    assert active == [True] * 9 + [False] * 2
    assert int(divergence_state["updates_completed"]) == 9


@pytest.mark.parametrize("size", [math.inf, -math.inf, math.nan])
def test_no_patience_is_had_with_what_is_not_finite(size):
    divergence_state = update_divergence_state(
        init_divergence_state(2, CPU), torch.tensor([size, 3e38]), torch.zeros(2), torch.ones(2), None
    )
    assert divergence_state["active"].tolist() == [False, True]
    divergence_state = update_divergence_state(
        divergence_state, torch.zeros(2), torch.zeros(2), torch.ones(2), None
    )
    assert divergence_state["updates_completed"].tolist() == [0, 2], "once diverged, always diverged"


def test_a_critic_is_given_patience_per_step_not_per_update(monkeypatch):
    monkeypatch.setattr(Divergence, "loss_limit", lambda self, loss: torch.full_like(loss, -1e9))
    (cell,) = cells("wgan", "none", divergence__patience=3)
    assert cell.config["model"]["critic_steps"] > 1
    assert train([cell], data_of(cell), CPU).diverged_at[0] == 1 + 3


def test_training_ends_early_once_every_cell_has_diverged():
    stack = cells(
        "mlp",
        "none",
        optimizer__lr=1e30,
        precision="float32",
        steps=5 * CHUNK,
        eval_every=5 * CHUNK,
        seed=[0, 1],
    )
    heard = Heard()
    outcome = train(stack, data_of(stack[0]), CPU, [heard])
    assert list(heard.chunks) == [LOOK_EVERY] > [max(outcome.diverged_at)]
    assert np.isnan(heard.chunks[LOOK_EVERY]["loss"][-1]).all()
    assert outcome.diverged_at.all()
    assert heard.statuses == ["diverged", "diverged"]


def test_a_listener_hears_every_number_once_and_changes_none():
    stack = cells("wgan", "gp", steps=2 * CHUNK + 7, eval_every=30, seed=[0, 1], precision="float32")
    data, heard = data_of(stack[0]), Heard()
    assert_same_outcome(train(stack, data, CPU, [heard]), outcome := train(stack, data, CPU))
    whole = {
        name: np.concatenate([chunk[name] for chunk in heard.chunks.values()]) for name in outcome.curves
    }
    for name, curve in outcome.curves.items():
        np.testing.assert_array_equal(whole[name], curve, err_msg=name)
    assert max(map(len, (chunk["loss"] for chunk in heard.chunks.values()))) <= CHUNK
    assert list(heard.evaluations) == [30, 60, 90, 107]
    for step, metrics in outcome.evaluations.items():
        for name, values in metrics.items():
            np.testing.assert_array_equal(heard.evaluations[step][name], values, err_msg=name)
    assert heard.statuses == ["completed", "completed"]


def test_evaluations_fall_on_multiples_of_eval_every_and_on_the_last_step():
    (cell,) = cells("mlp", "none", steps=2 * CHUNK + 7, eval_every=30)
    outcome = train([cell], data_of(cell), CPU)
    assert sorted(outcome.evaluations) == [30, 60, 90, 107]


@given(st.integers(1, 50), st.integers(0, 200))
def test_until_leads_to_the_next_multiple(period, step):
    assert (step + until(period, step)) % period == 0
    assert 1 <= until(period, step) <= period


def test_how_often_cells_are_evaluated_does_not_change_their_training():
    often, rarely = (cells("wgan", "gp", steps=CHUNK + 10, eval_every=every)[0] for every in (7, CHUNK + 10))
    one, other = (train([cell], data_of(cell), CPU).curves for cell in (often, rarely))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_a_longer_budget_begins_with_the_same_steps():
    short, long = (
        cells("lstm", "none", steps=steps, eval_every=steps, optimizer__lr=0.1)[0]
        for steps in (10, CHUNK + 20)
    )
    one, other = (train([cell], data_of(cell), CPU).curves["loss"] for cell in (short, long))
    np.testing.assert_array_equal(one, other[:10])


gradients = st.lists(st.floats(-10, 10, width=32), min_size=4, max_size=4)


CLIP_VALUE = clip_value()


def recorded(regularizer, g, u):
    """Return what is recorded of one network's gradient [1, P] and of what was used of it."""
    norm, used_norm = (torch.linalg.vector_norm(vector, dim=1) for vector in (g, u))
    clipped, cosine = (
        effect(g, u, norm, used_norm)
        if regularizer.changes_direction
        else effect_from_norms(regularizer, norm, used_norm)
    )
    return {"grad_norm_used": float(used_norm), "clipped": float(clipped), "cosine": float(cosine)}


@given(gradients, gradients)
def test_what_is_recorded_of_a_gradient_and_its_use_equals_numpys(raw, used):
    g, u = torch.tensor([raw], dtype=torch.float64), torch.tensor([used], dtype=torch.float64)
    u = torch.where(g == 0, 0.0, u)  # no regularizer here makes a gradient out of nothing
    values = recorded(Regularizer(transform=CLIP_VALUE.transform), g, u)
    a, b = g[0].numpy(), u[0].numpy()
    product = np.linalg.norm(a) * np.linalg.norm(b)
    assert values["grad_norm_used"] == pytest.approx(np.linalg.norm(b))
    assert values["clipped"] == pytest.approx((a != b).sum() / max((a != 0).sum(), 1))
    if product > 1e-30:
        assert values["cosine"] == pytest.approx(a @ b / product, abs=1e-9)


def test_an_untouched_gradient_is_recorded_as_one_that_a_transform_left_alone():
    g = torch.randn(1, 9)
    assert recorded(Regularizer(), g, g) == pytest.approx(recorded(CLIP_VALUE, g, g))


def test_a_transform_that_says_it_rescales_does_and_is_recorded_as_it_would_be_measured():
    layout, g = Layout(nn.Linear(2, 3)), torch.randn(1, 9, dtype=torch.float64)
    every = [build_regularizer(cells("mlp", name)[0].config) for name in FAMILIES["clipping"]]
    rescaling = [built for built in every if built.preserves_direction]
    assert rescaling
    for built, strength in itertools.product(rescaling, (1e-3, 1e3)):
        used, _ = built.transform(g[0], torch.tensor(strength), built.init(g[0], layout), g[0], layout)
        measured = recorded(replace(built, preserves_direction=False), g, used[None])
        assert recorded(built, g, used[None]) == pytest.approx(measured)


def test_what_was_used_of_a_rescaled_gradient_is_found_from_its_norm():
    g = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    norm, nothing = torch.linalg.vector_norm(g, dim=1), torch.zeros(2)
    update = Update(
        PlayerState(g, {}, {}), nothing, nothing, {}, {}, norm, [], gradient=g, used_norm=norm / 4
    )
    torch.testing.assert_close(update.used, torch.tensor([[0.75, 1.0], [0.0, 0.0]]))


def test_gradient_histograms_count_every_nonzero_coordinate():
    stack = cells("mlp", "clip_value", regularizer__threshold=1e-3, seed=[0, 1])
    for arrays in train(stack, data_of(stack[0]), CPU).arrays:
        raw, used = arrays["gradients/raw"], arrays["gradients/used"]
        assert raw.sum() == used.sum() > 0
        edges = arrays["gradients/edges"]
        np.testing.assert_array_equal(edges, HISTOGRAM_EDGES)
        assert used[edges[:-1] > -2.9].sum() == 0, "nothing above the threshold is used"
        assert raw[edges[:-1] > -2.9].sum() > 0


def test_value_clipping_bends_the_direction_and_norm_clipping_does_not():
    for regularizer, is_plain_sgd in (("clip_norm", True), ("clip_value", False)):
        (cell,) = cells("mlp", regularizer, regularizer__threshold=1e-3)
        curves = train([cell], data_of(cell), CPU).curves
        measured = {name: curves[name][np.isfinite(curves[name])] for name in ("clipped", "cosine")}
        assert (measured["clipped"] > 0).all()
        assert len(measured["cosine"]) > 0
        assert np.allclose(measured["cosine"], 1.0, atol=1e-9) == is_plain_sgd


def test_purposes_and_seeds_give_unrelated_generators():
    names = [
        derive(seed, *purpose)
        for seed in range(20)
        for purpose in (("a",), ("b",), ("a", 1), ("a", 2), ("a:1",))
    ]
    # ("a", 1) and ("a:1",) name the same purpose; everything else differs
    assert len(set(names)) == 20 * 4
    assert torch.equal(torch.rand(3, generator=generator(1, "x")), torch.rand(3, generator=generator(1, "x")))


def test_cells_with_different_penalties_never_share_a_stack():
    with pytest.raises(ValueError, match="different penalties were grouped"):
        group_by_regularizer([*cells("mlp", "gp"), *cells("mlp", "none")], Classifier)


@pytest.mark.parametrize("regularizer", ["clip_norm", "weight_clip"])
@pytest.mark.parametrize("optimizer", [{}, {"momentum": 0.9}, {"weight_decay": 0.1}], ids=str)
def test_the_recorded_update_norm_is_how_far_the_parameters_moved(regularizer, optimizer):
    options = {f"optimizer__{key}": value for key, value in optimizer.items()}
    stack = cells("mlp", regularizer, regularizer__threshold=0.05, optimizer__lr=[0.1, 1.0], **options)
    setup = build_stack(stack, data_of(stack[0]), CPU)
    state, telemetry, draws = init_state(setup), Telemetry(setup), draw_chunk(setup, 0)
    for step in range(3):
        before = state.parameters["mlp"].clone()  # it may be written over
        advance(setup, state, draws, telemetry)
        moved = torch.linalg.vector_norm(state.parameters["mlp"] - before, dim=1)
        torch.testing.assert_close(
            telemetry.recorded()["mlp"][step, FULL.index("update_norm")], moved, rtol=1e-9, atol=0
        )


@pytest.mark.parametrize("record_every", [1, 3, 2 * COMPARE_EVERY])
def test_what_is_dear_to_measure_is_at_some_of_the_steps_with_a_row_and_nothing_else_is_lacking(record_every):
    steps = 4 * COMPARE_EVERY + 5
    stack = cells("mlp", "none,clip_norm,clip_value", steps=steps, eval_every=14, record_every=record_every)
    curves = train(stack, data_of(stack[0]), CPU).curves
    rows = list(range(record_every, steps + 1, record_every))
    apart = -(-COMPARE_EVERY // record_every)
    measured = {rows[0], *rows[apart - 1 :: apart], steps}
    known = np.array([step in measured for step in range(1, steps + 1)])
    for name, curve in curves.items():
        bent = known if name in DEAR else True  # the cells: none, clip_norm, clip_value
        assert np.isfinite(curve[:, :2]).all(), name
        np.testing.assert_array_equal(np.isfinite(curve[:, 2]), bent, err_msg=name)

"""The points at which a penalty is measured: those of each model, points around them, and those of one's own task."""

import numpy as np
import pytest
import torch
from small import CPU, MODELS, cells, data_of
from training.test_reference import alone, assert_follows, pair

from gradbench.errors import UsageError
from gradbench.functional.noise import CounterNoise
from gradbench.models.wgan import WassersteinGAN
from gradbench.sweep.plan import validate
from gradbench.tracing import cache
from gradbench.training.bind import init_state
from gradbench.training.draws import draw_chunk
from gradbench.training.loop import train
from gradbench.training.points import chosen, move, offered
from gradbench.training.program import build
from gradbench.training.setup import build_stack


def moved(points, key=0):
    with CounterNoise(torch.tensor(key)):
        return move(points)


@pytest.mark.parametrize("shape", [(400, 3), (200, 2, 4, 4)])
def test_points_move_by_half_a_standard_deviation_at_most_each_by_a_share_of_its_own(shape):
    points = 5 + 2 * torch.randn(shape, dtype=torch.float64)
    moves = (moved(points) - points).flatten(1)
    half = 0.5 * float(points.std(correction=0))
    assert 0 <= moves.min() < 0.01 * half
    assert 0.8 * half < moves.max() < half
    # a point's longest move is about its share of half the deviation: of uniform shares all are as likely
    if shape == (200, 2, 4, 4):
        shares = np.sort(moves.amax(dim=1).numpy() / half)
        np.testing.assert_allclose(shares, np.linspace(0, 1, len(shares)), atol=0.1)


def test_points_that_are_all_the_same_stay_and_other_keys_move_others_otherwise():
    same = torch.full((5, 3), 2.0)
    assert torch.equal(moved(same), same)
    points = torch.randn(5, 3)
    assert torch.equal(moved(points), moved(points))
    assert not torch.equal(moved(points), moved(points, key=1))


def test_a_gradient_reaches_what_points_are_made_of_as_if_they_had_not_moved():
    points = torch.randn(4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(moved(points * 2).sum(), points)
    assert torch.equal(gradient, torch.full_like(points, 2.0))


# ---- a GAN's ---------------------------------------------------------------------------------------------------


ONE_UPDATE = {"model__critic_steps": 1, "steps": 1, "eval_every": 1}


def first_penalty(points):
    """Return the penalty of the critic's first update."""
    (cell,) = cells("wgan", f"gp_zero@{points}", regularizer__lambda=0.7, **ONE_UPDATE)
    return train([cell], data_of(cell), CPU).curves["penalty"][0, 0]


def test_r1_and_r2_are_the_mean_squared_slope_at_real_and_at_generated_points_and_both_is_their_mean():
    (cell,) = cells("wgan", "none", **ONE_UPDATE)
    context = build_stack([cell], data_of(cell), CPU)
    state = init_state(context)
    nets = {name: context.layouts[name].bind(one.parameters[0]) for name, one in state.weights.items()}
    draw = {name: tensor[0, 0] for name, tensor in draw_chunk(context, 0)["critic"].items()}
    real, noise = context.data["train/x"][draw["real"]], draw["noise"]
    found = {}
    for name, x in {"real": real, "generated": nets["generator"](noise)}.items():
        x = x.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(nets["critic"](x).sum(), x)
        found[name] = 0.7 * slopes.square().sum(dim=1).mean().item()
    for name, penalty in found.items():
        assert first_penalty(name) == pytest.approx(penalty, rel=1e-9)
    assert first_penalty("both") == pytest.approx(sum(found.values()) / 2, rel=1e-9)


# ---- what no other number depends on ---------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "network"), [("classifier", "Normed"), ("wgan", "DropoutCritic")])
def test_where_a_penalty_is_measured_changes_no_mask_and_no_batch(model, network):
    own = {"classifier": "model__network", "wgan": "model__networks__critic"}[model]
    given = {own: f"networks.{network}", "steps": 5, "eval_every": 5}
    curves = {}
    for regularizer in ("none", "gp", "gp@around"):
        nothing = {} if regularizer == "none" else {"regularizer__lambda": 0.0}
        (cell,) = cells(model, regularizer, **given, **nothing)
        curves[regularizer] = train([cell], data_of(cell), CPU).curves["loss"]
    np.testing.assert_allclose(curves["gp"], curves["none"], rtol=1e-12)
    np.testing.assert_allclose(curves["gp@around"], curves["none"], rtol=1e-12)


@pytest.mark.parametrize("regularizer", ["gp", "gp@around"])
def test_a_critic_with_dropout_follows_the_reference(regularizer):
    assert_follows(pair("wgan", regularizer, model__networks__critic="networks.DropoutCritic"))


# ---- what is not offered ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_points_that_a_model_does_not_offer_are_refused_at_the_plan_with_those_that_it_does(model):
    (cell,) = cells(model, "gp@fake")
    with pytest.raises(UsageError, match=r"^regularizer\.points=fake: model=") as caught:
        validate([cell], data_of)
    for name in offered(build(cell.config, data_of(cell)).model):
        assert name in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- one's own task --------------------------------------------------------------------------------------------


@pytest.fixture
def own_probe(monkeypatch):
    """Give the GAN a probe of one's own, and names of its points."""

    def give(probe, points=(), around=None):
        for name, value in {"probe": probe, "probe_points": points, "probe_around": around}.items():
            monkeypatch.setattr(WassersteinGAN, name, value)
        monkeypatch.setattr(cache, "TRACE_CACHE", {})

    return give


def critic_of(task, nets):
    return lambda x: task.values(nets["critic"], x)


def test_a_task_that_returns_one_tensor_names_no_points_and_takes_none(own_probe):
    between = alone(pair("wgan", "gp")[1])
    own_probe(lambda task, player, nets, batch, carry: (critic_of(task, nets), batch["between"]))
    found = assert_follows(pair("wgan", "gp"))
    np.testing.assert_array_equal(found["critic/penalty"], between["critic/penalty"])
    with pytest.raises(
        UsageError, match=r"points=real: model=wgan measures a penalty at one place alone; leave"
    ):
        validate(pair("wgan", "gp@real"), data_of)


def test_a_task_names_points_of_its_own_the_default_first(own_probe):
    def probe(task, player, nets, batch, carry):
        middle = (batch["real"] + batch["fake"]) / 2
        return critic_of(task, nets), {"real": batch["real"], "middle": middle}

    real = alone(pair("wgan", "gp@real")[1])
    own_probe(probe, ("middle", "real"), around="middle")
    by_name = {name: assert_follows(pair("wgan", f"gp@{name}")) for name in ("middle", "real", "around")}
    default = alone(pair("wgan", "gp")[1])
    np.testing.assert_array_equal(by_name["middle"]["critic/penalty"], default["critic/penalty"])
    np.testing.assert_array_equal(by_name["real"]["critic/penalty"], real["critic/penalty"])
    assert (by_name["around"]["critic/penalty"] != default["critic/penalty"]).all()


def test_a_task_that_returns_other_points_than_it_names_is_told_both():
    task = WassersteinGAN.__new__(WassersteinGAN)
    with pytest.raises(UsageError, match=r"WassersteinGAN.probe returns points here, and .* between, real"):
        chosen(task, (torch.sum, {"here": torch.zeros(2)}), None)
    with pytest.raises(UsageError, match="returns points without a name"):
        chosen(task, (torch.sum, torch.zeros(2)), "real")
    f, points = chosen(task, (torch.sum, torch.zeros(2)), None)
    assert f is torch.sum, "as before there were names"
    assert torch.equal(points, torch.zeros(2))

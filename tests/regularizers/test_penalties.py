"""Penalties: their value by double backward, their gradient in the WEIGHTS by finite differences."""

import math

import pytest
import torch
from gradients import few_examples
from hypothesis import given
from hypothesis import strategies as st
from small import CONFIGS, CPU, FAMILIES, cells, data_of, each_model, keys_of
from torch import nn
from torch.func import grad, vmap

from gradbench.config.compose import resolve
from gradbench.functional.flat_params import Layout, flatten
from gradbench.functional.input_gradients import Evaluated, gradient_norms
from gradbench.regularizers import Regularizer
from gradbench.regularizers.gradient_penalty import gradient_penalty
from gradbench.tracing import cache
from gradbench.training import program
from gradbench.training.bind import init_state
from gradbench.training.draws import draw_chunk
from gradbench.training.program import build_regularizer
from gradbench.training.setup import build_stack
from gradbench.training.state import PlayerState, UpdateInputs
from gradbench.training.step import EagerStepper, interact
from gradbench.training.telemetry import Telemetry

every_penalty = pytest.mark.parametrize("penalty", FAMILIES["penalty"], indirect=True)
every_option = pytest.mark.parametrize(
    "options",
    [
        {"center": center, "one_sided": one_sided, "reduction": reduction}
        for center in (0.0, 1.0)
        for one_sided in (False, True)
        for reduction in ("mean", "max")
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)


@pytest.fixture(scope="module")
def penalty(request):
    """The penalty of a regularizer by its name."""
    config = resolve(CONFIGS.compose((f"regularizer={request.param}", "model=wgan"))[0])
    return build_regularizer(config).penalty


def critic(*shape, normalised=False):
    """Return the layout of a smooth critic of points of this shape, and weights with slopes around 1."""
    middle = [nn.LayerNorm(5)] if normalised else []
    layers = [nn.Flatten(), nn.Linear(math.prod(shape), 5), *middle, nn.Tanh(), nn.Linear(5, 1)]
    net = nn.Sequential(*layers).double()
    return Layout(net), flatten(net) * 3


def points_of(*shape):
    """Return eight points of this shape."""
    return torch.randn(8, *shape, dtype=torch.float64)


def price(penalty, layout, points, weight=10.0):
    """Return the penalty as a function of the critic's weights [P]."""
    strength = torch.tensor(weight, dtype=points.dtype)
    return lambda weights: penalty(lambda x: layout.bind(weights)(x).squeeze(-1), points, strength)


def central_differences(function, vector, step=1e-6):
    """Return the gradient of a scalar function, coordinate by coordinate."""
    steps = torch.eye(len(vector), dtype=vector.dtype) * step
    return torch.stack([(function(vector + h) - function(vector - h)) / (2 * step) for h in steps])


def by_double_backward(layout, weights, points, weight, center, one_sided, reduction):
    """Return value and weight gradient of a penalty: sample by sample, with autograd's ``create_graph``."""
    weights = weights.clone().requires_grad_()
    prices = []
    for point in points:
        x = point[None].clone().requires_grad_()
        (slope,) = torch.autograd.grad(layout.bind(weights)(x).sum(), x, create_graph=True)
        excess = slope.square().sum().sqrt() - center
        prices.append(torch.relu(excess) ** 2 if one_sided else excess**2)
    total = weight * (sum(prices) / len(prices) if reduction == "mean" else max(prices))
    return total.detach(), torch.autograd.grad(total, weights)[0]


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2)])
def test_the_critic_below_has_slopes_on_both_sides_of_one(shape):
    layout, weights = critic(*shape)
    norms = gradient_norms(lambda x: layout.bind(weights)(x).squeeze(-1), points_of(*shape))
    assert norms.min() < 1 < norms.max()


@every_option
def test_a_penalty_is_what_double_backward_makes_of_it_sample_by_sample(options):
    layout, weights = critic(3)
    points = points_of(3)
    value, gradient = by_double_backward(layout, weights, points, 10.0, **options)
    ours = price(gradient_penalty(**options).penalty, layout, points)
    torch.testing.assert_close(ours(weights), value, rtol=1e-12, atol=0)
    torch.testing.assert_close(grad(ours)(weights), gradient, rtol=1e-10, atol=1e-12)


@every_penalty
@pytest.mark.parametrize("shape", [(3,), (2, 2, 2)], ids=["points", "images"])
def test_a_penaltys_gradient_with_respect_to_the_weights_is_that_of_finite_differences(penalty, shape):
    layout, weights = critic(*shape)
    priced = price(penalty, layout, points_of(*shape))
    gradient = grad(priced)(weights)
    torch.testing.assert_close(gradient, central_differences(priced, weights), rtol=1e-6, atol=1e-6)
    assert gradient.abs().max() > 1e-2, "a penalty that is added but never differentiated"


@every_penalty
def test_a_stack_of_critics_pays_what_each_critic_alone_pays(penalty):
    layout, weights = critic(3)
    weights_KP = torch.stack([weights, weights * 0.5, weights * 2.0])
    points_KBD, lambdas_K = torch.randn(3, 6, 3, dtype=torch.float64), torch.tensor([0.1, 1.0, 10.0]).double()

    def one(vector, points, strength):
        return penalty(lambda x: layout.bind(vector)(x).squeeze(-1), points, strength)

    together = vmap(grad(one))(weights_KP, points_KBD, lambdas_K)
    for k in range(3):
        alone = grad(one)(weights_KP[k], points_KBD[k], lambdas_K[k])
        torch.testing.assert_close(together[k], alone, rtol=1e-12, atol=1e-14)


@every_penalty
def test_a_function_that_was_evaluated_at_its_points_pays_as_one_that_was_not_there_and_elsewhere(penalty):
    layout, weights = critic(3)
    here, elsewhere, strength = points_of(3), points_of(3), torch.tensor(10.0).double()

    def paid(vector, points, evaluated):
        f = lambda x: layout.bind(vector)(x).squeeze(-1)  # noqa: E731
        known = Evaluated(f, here, f(here), grad(lambda x: f(x).sum())(here)) if evaluated else f
        return penalty(known, points, strength) + known(points).mean()

    for points in (here, elsewhere):
        ours, theirs = (grad(paid)(weights, points, evaluated) for evaluated in (True, False))
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


# ---- what every model's loss and penalty make together -----------------------------------------------------


def elsewhere(f, points, weight):
    """Return a price on slopes and values at points that a model does not name, as DRAGAN has them."""
    return weight * (gradient_norms(f, 1.01 * points + 0.01).square().mean() + f(points).square().mean())


@pytest.mark.parametrize("priced", ["gp", "elsewhere"])
@each_model(0)
def test_every_models_objective_has_the_slope_of_finite_differences_penalty_included(
    model, priced, monkeypatch
):
    # finite differences are no slope at the kinks of a rectifier, which a residual network has without being asked
    monkeypatch.setattr("gradbench.models.networks.residual.Rectifier", torch.nn.Tanh)

    def only(player):
        return Regularizer(penalty=elsewhere) if player is None or player.regularized else Regularizer()

    if priced == "elsewhere":
        monkeypatch.setattr(program, "build_parts", lambda _, player=None: [only(player)])
        monkeypatch.setattr(cache, "TRACE_CACHE", {})
    plain = {"model.activation": "tanh", "model.norm": "none"}  # smooth, and without statistics to keep
    known = keys_of(f"model={model}")
    smooth = {key.replace(".", "__"): value for key, value in plain.items() if key in known}
    with_penalty, without = cells(model, "gp", regularizer__lambda=[3.0, 0.0], **smooth)
    setup = build_stack([with_penalty, without], data_of(with_penalty), CPU)
    state, player = init_state(setup), next(player for player in setup.players if player.regularized)
    draws = draw_chunk(setup, 0)
    draw = {name: tensor[:, :1][setup.seed_of_cell] for name, tensor in draws[player.name].items()}
    transitions = interact(setup, state, draws, torch.ones(()))
    noise_key = setup.noise_keys[player.name]
    batches = player.batch(state.weights, transitions, setup.data, draw, noise_key, torch.ones(()))
    batch = {name: tensor[:, 0] for name, tensor in batches.items()}

    def objective(own):
        optimizer_state = {
            name: tensor.clone() for name, tensor in state.optimizer_state[player.name].items()
        }
        inputs = UpdateInputs(
            others,
            batch,
            state.carry,
            setup.strength,
            state.regularizer_state[player.name],
            setup.lr,
            setup.schedule,
            torch.ones(()),
            noise_key,
            state.divergence_state,
            state.loss_limit,
        )
        update = player.update(False, player.due(0), PlayerState(own.clone(), optimizer_state, {}), inputs)
        return update.gradient, update.loss + update.penalty

    others = dict(state.weights)
    own = others.pop(player.name).parameters
    direction, step = torch.randn_like(own), 1e-6
    slope = (objective(own + step * direction)[1] - objective(own - step * direction)[1]) / (2 * step)
    gradient = objective(own)[0]
    torch.testing.assert_close((gradient * direction).sum(dim=1), slope, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(gradient[0], gradient[1], rtol=1e-3), "lambda must change the gradient"


def test_a_lazy_penalty_is_computed_only_at_the_steps_that_add_it(monkeypatch):
    computed = []

    def counted(f, points, weight):
        computed.append(f)
        return weight * gradient_norms(f, points).mean()

    lazy = Regularizer(penalty=counted, every=4)
    monkeypatch.setattr(program, "build_parts", lambda _config, _player=None: [lazy])
    stack = cells("mlp", "gp", steps=10, eval_every=10)
    setup = build_stack(stack, data_of(stack[0]), CPU, traces=False)
    stepper, state, telemetry = EagerStepper(setup), init_state(setup), Telemetry(setup)
    for _ in range(10):
        stepper.advance(state, draw_chunk(setup, 0), telemetry)
    assert len(computed) == 3, "at the steps 0, 4 and 8"


# ---- mathematics -------------------------------------------------------------------------------------------


@given(
    w=st.lists(st.floats(-3, 3), min_size=2, max_size=5).filter(lambda w: math.hypot(*w) > 1e-3),
    weight=st.floats(0, 100),
    center=st.sampled_from([0.0, 1.0]),
)
@few_examples
def test_a_linear_critic_pays_for_the_norm_of_its_weights(w, weight, center):
    vector, points = torch.tensor(w, dtype=torch.float64), torch.randn(4, len(w), dtype=torch.float64)
    norm = math.hypot(*w)
    for one_sided in (False, True):
        penalty = gradient_penalty(center=center, one_sided=one_sided).penalty

        def priced(v, penalty=penalty):
            return penalty(lambda x: x @ v, points, torch.tensor(weight, dtype=torch.float64))

        excess = max(norm - center, 0.0) if one_sided else norm - center
        assert priced(vector).item() == pytest.approx(weight * excess**2, rel=1e-9, abs=1e-12)
        expected = 2 * weight * excess * vector / norm
        torch.testing.assert_close(grad(priced)(vector), expected, rtol=1e-9, atol=1e-12)


def test_the_norm_is_over_all_dimensions_of_a_point_and_not_over_its_channels():
    images = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    norms = gradient_norms(lambda x: 0.5 * x.flatten(1).sum(dim=1), images)
    assert torch.equal(norms, torch.full((3,), 2.0, dtype=torch.float64))


@pytest.mark.parametrize("normalised", [False, True], ids=["plain", "layer norm"])
def test_a_samples_gradient_norm_does_not_depend_on_the_other_samples(normalised):
    layout, weights = critic(2, 3, normalised=normalised)
    points = torch.randn(5, 2, 3, dtype=torch.float64)
    norms = gradient_norms(layout.bind(weights), points)
    for b in range(5):
        alone = gradient_norms(layout.bind(weights), points[b : b + 1])
        torch.testing.assert_close(norms[b : b + 1], alone, rtol=1e-12, atol=0)


def test_only_the_steepest_point_pays_under_max():
    points = torch.tensor([[0.0], [0.5], [3.0]], dtype=torch.float64)  # f = x^2 has slopes 0, 1 and 6

    def paid(reduction):
        penalty = gradient_penalty(center=0.0, reduction=reduction).penalty
        return penalty(lambda x: x.square().sum(dim=1), points, torch.tensor(2.0).double()).item()

    assert paid("max") == pytest.approx(72.0)
    assert paid("mean") == pytest.approx(2 * (0 + 1 + 36) / 3)


@every_penalty
def test_the_critics_last_bias_gets_no_gradient_and_every_other_weight_does(penalty):
    layout, weights = critic(3)
    gradient = grad(price(penalty, layout, points_of(3)))(weights)
    *others, last_bias = layout.split(gradient).values()
    assert last_bias.item() == 0.0
    assert all((part != 0).all() for part in others)


@every_penalty
def test_a_flat_critic_has_no_nan_in_its_weight_gradient(penalty):
    layout, weights = critic(3)
    parts = layout.split(weights.clone())
    list(parts.values())[-2].zero_()  # the output weights: the critic's gradient is zero everywhere
    flat = layout.join(parts)
    points = points_of(3)
    assert (gradient_norms(lambda x: layout.bind(flat)(x).squeeze(-1), points) == 0).all()
    priced = price(penalty, layout, points)
    assert grad(priced)(flat).isfinite().all()
    assert vmap(grad(priced))(flat[None]).isfinite().all()


def test_the_square_root_of_a_sum_of_squares_would_have_nan_where_the_norm_has_none():
    def naive(x):
        return x.square().sum().sqrt()

    assert grad(naive)(torch.zeros(2)).isnan().all()
    assert grad(lambda x: torch.linalg.vector_norm(x))(torch.zeros(2)).isfinite().all()


@pytest.mark.parametrize("one_sided", [False, True])
def test_below_its_center_a_one_sided_penalty_is_free(one_sided):
    penalty = gradient_penalty(center=1.0, one_sided=one_sided).penalty
    paid = penalty(lambda x: 0.3 * x.sum(dim=1), torch.randn(4, 2), torch.tensor(10.0))
    assert (paid.item() == 0.0) == one_sided

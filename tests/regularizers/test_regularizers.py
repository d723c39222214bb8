"""What every regularizer of conf/ promises by itself, on gradients of any kind; found by their YAML."""

import math

import pytest
import torch
from gradients import LAYOUT, SCALES, SEEDS, P, follow, gradient_of, series
from hypothesis import given, settings
from small import CONFIGS, FAMILIES, REGULARIZERS
from torch.func import vmap

from gradbench.config.compose import resolve
from gradbench.errors import UsageError
from gradbench.regularizers import Regularizer
from gradbench.regularizers.agc import agc
from gradbench.regularizers.autoclip import autoclip
from gradbench.regularizers.clip_norm import clip_norm
from gradbench.regularizers.gradient_penalty import gradient_penalty
from gradbench.regularizers.spectral_norm import spectral_norm
from gradbench.regularizers.zclip import zclip
from gradbench.training.program import build_regularizer

every_clipping = pytest.mark.parametrize("config", FAMILIES["clipping"], indirect=True)


def composed(name):
    return resolve(CONFIGS.compose((f"regularizer={name}",))[0])


@pytest.fixture(scope="module")
def config(request):
    """The config of a regularizer by its name."""
    return composed(request.param)


def made(config):
    node = config["regularizer"]
    return build_regularizer(config), node[node["strength"]]


@every_clipping
def test_a_zero_gradient_stays_zero(config):
    regularizer, strength = made(config)
    used, _ = follow(regularizer, [torch.zeros(P, dtype=torch.float64)] * 30, strength)
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in used)


@every_clipping
@given(seed=SEEDS, scale=SCALES)
@settings(max_examples=10, deadline=None)
def test_no_clipping_raises_a_coordinate_or_turns_its_sign(config, seed, scale):
    regularizer, strength = made(config)
    gradients = [gradient * scale for gradient in series(40, seed)]
    for gradient, used in zip(gradients, follow(regularizer, gradients, strength)[0], strict=True):
        assert (used.abs() <= gradient.abs() * (1 + 1e-12)).all()
        assert (used * gradient >= 0).all()


@every_clipping
def test_every_clipping_acts_at_its_default_strength_on_gradients_that_explode(config):
    regularizer, strength = made(config)
    gradients = [*series(40, spikes=False), gradient_of(99, 1e6)]
    used, _ = follow(regularizer, gradients, strength)
    first = slice(LAYOUT.sizes[0])  # AGC leaves the output layer alone
    assert used[-1][first].norm() < gradients[-1][first].norm() / 2


NEUTRAL = {"threshold": math.inf, "z": math.inf, "percentile": 100.0}


@every_clipping
def test_a_neutral_strength_keeps_every_bit(config):
    regularizer, _ = made(config)
    neutral = NEUTRAL[config["regularizer"]["strength"]]
    gradients = [torch.zeros(P, dtype=torch.float64), *series(60)]
    used, _ = follow(regularizer, gradients, neutral)
    assert all(torch.equal(one, other) for one, other in zip(used, gradients, strict=True))


@every_clipping
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_stack_of_cells_equals_each_cell_alone_and_reads_no_value(config, device):
    """On ``meta`` reading a value raises; only shapes can be compared there."""
    regularizer, strength = made(config)
    strengths = torch.tensor([strength, strength / 2, strength / 4], dtype=torch.float64, device=device)
    parameters = torch.stack([gradient_of(seed, 0.1) for seed in range(3)]).to(device)
    solo = [series(40, 50 * k) for k in range(3)]
    gradients = [torch.stack(cells).to(device) for cells in zip(*solo, strict=True)]
    state = vmap(lambda p: regularizer.init(p, LAYOUT))(parameters)
    stacked = vmap(lambda *arguments: regularizer.transform(*arguments, LAYOUT))
    for gradient in gradients:
        used, state = stacked(gradient, strengths, state, parameters)
    assert used.shape == (3, P)
    for k in range(3 if device == "cpu" else 0):
        alone, _ = follow(regularizer, solo[k], strengths[k].item(), parameters[k])
        torch.testing.assert_close(used[k], alone[-1], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: clip_norm(norm_type=0), "norm_type"),
        (lambda: agc(eps=0), "eps"),
        (lambda: autoclip(window=0), "window"),
        (lambda: zclip(alpha=1), "alpha"),
        (lambda: zclip(warmup=0), "warmup"),
        (lambda: spectral_norm(iterations=0), "iterations"),
        (lambda: gradient_penalty(reduction="median"), "reduction"),
        (lambda: gradient_penalty(every=0), "every"),
        (lambda: gradient_penalty(every=1.5), "every"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(make, named):
    with pytest.raises(UsageError, match=f"regularizer.{named} must be"):
        make()


def test_a_transform_that_asks_for_what_there_is_not_is_refused_by_name():
    def transform(gradient, strength, state, parameters, layout, lr, rate, more=1):
        return gradient, state

    with pytest.raises(UsageError, match=r"transform has the argument rate, .* ask for loss and lr$"):
        Regularizer(transform=transform)


@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_regularizers_yaml_says_what_it_does_and_explains_its_keys(name):
    node, lines = composed(name)["regularizer"], CONFIGS.path("regularizer", name).read_text().splitlines()
    assert lines[0].startswith("# ")
    own = {line.split(":")[0] for line in lines if not line.startswith("#")}
    told = {line.split(":")[0] for line in lines if "  # " in line}
    assert own - told <= {"defaults", "name", "family", "strength", "_target_"}
    assert node["name"] == name
    assert node["family"] in ("none", "clipping", "penalty", "projection")
    assert node["strength"] is None or node["strength"] in node


@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_regularizer_has_the_hook_of_its_family_and_no_other(name):
    config = composed(name)
    regularizer = build_regularizer(config)
    hooks = {
        "clipping": regularizer.transform,
        "penalty": regularizer.penalty,
        "projection": regularizer.project,
    }
    present = {family for family, hook in hooks.items() if hook is not None}
    assert present == {config["regularizer"]["family"]} - {"none"}

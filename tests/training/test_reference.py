"""The oracle: one cell in ordinary PyTorch, to which every model x regularizer and every optimizer is held.

Models, regularizers and optimizers are discovered from conf/: a new YAML is tested at once. K cells.
"""

from collections import deque
from dataclasses import replace
from functools import cache
from itertools import groupby

import numpy as np
import pytest
import torch
from small import (
    ALL_PAIRS,
    ASKING_PAIRS,
    COMPOSED_PAIRS,
    CPU,
    MODELS,
    PLACED_PAIRS,
    QUICK_UPDATES,
    UPDATES,
    advance,
    cells,
    composed_pairs,
    data_of,
    default_strengths,
    each_model,
    each_update,
    in_suites,
    pairs_of_families,
    some_pairs,
)
from torch import nn

from gradbench.errors import UsageError
from gradbench.functional.flat_params import flatten
from gradbench.functional.noise import CounterNoise
from gradbench.models.mlp import Classifier
from gradbench.tracing import cache as trace_cache
from gradbench.training.bind import init_state, noise_keys
from gradbench.training.draws import CHUNK, draw_chunk
from gradbench.training.interaction import interact_one
from gradbench.training.loop import train
from gradbench.training.program import build
from gradbench.training.reference import as_tensor, train_one
from gradbench.training.reference_optimizers import make_optimizer, make_scheduler
from gradbench.training.setup import build_stack
from gradbench.training.telemetry import Telemetry, series_of

# rounding grows where training is chaotic: a calm learning rate
CALM = {"optimizer__lr": [0.01, 0.02]}
CALMER = {model: {"optimizer__lr": [0.001, 0.002]} for model in ("a2c", "image_gan")}
"""Model -> a learning rate of its own, where first steps are as large as it, or two networks make rounding grow."""

SOONER = {
    "zclip": {"regularizer__warmup": 5, "regularizer__alpha": 0.8},
    "gp_lp": {"regularizer__center": 0.01},
    "gp+gp_lp+zclip": {"regularizer__zclip__warmup": 5, "regularizer__gp_lp__center": 0.01},
}
"""Options with which a regularizer acts on a small network within a few steps."""

STEPS = 12
"""As many steps are followed, where nothing asks for more."""

PENALTY_OF = {
    "mlp": "mlp/penalty",
    "lstm": "lstm/penalty",
    "wgan": "critic/penalty",
    "image_gan": "critic/penalty",
    "cnn": "cnn/penalty",
    "resnet": "resnet/penalty",
    "autoencoder": "autoencoder/penalty",
} | dict.fromkeys(("actor_critic", "a2c"), "agent/penalty")
"""Model -> its series of penalties; of the others it is the network's."""

RELATIVE, ABSOLUTE = 1e-11, 1e-12
"""How far float64 may differ: the order of sums, and nothing else."""


@cache
def strengths(regularizer):
    """Return a regularizer's default strengths and a third of them, as axes."""
    return {key: [value, value / 3] for key, value in default_strengths(regularizer).items()}


def pair(model, regularizer, **values):
    """Return two cells of one stack, of different seeds, strengths and learning rates."""
    given = {"steps": STEPS, "eval_every": STEPS} | CALMER.get(model, CALM) | strengths(regularizer)
    given |= SOONER.get(regularizer, {}) | values
    grid = cells(model, regularizer, seed=[0, 3], **given)
    return [grid[0], grid[-1]]


def stacked(stack):
    """Train a stack; return per cell, step by step, series [steps] and every player's parameters [steps, P]."""
    setup = build_stack(stack, data_of(stack[0]), CPU)
    state, telemetry, parameters = init_state(setup), Telemetry(setup), []
    for step in range(setup.steps):
        if step % CHUNK == 0:
            draws = draw_chunk(setup, step)
        advance(setup, state, draws, telemetry)
        parameters.append({name: vectors.clone() for name, vectors in state.parameters.items()})
    recorded = telemetry.recorded()
    found = {name: torch.stack([of_step[name] for of_step in parameters]) for name in parameters[0]} | {
        f"{player.name}/{name.removeprefix(player.name + '/')}": recorded[player.name][:, index]
        for player in setup.players
        for index, name in enumerate(series_of(player))
    }
    return [{name: values[:, k].numpy() for name, values in found.items()} for k in range(len(stack))]


def alone(cell):
    """Train the reference; return what :func:`stacked` does of a cell. Series are means over a step's updates."""
    found = {}
    for _, updates in groupby(train_one(cell, data_of(cell)), key=lambda update: update.step):
        series, of_step = {}, {}
        for update in updates:
            for name, value in update.series.items():
                series.setdefault(f"{update.player}/{name}", []).append(value)
            of_step = {name: flatten(network).numpy() for name, network in update.networks.items()}
        for name, value in (of_step | {name: np.mean(values) for name, values in series.items()}).items():
            found.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in found.items()}


@cache
def untreated(model):
    """Return what :func:`alone` does of the second cell of a pair, without a regularizer."""
    return alone(pair(model, "none")[1])


def assert_follows(stack):
    """Hold every cell of a stack to the reference, step by step; return the last one's."""
    for cell, ours in zip(stack, stacked(stack), strict=True):
        reference = alone(cell)
        for name, values in ours.items():
            measured = np.isfinite(values)  # what may bend a gradient is compared with it at some steps
            assert measured[0].all()
            assert measured[-1].all()
            np.testing.assert_allclose(
                values[measured], reference[name][measured], RELATIVE, ABSOLUTE, err_msg=name
            )
    return reference


@in_suites(
    "model, regularizer",
    quick=some_pairs(0) + composed_pairs(0)[:2] + ASKING_PAIRS[1:2],
    slow=pairs_of_families(0) + composed_pairs(0) + composed_pairs(1) + ASKING_PAIRS,
    all_of_them=ALL_PAIRS + COMPOSED_PAIRS,
)
def test_every_cell_of_a_stack_follows_the_reference_step_by_step(model, regularizer):
    treated, plain = assert_follows(pair(model, regularizer)), untreated(model)
    acts = any(not np.array_equal(treated[player], plain[player]) for player in plain if "/" not in player)
    assert acts == (regularizer != "none"), "else nothing of it is held to anything"


@pytest.mark.parametrize(
    ("model", "regularizer", "given"),
    [
        ("mlp", "gp", {"regularizer__every": 3}),
        pytest.param("lstm", "gp", {"regularizer__every": 4, "accumulate": 2}, marks=pytest.mark.slow),
        (
            "wgan",
            "gp+gp_zero+clip_norm",
            {
                "regularizer__gp__every": 6,
                "regularizer__gp_zero__every": 4,
                "regularizer__gp_zero__points": "real",
            },
        ),
    ],
)
def test_a_lazy_penalty_follows_the_reference_is_added_at_its_steps_and_weighs_as_many_times_more(
    model, regularizer, given
):
    lazy = assert_follows(pair(model, regularizer, **given))[PENALTY_OF[model]]
    every = [value for key, value in given.items() if key.endswith("every")]
    assert [bool(paid) for paid in lazy] == [any(step % one == 0 for one in every) for step in range(STEPS)]
    if len(every) == 1:
        eager = alone(pair(model, regularizer, **(given | {"regularizer__every": 1}))[1])
        assert lazy[0] == pytest.approx(every[0] * eager[PENALTY_OF[model]][0], rel=1e-12)


@pytest.mark.parametrize("regularizer", ["bounded_update", "skip_spikes"])
def test_a_transform_is_given_the_mean_loss_of_an_update_and_the_rate_of_its_step(regularizer):
    given = {"schedule": "cosine", "accumulate": 2, "optimizer": "adam", "optimizer__lr": [0.01, 0.003]}
    treated = assert_follows(pair("mlp", regularizer, **given))
    assert not np.array_equal(treated["mlp"], alone(pair("mlp", "none", **given)[1])["mlp"])
    used = treated["mlp/lr"] * treated["mlp/grad_norm_used"]
    if regularizer == "bounded_update":
        assert used.max() <= 0.001 / 3 * (1 + 1e-9)
        assert np.ptp(treated["mlp/grad_norm_used"][1:]) > 0, "the bound is on the update"
    else:
        assert {0.0, 1.0} == set(treated["mlp/clipped"])


@cache
def at_default_points(model):
    """Return what :func:`alone` does of the second cell of a pair with a penalty where the model has it measured."""
    return alone(pair(model, "gp")[1])


@pytest.mark.parametrize(
    ("model", "regularizer"),
    [
        pytest.param(*pair, marks=[] if pair[0] in ("mlp", "wgan") else pytest.mark.slow)
        for pair in PLACED_PAIRS
    ],
)
def test_a_penalty_at_any_points_follows_the_reference_and_is_measured_there(model, regularizer):
    placed, default = assert_follows(pair(model, regularizer)), at_default_points(model)
    series = PENALTY_OF.get(model, "network/penalty")
    is_default = regularizer.partition("@")[2] in ("inputs", "embeddings", "between", "states")
    assert np.array_equal(placed[series], default[series]) == is_default


@pytest.mark.parametrize(
    ("model", "regularizer", "given"),
    [
        (
            "wgan",
            "gp+gp_zero+clip_norm",
            {"regularizer__gp__points": "real", "regularizer__gp_zero__points": "around"},
        ),
        pytest.param(
            "wgan",
            "gp_lp+gp_zero",
            {
                "regularizer__gp_lp__points": "around",
                "regularizer__gp_zero__points": "around",
                "accumulate": 2,
            },
            marks=pytest.mark.slow,
        ),
        ("mlp", "gp+gp_max", {"regularizer__gp_max__points": "around", "accumulate": 2}),
        ("lstm", "gp+gp_max", {"regularizer__gp__points": "around"}),
    ],
)
def test_penalties_at_several_points_follow_the_reference_together(model, regularizer, given):
    both = assert_follows(pair(model, regularizer, **given))
    one = alone(pair(model, regularizer.partition("+")[0], **{"accumulate": given.get("accumulate", 1)})[1])
    assert (both[PENALTY_OF[model]] != one[PENALTY_OF[model]]).all()


@pytest.mark.parametrize(
    ("regularizer", "given"),
    [
        ("clip_norm", {"regularizer__players": "both"}),
        (
            "gp+zclip+weight_clip",
            {
                "regularizer__zclip__players": "generator",
                "regularizer__zclip__warmup": 3,
                "regularizer__weight_clip__players": "both",
            },
        ),
    ],
)
def test_what_acts_on_the_generator_follows_the_reference_step_by_step(regularizer, given):
    everywhere = assert_follows(pair("wgan", regularizer, **given))
    critic = {key: value for key, value in given.items() if not key.endswith("players")}
    alone_on_critic = alone(pair("wgan", regularizer, **critic)[1])
    assert not np.array_equal(everywhere["generator"], alone_on_critic["generator"])


def test_a_generator_alone_is_clipped_and_the_critic_begins_as_without(monkeypatch):
    chosen = {"regularizer__players": "generator", "regularizer__threshold": [0.01, 0.001]}
    treated, plain = assert_follows(pair("wgan", "clip_norm", **chosen)), untreated("wgan")
    # the critic's first updates come before the generator's
    np.testing.assert_array_equal(treated["critic"][0], plain["critic"][0])
    assert not np.array_equal(treated["generator"][0], plain["generator"][0])
    assert set(treated["critic/clipped"]) == {0.0}


def convolutional(_model, fused=False):
    """Return a network that torch's convolutions, normalisations and pooling make."""
    first = (nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU())
    return {
        "mlp": nn.Sequential(
            *first, nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(16, 10)
        )
    }


@pytest.mark.parametrize("regularizer", ["none", "clip_norm", "agc", "gp", "spectral_norm"])
def test_a_convolutional_network_follows_the_reference_step_by_step(regularizer, monkeypatch):
    monkeypatch.setattr(Classifier, "networks", convolutional)
    monkeypatch.setattr(trace_cache, "TRACE_CACHE", {})
    assert_follows(pair("mlp", regularizer))


@each_model(2)
def test_a_stack_follows_the_reference_into_its_second_chunk_of_random_numbers(model):
    # at these rates no network is so lively that rounding grows a thousandfold in as many steps
    rates = {"optimizer__lr": [0.01, 0.003]}
    assert_follows(pair(model, "clip_norm", steps=CHUNK + 3, eval_every=CHUNK + 3, **rates))


@each_update(*(("mlp", name) for name in UPDATES), *(("wgan", name) for name in QUICK_UPDATES))
def test_every_optimizer_and_schedule_of_conf_follows_torchs_or_what_is_written_out(update, model):
    assert_follows(pair(model, "clip_norm", **{"optimizer__lr": [0.01, 0.003]} | UPDATES[update]))


EACH_FAMILY = ("none", "gp", "zclip", "weight_clip")


@in_suites(
    "model, regularizer",
    quick=(),
    slow=[(model, EACH_FAMILY[index % len(EACH_FAMILY)]) for index, model in enumerate(MODELS)],
    all_of_them=[(model, regularizer) for model in MODELS for regularizer in EACH_FAMILY],
)
def test_updates_of_several_batches_follow_the_reference(model, regularizer):
    assert_follows(pair(model, regularizer, accumulate=3))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop", "lion", "muon"])
def test_weight_decay_of_either_kind_follows_the_reference(optimizer):
    given = {"optimizer": optimizer, "optimizer__weight_decay": 0.1, "steps": 5, "eval_every": 5}
    assert_follows(pair("mlp", "none", **given, optimizer__decoupled=[False]))
    assert_follows(pair("mlp", "none", **given, optimizer__decoupled=[True]))


@pytest.mark.parametrize("decoupled", [False, True])
def test_weight_decay_of_matrices_alone_follows_the_reference(decoupled):
    given = {"optimizer__weight_decay": 0.5, "optimizer__decoupled": decoupled, "steps": 5, "eval_every": 5}
    assert_follows(pair("mlp", "none", optimizer="adam", optimizer__decay_vectors=[False], **given))


def test_sgd_follows_torchs_with_all_its_options():
    options = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}
    assert_follows(pair("mlp", "clip_norm", **{f"optimizer__{key}": value for key, value in options.items()}))


@each_model(0)
def test_final_metrics_are_what_the_model_measures_of_plain_modules(model):
    stack = pair(model, "clip_norm")
    data = data_of(stack[0])
    outcome = train(stack, data, CPU)
    for k, cell in enumerate(stack):
        last = deque(train_one(cell, data), maxlen=1).pop()
        program = build(cell.config, data)
        examples = {name: as_tensor(array, program.dtype) for name, array in data.arrays.items()}
        drawn = program.model.draw("evaluation", cell.seed, 0, 1, data.arrays)
        draw = {name: as_tensor(numbers[0], program.dtype) for name, numbers in drawn.items()}
        if program.model.interacts:
            first = {
                name: as_tensor(one, program.dtype) for name, one in program.model.evaluation_carry().items()
            }
            examples |= last.carry | interact_one(program.model, last.networks, first, draw)[0]
        with torch.no_grad(), CounterNoise(noise_keys([cell], "evaluation", CPU)[0]):
            networks = {name: net.eval() for name, net in last.networks.items()}
            found = program.model.evaluate(networks, examples, draw)
        arrays = {name: tensor.numpy() for name, tensor in found.items() if tensor.dim()}
        metrics = {name: float(tensor) for name, tensor in found.items() if not tensor.dim()}
        metrics |= program.model.summarize(arrays, data.arrays)[0]
        ours = {name: values[k] for name, values in outcome.evaluations[STEPS].items()}
        assert ours == pytest.approx(metrics, rel=RELATIVE, abs=ABSOLUTE)


def test_an_optimizer_that_torch_does_not_have_is_refused_by_name():
    (cell,) = cells("mlp", "none")
    foreign = replace(
        cell, config=cell.config | {"optimizer": {"name": "mine", "_target_": "mine.make", "lr": 1.0}}
    )
    with pytest.raises(UsageError, match=r"mine\.make.*gradbench\.optimizers\.sgd"):
        make_optimizer(foreign, torch.nn.Linear(2, 1))


def test_a_schedule_that_the_reference_does_not_have_is_refused_by_name():
    (cell,) = cells("mlp", "none")
    foreign = replace(cell, config=cell.config | {"schedule": {"name": "mine", "_target_": "mine.cosine"}})
    with pytest.raises(UsageError, match=r"mine\.cosine.*warmup"):
        make_scheduler(foreign, make_optimizer(cell, torch.nn.Linear(2, 1)))

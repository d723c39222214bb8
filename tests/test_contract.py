"""What every model x regularizer, optimizer and schedule promises. All are discovered from conf/: a new YAML is tested.
Networks and tasks of other people's keep the same promises.

Each property has a turn of its own, with other pairs: small.py chooses those of the default and of the slow suite.
"""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from small import (
    ALL_PAIRS,
    ASKING_PAIRS,
    COMPOSED_PAIRS,
    COMPOSITIONS,
    CPU,
    DEAR,
    FAMILIES,
    FEW,
    INEXACT,
    LARGE,
    MODELS,
    NETWORKS,
    OTHER_PAIRS,
    OTHERS,
    PLACED_PAIRS,
    QUICK_UPDATES,
    REGULARIZERS,
    UPDATES,
    advance,
    cells,
    data_of,
    default_strengths,
    each_model,
    each_pair,
    each_update,
    keys_of,
)

from gradbench.grid.stacks import group_by_program, split_into_stacks
from gradbench.training.bind import init_state
from gradbench.training.draws import draw_chunk
from gradbench.training.loop import train
from gradbench.training.program import build
from gradbench.training.setup import build_stack
from gradbench.training.telemetry import Telemetry, series_of


def march(stack, steps, device=CPU, alter=lambda state: None):
    """Train some steps, no more than the stack has; return per cell its parameters and series, as named arrays."""
    setup = build_stack(stack, data_of(stack[0]), device)
    state, telemetry = init_state(setup), Telemetry(setup)
    alter(state)
    draws = draw_chunk(setup, 0)
    for _ in range(min(steps, setup.steps)):
        advance(setup, state, draws, telemetry)
    series = state.parameters | {
        name: values.select(1, index).movedim(-1, 0)
        for player in setup.players
        for index, name in enumerate(series_of(player))
        for values in [telemetry.recorded()[player.name]]
    }
    return {
        cell.id: {name: tensor[k].double().numpy() for name, tensor in series.items()}
        for k, cell in enumerate(stack)
    }


def strengths(regularizer):
    """Return a regularizer's default strengths and half of them, as axes."""
    return {key: [value, value / 2] for key, value in default_strengths(regularizer).items()}


def assert_close(one, other, tolerance):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=tolerance, atol=tolerance, err_msg=name)


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


# a calm learning rate: where training is chaotic, rounding errors grow whatever the stack
CALM = {"optimizer__lr": 0.01}


@each_pair(0)
def test_a_cell_does_not_depend_on_the_cells_in_its_stack(model, regularizer):
    stack = cells(model, regularizer, seed=[0, 3], **CALM, **strengths(regularizer))
    together = march(stack, 10)
    alone = march([stack[-1]], 10)
    assert_close(alone[stack[-1].id], together[stack[-1].id], 1e-12)


@each_model(0, OTHERS)
def test_a_cell_does_not_depend_on_other_regularizers_in_its_stack(model):
    grid = cells(
        model,
        "none,clip_norm,clip_value,weight_clip",
        regularizer__threshold=[0.01, 0.1],
        seed=[0, 1],
        **CALM,
    )
    (members,) = group_by_program(grid)
    (stack,) = split_into_stacks(members, 1)
    together = march(stack.cells, 8)
    for cell in stack.cells[::4]:
        assert_close(march([cell], 8)[cell.id], together[cell.id], 1e-12)


@each_model(1, OTHERS)
def test_final_metrics_and_curves_do_not_depend_on_the_stack(model):
    stack = cells(model, "none", seed=[0, 1], **CALM)
    together = train(stack, data_of(stack[0]), CPU)
    alone = train(stack[1:], data_of(stack[0]), CPU)
    for name, values in together.evaluations[stack[0].config["steps"]].items():
        np.testing.assert_allclose(
            values[1], alone.evaluations[stack[0].config["steps"]][name][0], rtol=1e-9, err_msg=name
        )
    for name, curve in together.curves.items():
        np.testing.assert_allclose(curve[:, 1], alone.curves[name][:, 0], rtol=1e-9, atol=1e-12, err_msg=name)


WIDTHS = (1, 3, 8)


def shuffled(cells, width):
    """Return some of the cells, from another place and in another order for each width."""
    return [cells[(3 * index + 5 * width) % len(cells)] for index in range(width)][::-1]


@pytest.mark.parametrize("precision", ["float32", pytest.param("float64", marks=pytest.mark.exhaustive)])
@each_pair(2)
def test_a_cell_has_the_bits_that_its_model_promises_in_a_stack_of_any_width(model, regularizer, precision):
    grid = cells(
        model,
        regularizer,
        seed=list(range(8 if model in OTHERS else 17)),
        precision=precision,
        steps=3,
        eval_every=3,
        **odd_sizes(model),
    )
    tolerance = build(grid[0].config, data_of(grid[0])).model.width_tolerance
    numbers = partial(march, steps=1) if tolerance else numbers_of
    whole = numbers(grid)
    for width in WIDTHS:
        for cell, found in numbers(shuffled(grid, width)).items():
            if tolerance:
                assert_close(found, whole[cell], tolerance)
            else:
                assert_same_bits(found, whole[cell])


@pytest.mark.parametrize("model", ["mlp", "wgan"])
def test_a_cell_with_a_lazy_penalty_has_the_same_bits_in_a_stack_of_any_width(model):
    sizes = {"precision": "float32", "steps": 3, "eval_every": 3, "regularizer__every": 2} | odd_sizes(model)
    grid = cells(model, "gp", seed=list(range(8)), **sizes)
    whole = numbers_of(grid)
    for width in WIDTHS:
        for cell, found in numbers_of(shuffled(grid, width)).items():
            assert_same_bits(found, whole[cell])


def test_the_models_of_gradbench_promise_the_same_bits():
    for model in MODELS:
        if model in NETWORKS:  # a network of the user's own
            continue
        (cell,) = cells(model, "none")
        context = build_stack([cell], data_of(cell), CPU)
        assert context.is_exact == (model not in INEXACT)
        own = replace(cell, sources={"regularizer": "0" * 16})
        assert not replace(context, cells=[own]).is_exact, "own code is not known to keep them"


def odd_sizes(model):
    """Return sizes at which no cell's part of a tensor fills vectors, large enough for MKL to take the products."""
    sizes = {"model__batch_size": 9}
    if model in ("actor_critic", "a2c"):
        sizes = {"model__environments": 3, "model__interactions": 6}
    if model in OTHERS or "model.hidden" not in keys_of(f"model={model}"):
        return sizes
    odd = {"model.hidden": 23, "model.width": 21, "model.heads": 3}
    sizes |= {key.replace(".", "__"): size for key, size in odd.items() if key in keys_of(f"model={model}")}
    if model == "wgan":
        return sizes | {"model__noise": 3, "model__critic_steps": 5}
    return sizes | ({"data": "wine"} if model == "mlp" else {})


def numbers_of(stack):
    """Train a stack to its end; return per cell all that is stored of it, as named arrays."""
    outcome = train(stack, data_of(stack[0]), CPU)
    series = outcome.curves | {name: values[None] for name, values in outcome.evaluations[3].items()}
    return {
        cell.id: outcome.arrays[k] | {name: values[:, k] for name, values in series.items()}
        for k, cell in enumerate(stack)
    }


@each_pair(1)
def test_permuting_the_cells_permutes_the_results(model, regularizer):
    stack = cells(model, regularizer, seed=[0, 1], **strengths(regularizer))
    there, back = march(stack, 4), march(stack[::-1], 4)
    for cell in stack:
        assert_close(there[cell.id], back[cell.id], 1e-12)


@each_pair(2)
def test_a_cell_that_goes_nan_leaves_the_bits_of_all_others_unchanged(model, regularizer):
    stack = cells(model, regularizer, seed=[0, 1, 2], precision="float32")

    def poison(state):
        for vectors in state.parameters.values():
            vectors[1, ::7] = math.nan

    healthy, poisoned = march(stack, 4), march(stack, 4, alter=poison)
    assert not np.isfinite(poisoned[stack[1].id]["loss"]).any(), "the poison must work"
    for victim in (stack[0], stack[2]):
        assert_same_bits(poisoned[victim.id], healthy[victim.id])


@each_pair(3)
def test_a_rerun_has_the_same_bits(model, regularizer):
    stack = cells(model, regularizer, seed=[0, 1], precision="float32")
    first, second = march(stack, 4), march(stack, 4)
    for cell in stack:
        assert_same_bits(first[cell.id], second[cell.id])


NEUTRAL = {"threshold": math.inf, "z": math.inf, "percentile": 100.0, "lambda": 0.0}
"""Strength -> the value at which a regularizer does nothing."""


@each_pair(4)
def test_a_neutral_strength_follows_none_step_for_step(model, regularizer):
    neutral = {key: NEUTRAL[key.rpartition(".")[2]] for key in default_strengths(regularizer)}
    (treated,) = cells(model, regularizer, **CALM, **neutral)
    (none,) = cells(model, "none", **CALM)
    treated, plain = march([treated], 10)[treated.id], march([none], 10)[none.id]
    # a penalty is measured even where it weighs nothing
    assert treated.pop("penalty").max() == plain.pop("penalty").max() == 0.0
    for name in DEAR:  # of a bent gradient, measured at some steps
        measured = np.isfinite(treated[name])
        assert measured.any()
        treated[name], plain[name] = treated[name][measured], plain[name][measured]
    assert_close(treated, plain, 1e-12)


@each_pair(7)
def test_cells_that_differ_in_the_regularizer_alone_see_the_same_weights_and_batches(model, regularizer):
    stacks = [cells(model, one, seed=[4, 1]) for one in ("none", regularizer)]
    setups = [build_stack(stack, data_of(stack[0]), CPU) for stack in stacks]
    weights, other_weights = (init_state(setup).parameters for setup in setups)
    draws, other_draws = (draw_chunk(setup, 50) for setup in setups)
    for player, vectors in weights.items():
        assert torch.equal(vectors, other_weights[player])
        assert not torch.equal(vectors[0], vectors[1]), "different seeds must differ"
        for name, tensor in draws[player].items():
            assert torch.equal(tensor, other_draws[player][name])


@each_pair(5)
def test_one_whole_step_runs_on_the_meta_device(model, regularizer):
    """On ``meta`` reading a value raises, and so does mixing in a tensor of the CPU: so the step does neither."""
    stack = cells(model, regularizer, seed=[0, 1], precision="float32")
    setup = build_stack(stack, data_of(stack[0]), torch.device("meta"))
    state, telemetry = init_state(setup), Telemetry(setup)
    advance(setup, state, draw_chunk(setup, 0), telemetry)
    assert state.step == 1
    for tensor in (*state.parameters.values(), *telemetry.recorded().values(), state.active):
        assert tensor.device.type == "meta"


def test_the_meta_device_catches_a_step_that_reads_a_value_or_mixes_devices():
    tensor = torch.ones(2, device="meta")
    with pytest.raises((RuntimeError, NotImplementedError)):
        tensor.sum().item()
    with pytest.raises((RuntimeError, NotImplementedError)):
        _ = tensor + torch.ones(2)


@each_pair(6)
def test_bfloat16_follows_float32_with_parameters_and_norms_kept_in_float32(model, regularizer):
    low, high = (
        cells(model, regularizer, precision=precision, **CALM) for precision in ("bfloat16", "float32")
    )
    setup = build_stack(low, data_of(low[0]), CPU)
    state = init_state(setup)
    assert all(vectors.dtype == torch.float32 for vectors in state.parameters.values())
    telemetry = Telemetry(setup)
    advance(setup, state, draw_chunk(setup, 0), telemetry)
    assert all(values.dtype == torch.float32 for values in telemetry.recorded().values())
    rough, fine = march(low, 3)[low[0].id], march(high, 3)[high[0].id]
    np.testing.assert_allclose(rough["loss"], fine["loss"], rtol=0.05, atol=0.05)
    assert (rough["loss"] != fine["loss"]).any(), "autocast must have acted"


every_update = each_update(*(("mlp", name) for name in QUICK_UPDATES))


@every_update
def test_a_cell_has_the_same_bits_in_a_stack_of_any_width_and_order_whatever_its_updates(model, update):
    sizes = {"precision": "float32", "steps": 3, "eval_every": 3, **odd_sizes(model)}
    given = {key: 3 if key == "schedule__steps" else value for key, value in UPDATES[update].items()}
    grid = cells(model, "none,clip_norm", seed=list(range(6)), **sizes, **given)[:17]
    tolerance = build(grid[0].config, data_of(grid[0])).model.width_tolerance
    if tolerance:
        return assert_alone_is_as_together(grid, tolerance)
    whole = numbers_of(grid)
    for width in WIDTHS:
        for cell, found in numbers_of(shuffled(grid, width)).items():
            assert_same_bits(found, whole[cell])
    return None


def assert_alone_is_as_together(grid, tolerance):
    together = march(grid, 1)
    for cell in grid[::5]:
        assert_close(march([cell], 1)[cell.id], together[cell.id], tolerance)


@every_update
def test_a_cell_that_goes_nan_leaves_the_bits_of_all_others_unchanged_whatever_its_updates(model, update):
    stack = cells(model, "clip_norm", seed=[0, 1, 2], precision="float32", **UPDATES[update])[:3]

    def poison(state):
        for vectors in state.parameters.values():
            vectors[1, ::7] = math.nan

    healthy, poisoned = march(stack, 3), march(stack, 3, alter=poison)
    assert not np.isfinite(poisoned[stack[1].id]["loss"]).any(), "the poison must work"
    for victim in (stack[0], stack[2]):
        assert_same_bits(poisoned[victim.id], healthy[victim.id])


@every_update
def test_one_whole_step_runs_on_the_meta_device_whatever_its_updates(model, update):
    stack = cells(model, "clip_norm", seed=[0, 1], precision="float32", **UPDATES[update])
    setup = build_stack(stack, data_of(stack[0]), torch.device("meta"))
    state, telemetry = init_state(setup), Telemetry(setup)
    advance(setup, state, draw_chunk(setup, 0), telemetry)
    assert all(tensor.device.type == "meta" for tensor in state.parameters.values())


def test_all_properties_together_are_tried_with_all_models_and_regularizers_and_each_in_the_slow_suite():
    all_quick, all_slow = set(), set()
    for name, test in globals().items():
        for mark in getattr(test, "pytestmark", ()) if name.startswith("test_") else ():
            if mark.args[0] != "model, regularizer":
                continue
            level = {pair.values: {one.name for one in pair.marks} for pair in mark.args[1]}
            assert level.keys() == {*ALL_PAIRS, *OTHER_PAIRS, *COMPOSED_PAIRS, *PLACED_PAIRS, *ASKING_PAIRS}
            quick = {pair for pair, marks in level.items() if not marks}
            slow = {pair for pair, marks in level.items() if marks <= {"slow"}}
            assert len(quick) <= (len(MODELS) + len(REGULARIZERS)) / FEW + 2, "it may not grow as a product"
            assert {*MODELS} <= {model for model, _ in slow}
            assert {*REGULARIZERS} <= {regularizer for _, regularizer in slow}
            all_quick |= quick
            all_slow |= slow
    for kind in (COMPOSED_PAIRS, PLACED_PAIRS, ASKING_PAIRS):
        assert all_quick & {*kind}
    assert {*PLACED_PAIRS, *ASKING_PAIRS} <= all_slow
    assert {*OTHERS} - {*LARGE} <= {model for model, _ in all_slow}
    assert {*COMPOSITIONS} <= {regularizer for _, regularizer in all_slow}
    assert {*MODELS} == {model for model, _ in all_quick} & {*MODELS}
    assert {*REGULARIZERS} == {regularizer for _, regularizer in all_quick} & {*REGULARIZERS}
    assert with_families(all_slow) >= {(model, family) for model in MODELS for family in FAMILIES}


def with_families(pairs):
    """Return pairs of a model and the family of a regularizer."""
    return {(model, family) for model, one in pairs for family, names in FAMILIES.items() if one in names}

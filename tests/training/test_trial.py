"""Networks of the user's own: a trial of a step decides how they are trained, and they are trained as PyTorch would."""

import numpy as np
import pytest
import torch
from small import CPU, advance, cells, data_of
from stopping import StopError, always, assert_same_outcome, stop_at
from training.test_reference import assert_follows

from gradbench.errors import UsageError
from gradbench.training import trial
from gradbench.training.bind import init_state
from gradbench.training.draws import draw_chunk
from gradbench.training.execution import choose_execution
from gradbench.training.loop import train
from gradbench.training.program import build
from gradbench.training.setup import build_stack
from gradbench.training.telemetry import Telemetry

STACKED = (
    "Convolutional",
    "Normed",
    "Recurrent",
    "lstm",
    "rnn",
    "Attending",
    "Heads",
    "Frozen",
    "Noisy",
    "Gates",
    "Tied",
)
ONE_BY_ONE = ("SpectralNorm", "Branching", "Heavy")
QUICK = ("Normed", "Branching")


def own(network, regularizer="clip_norm", **values):
    """Return the cells of a classifier with one of the tests' networks."""
    return cells("classifier", regularizer, model__network=f"networks.{network}", **values)


def execution_of(cell, kind="cpu"):
    """Return how a cell's stack is run."""
    program, data = build(cell.config, data_of(cell)), data_of(cell)
    return trial.adapt(choose_execution(program, cell, CPU, kind), program, cell, data)


@pytest.mark.parametrize(
    ("network", "regularizer"),
    [
        pytest.param(network, regularizer, marks=[] if network in QUICK else pytest.mark.slow)
        for network in (*STACKED, *ONE_BY_ONE)
        for regularizer in ("clip_norm", "gp")
    ],
)
def test_every_network_follows_the_reference_step_by_step(network, regularizer):
    strength = {"regularizer__lambda": 0.1} if regularizer == "gp" else {}
    assert_follows(
        own(network, regularizer, seed=[0, 3], steps=6, eval_every=6, optimizer__lr=0.02, **strength)
    )


@pytest.mark.parametrize("network", ["Normed", "Frozen", "SpectralNorm", "Branching"])
def test_a_stopped_stack_goes_on_to_the_same_bits_buffers_included(network, tmp_path):
    stack = own(network, seed=[0, 1], steps=24, eval_every=6, precision="float32", optimizer="adam")
    data, path = data_of(stack[0]), tmp_path / "stack.pt"
    whole = train(stack, data, CPU)
    with pytest.raises(StopError):
        train(stack, data, CPU, stop_at(12), always(path))
    assert_same_outcome(train(stack, data, CPU, checkpoint=always(path)), whole)


@pytest.mark.parametrize("network", ["Normed", "Noisy", "Attending"])
def test_noise_inside_modules_does_not_depend_on_the_stack(network):
    stack = own(network, "clip_norm,none", seed=[0, 1], steps=4, eval_every=4)
    together, data = train(stack, data_of(stack[0]), CPU), data_of(stack[0])
    alone = [train([cell], data, CPU) for cell in stack]
    for name, values in together.curves.items():
        np.testing.assert_allclose(
            values, np.concatenate([one.curves[name] for one in alone], axis=1), rtol=1e-9, atol=1e-12
        )


def test_cells_that_differ_in_the_regularizer_alone_have_the_same_masks():
    stack = [
        *own("Normed", "none", seed=[0, 1], steps=5, eval_every=5),
        *own("Normed", "clip_norm", regularizer__threshold=1e9, seed=[0, 1], steps=5, eval_every=5),
    ]
    loss = train(stack, data_of(stack[0]), CPU).curves["loss"]
    for seed in (0, 1):
        np.testing.assert_allclose(loss[:, seed], loss[:, 2 + seed], rtol=1e-12)
    keys = build_stack(stack, data_of(stack[0]), CPU).noise_keys["network"].tolist()
    assert keys[:2] == keys[2:]
    assert keys[0] != keys[1], "another seed has other masks"


def test_running_statistics_are_each_cells_own_move_once_per_step_and_are_what_evaluations_use():
    stack = own("Normed", seed=[0, 1])
    setup = build_stack(stack, data_of(stack[0]), CPU)
    state, draws, telemetry = init_state(setup), draw_chunk(setup, 0), Telemetry(setup)
    for _ in range(3):
        advance(setup, state, draws, telemetry)
    buffers = state.buffers["network"]
    assert buffers["norm.num_batches_tracked"].tolist() == [3, 3]
    assert not torch.equal(buffers["norm.running_mean"][0], buffers["norm.running_mean"][1])
    before = setup.evaluate(state.weights, state.carry)["test/loss"]
    moved = buffers | {"norm.running_mean": buffers["norm.running_mean"] + 1.0}
    state.buffers = state.buffers | {"network": moved}
    assert (setup.evaluate(state.weights, state.carry)["test/loss"] != before).all()
    assert torch.equal(
        state.buffers["network"]["norm.num_batches_tracked"], buffers["norm.num_batches_tracked"]
    )


@pytest.mark.parametrize("network", STACKED)
def test_ordinary_layers_are_stacked(network):
    execution = execution_of(own(network)[0])
    assert not execution.one_by_one
    assert execution.notes == ()


def test_what_cannot_be_stacked_runs_one_network_at_a_time_and_a_line_names_the_operation():
    execution = execution_of(own("SpectralNorm")[0])
    assert execution.one_by_one
    assert execution.traces_networks
    (line,) = execution.notes
    assert "model.network=networks.SpectralNorm trains one network at a time" in line
    assert "aten::div.out" in line


def test_what_vmap_would_only_loop_over_runs_one_network_at_a_time():
    (line,) = execution_of(own("Unbatched")[0]).notes
    assert "one network at a time" in line
    assert "multi_margin_loss" in line


def test_what_depends_on_values_is_not_traced_and_a_line_says_so():
    execution = execution_of(own("Branching")[0])
    assert execution.one_by_one
    assert not execution.traces_networks
    (line,) = execution.notes
    assert "depends on the values of tensors" in line


def test_long_vectors_run_one_by_one_on_a_cpu_and_stacked_on_a_gpu():
    (cell,) = own("Heavy", model__batch_size=64)
    assert execution_of(cell).one_by_one
    assert execution_of(cell).notes == (), "it is no slower"
    assert not execution_of(cell, "cuda").one_by_one


def test_a_mask_that_is_the_same_for_all_cells_is_shared_and_random_or_written_buffers_are_not():
    assert execution_of(own("Attending")[0]).shared == {"network": frozenset({"mask"})}
    assert execution_of(own("Frozen")[0]).shared == {"network": frozenset()}
    assert execution_of(own("Normed")[0]).shared == {"network": frozenset()}


def test_random_numbers_in_a_plain_attribute_are_refused_by_name():
    with pytest.raises(UsageError, match=r"attribute scale .*register_buffer\('scale'"):
        execution_of(own("Unregistered")[0])


def test_what_has_no_second_derivative_is_refused_under_a_penalty_and_trains_without():
    assert not execution_of(own("DifferentiableOnce")[0]).shared["network"]
    with pytest.raises(
        UsageError, match=r"DifferentiableOnce: regularizer=gp needs second derivatives.*multi_margin_loss"
    ):
        execution_of(own("DifferentiableOnce", "gp")[0])


def test_examples_that_depend_on_each_other_under_a_penalty_are_told():
    (line,) = execution_of(own("Normed", "gp")[0]).notes
    assert "BatchNorm2d" in line
    assert execution_of(own("Normed", "clip_norm")[0]).notes == ()


def test_a_frozen_parameter_stays_and_a_random_buffer_is_the_cells_own():
    stack = own("Frozen", seed=[0, 1], steps=3, eval_every=3)
    setup = build_stack(stack, data_of(stack[0]), CPU)
    buffers = init_state(setup).buffers["network"]
    assert set(buffers) == {"first.weight", "first.bias", "scale"}
    assert not torch.equal(buffers["scale"][0], buffers["scale"][1])
    assert "first.weight" not in setup.layouts["network"].shapes

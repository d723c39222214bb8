"""Ways of running a step: they may change how long it takes, never what comes out."""

from functools import partial

import numpy as np
import pytest
import torch
from small import CONFIGS, CPU, cells, data_of
from stopping import assert_same_outcome
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from gradbench import batching, compiling
from gradbench import train as training
from gradbench.batching import looped, recorded
from gradbench.checkpoint import Checkpoint, StoppedError
from gradbench.errors import UsageError
from gradbench.models.lstm import LanguageModelling
from gradbench.stack import prepare
from gradbench.tape import record
from gradbench.train import train


@pytest.fixture(autouse=True)
def nothing_recorded(monkeypatch):
    monkeypatch.setattr(batching, "recordings", {})


@pytest.mark.parametrize("model", CONFIGS.groups["model"])
@pytest.mark.parametrize("regularizer", ["none", "gp", "clip_norm", "autoclip", "weight_clip"])
def test_a_replayed_training_gives_the_numbers_of_one_that_is_run(model, regularizer, monkeypatch):
    """In double precision, where rounding is small."""
    stack = cells(model, regularizer, seed=[0, 1], steps=12, eval_every=12)
    outcomes = []
    for records in (False, True):
        monkeypatch.setattr(training, "prepare", partial(prepare, records=records))
        assert not batching.recordings
        outcomes.append(train(stack, data_of(stack[0]), CPU))
    assert batching.recordings, "the second must have been recorded"
    for name, curve in outcomes[0].curves.items():
        np.testing.assert_allclose(outcomes[1].curves[name], curve, rtol=1e-7, atol=1e-10, err_msg=name)
    for name, values in outcomes[0].evaluations[12].items():
        np.testing.assert_allclose(
            outcomes[1].evaluations[12][name], values, rtol=1e-7, atol=1e-10, err_msg=name
        )


def test_what_one_stack_recorded_another_of_its_program_and_width_replays():
    one, other = (cells("mlp", "clip_norm", seed=seeds, steps=110) for seeds in ([0, 1], [2, 3]))
    alone = train(other, data_of(other[0]), CPU)
    batching.recordings.clear()
    train(one, data_of(one[0]), CPU)
    names = set(batching.recordings)
    after = train(other, data_of(other[0]), CPU)
    assert {kind for kind, *_ in names} == {"batch", "update", "evaluation"}
    assert set(batching.recordings) == names, "nothing is recorded twice"
    for name, curve in alone.curves.items():
        np.testing.assert_array_equal(curve, after.curves[name], err_msg=name)


def test_a_recording_follows_new_values_and_is_made_once():
    calls = []

    def function(x, tree):
        calls.append(1)
        return {"y": torch.addmm(tree["b"], x, x) * tree["a"]}

    replay = recorded(function, "it")
    for _ in range(5):
        x, a, b = torch.randn(3, 3), torch.randn(1), torch.randn(3)
        torch.testing.assert_close(replay(x, {"a": a, "b": b})["y"], (x @ x + b) * a)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x * y,
        lambda x, y: torch.tensor([2.0, 0.0, 1.0, 3.0]).add_(x).mul_(y),
        lambda x, y: torch.stack(x.cos().split(1)).masked_fill_(y[:, None] > 0, 3.0).sum(),
        lambda x, y: {"both": torch.max(x, dim=0), "same": y, "constant": torch.zeros(2)},
        grad(lambda x, y: (x @ y.sin()).relu().pow(2)),
        vmap(grad(lambda x, y: torch.linalg.vector_norm(grad(lambda z: (z * y).tanh().sum())(x)))),
    ],
)
def test_a_tape_replays_what_torch_s_own_tracer_does(function):
    """Constants that change in place, results in several parts, arguments given twice, derivatives of derivatives."""
    x, y, z = torch.randn(3, 4).unbind()
    result, recording = record(function, (x, x))
    traced = make_fx(function)(x, y)
    torch.testing.assert_close(result, function(x, x), rtol=0, atol=0)
    for args in ((x, y), (y, z), (z, z)):
        torch.testing.assert_close(recording(*args), traced(*args), rtol=0, atol=0)


def test_a_process_keeps_a_bounded_number_of_recordings():
    for index in range(batching.MOST + 3):
        recorded(lambda x: x + 1, index)(torch.ones(1))
    assert len(batching.recordings) == 3


def test_a_function_that_reads_a_value_is_not_recorded():
    with pytest.raises(RuntimeError, match="may be another value"):
        recorded(lambda x: x if x.sum().item() > 0 else -x, "it")(torch.ones(2))


def test_looping_equals_vmap():
    def one(x, tree):
        return (x * tree["a"]).sum(), {"twice": 2 * x}

    x, a = torch.randn(4, 3), torch.randn(4)
    total, rest = looped(one, 4)(x, {"a": a})
    expected_total, expected_rest = vmap(one)(x, {"a": a})
    torch.testing.assert_close(total, expected_total)
    torch.testing.assert_close(rest, expected_rest)
    assert vmap(grad(lambda x, a: one(x, {"a": a})[0]))(x, a).shape == x.shape


def test_the_fused_lstm_trains_to_the_numbers_of_the_written_out_one(monkeypatch):
    stack = cells("lstm", "clip_norm", seed=[0, 1], model__layers=2, optimizer__lr=0.5)
    fused = train(stack, data_of(stack[0]), CPU)
    monkeypatch.setattr(LanguageModelling, "fuses", False)
    written_out = train(stack, data_of(stack[0]), CPU)
    for name, curve in fused.curves.items():
        np.testing.assert_allclose(curve, written_out.curves[name], rtol=1e-9, atol=1e-12, err_msg=name)
    for name, values in fused.evaluations[20].items():
        np.testing.assert_allclose(values, written_out.evaluations[20][name], rtol=1e-9, err_msg=name)


# ---- compiled --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "regularizer"), [("mlp", "none"), ("mlp", "gp"), ("wgan", "gp")])
def test_a_compiled_stack_trains_to_the_same_numbers_and_to_the_same_bits_wherever_it_is_gone_on_with(
    model, regularizer, tmp_path
):
    """In double precision, where rounding is small; the stop falls before a function would be recorded."""
    values = {"seed": [0, 1], "steps": 60, "eval_every": 60, "optimizer__lr": 0.01}
    plain, stack = (cells(model, regularizer, compile=compiles, **values) for compiles in (False, True))
    eager, compiled = (train(made, data_of(made[0]), CPU) for made in (plain, stack))
    assert {cell.id for cell in plain} == {cell.id for cell in stack}, (
        "how it is run is no part of what it is"
    )
    for name, curve in eager.curves.items():
        np.testing.assert_allclose(compiled.curves[name], curve, rtol=1e-7, atol=1e-10, err_msg=name)

    path, belongs = tmp_path / "stack.pt", {"cells": ["a"]}
    with pytest.raises(StoppedError):
        train(stack, data_of(stack[0]), CPU, checkpoint=Checkpoint(path, belongs, 0.0, stop=lambda: True))
    batching.recordings.clear()
    resumed = train(stack, data_of(stack[0]), CPU, checkpoint=Checkpoint(path, belongs, 0.0))
    assert_same_outcome(resumed, compiled)


def test_a_fused_lstm_is_compiled_around_its_kernel():
    values = {"precision": "float32", "seed": [0, 1], "steps": 5, "eval_every": 5}
    plain, stack = (cells("lstm", "clip_norm", compile=compiles, **values) for compiles in (False, True))
    eager, compiled = (train(made, data_of(made[0]), CPU) for made in (plain, stack))
    np.testing.assert_allclose(compiled.curves["loss"], eager.curves["loss"], rtol=1e-4)


def test_a_compiled_function_takes_tensors_of_any_strides():
    calls = []

    def function(x):
        calls.append(1)
        return x.exp().sum(0)

    replay = recorded(function, "it", compiles=True)
    for x in (torch.randn(3, 4), torch.randn(4, 3).t(), torch.randn(1, 4).expand(3, 4)):
        torch.testing.assert_close(replay(x), x.exp().sum(0))
    assert len(calls) == 1


def test_without_a_compiler_a_run_says_what_to_install(monkeypatch):
    def failing(*_):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setenv("CXX", "/no/such/compiler")
    monkeypatch.setattr(compiling, "compiled", failing)
    with pytest.raises(UsageError) as refused:
        compiling.check(CPU)
    assert "/no/such/compiler did not (RuntimeError); install g++" in str(refused.value)
    assert "\n" not in str(refused.value)

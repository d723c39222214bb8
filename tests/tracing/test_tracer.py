"""Ways of running a step: they may change how long it takes, never what comes out."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from small import CPU, cells, data_of, few_pairs, in_suites, some_pairs
from torch import nn
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from gradbench.functional.sequential_vmap import sequential_vmap
from gradbench.models.lstm import LanguageModelling
from gradbench.optimizers import Optimizer
from gradbench.regularizers import Regularizer
from gradbench.tracing import cache
from gradbench.tracing.cache import traced
from gradbench.tracing.tracer import UntraceableError, trace
from gradbench.training import loop as training
from gradbench.training import program, setup
from gradbench.training.loop import train
from gradbench.training.setup import build_stack


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch):
    monkeypatch.setattr(cache, "TRACE_CACHE", {})


@in_suites("model, regularizer", quick=few_pairs(1), slow=some_pairs(1))
def test_a_replayed_training_gives_the_numbers_of_one_that_is_run(model, regularizer, monkeypatch):
    """In double precision, where rounding is small."""
    calm = (
        {"optimizer__lr": 0.001} if model == "regressor" else {}
    )  # a cell that diverges is left out, traced
    stack = cells(model, regularizer, seed=[0, 1], steps=12, eval_every=12, **calm)
    outcomes = []
    for traces in (False, True):
        monkeypatch.setattr(training, "build_stack", partial(build_stack, traces=traces))
        assert not cache.TRACE_CACHE
        outcomes.append(train(stack, data_of(stack[0]), CPU))
    assert cache.TRACE_CACHE, "the second must have been traced"
    for name, curve in outcomes[0].curves.items():
        np.testing.assert_allclose(outcomes[1].curves[name], curve, rtol=1e-7, atol=1e-10, err_msg=name)
    for name, values in outcomes[0].evaluations[12].items():
        np.testing.assert_allclose(
            outcomes[1].evaluations[12][name], values, rtol=1e-7, atol=1e-10, err_msg=name
        )


def test_what_one_stack_traced_another_of_its_program_and_width_replays():
    one, other = (cells("mlp", "clip_norm", seed=seeds, steps=110) for seeds in ([0, 1], [2, 3]))
    alone = train(other, data_of(other[0]), CPU)
    cache.TRACE_CACHE.clear()
    train(one, data_of(one[0]), CPU)
    names = set(cache.TRACE_CACHE)
    after = train(other, data_of(other[0]), CPU)
    assert names
    assert set(cache.TRACE_CACHE) == names, "nothing is traced twice"
    for name, curve in alone.curves.items():
        np.testing.assert_array_equal(curve, after.curves[name], err_msg=name)


def test_a_trace_follows_new_values_and_is_made_once():
    calls = []

    def function(x, tree):
        calls.append(1)
        return {"y": torch.addmm(tree["b"], x, x) * tree["a"]}

    replay = traced(function, "it")
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
def test_a_trace_replays_what_torch_s_own_tracer_does(function):
    """Constants that change in place, results in several parts, arguments given twice, derivatives of derivatives."""
    x, y, z = torch.randn(3, 4).unbind()
    result, replay = trace(function, (x, x))
    theirs = make_fx(function)(x, y)
    torch.testing.assert_close(result, function(x, x), rtol=0, atol=0)
    for args in ((x, y), (y, z), (z, z)):
        torch.testing.assert_close(replay(*args), theirs(*args), rtol=0, atol=0)


def test_a_process_keeps_a_bounded_number_of_traces():
    for index in range(cache.CAPACITY + 3):
        traced(lambda x: x + 1, index)(torch.ones(1))
        assert index in cache.TRACE_CACHE, "the latest is kept"
        assert len(cache.TRACE_CACHE) <= cache.CAPACITY


def test_a_function_that_reads_a_value_is_refused():
    with pytest.raises(UntraceableError, match="may be another one at the next step"):
        traced(lambda x: x if x.sum().item() > 0 else -x, "it")(torch.ones(2))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[x > 0].sum(),
        lambda x: x * len(torch.nonzero(x)),
        lambda x: x * torch.bincount((x > 0).long().flatten()).shape[0],
        lambda x: x * torch.unique(x).numel(),
        lambda x: x * torch.masked_select(x, x > 0).shape[0],
        lambda x: x * x.tolist()[0][0],
        lambda x: x * float(x.detach().numpy()[0, 0]),
        lambda x: x * float(np.asarray(x.detach())[0, 0]),
        lambda x: x if (x > 0).all() else -x,
    ],
)
def test_a_function_whose_result_or_its_shape_depends_on_values_is_refused(function):
    with pytest.raises(
        UntraceableError, match=r"a training step and an evaluation must not depend on values: use"
    ):
        trace(function, (torch.ones(2, 3),))


def anchored():
    """Pull the parameters to where they began."""

    def init(parameters, _layout):
        return {"start": parameters}

    def transform(gradient, strength, state, parameters, _layout):
        return gradient + strength * (parameters - state["start"]), state

    return Regularizer(transform=transform, init=init)


def lookback():
    """Keep several tensors that begin as one, and two that are always equal."""

    def init(parameters, _layout):
        zeros = torch.zeros_like(parameters)
        return {"slow": parameters, "a": zeros, "b": zeros}

    def step(parameters, gradient, state, lr, _t, _layout):
        a, b = gradient + 0.5 * state["a"], gradient + 0.5 * state["b"]
        after = parameters - lr * (a + b) / 2 + 0.1 * (state["slow"] - parameters)
        return after, {"slow": 0.9 * state["slow"] + 0.1 * after, "a": a, "b": b}

    return Optimizer(init, step)


@pytest.mark.parametrize("whose", ["regularizer", "optimizer"])
def test_state_that_begins_as_the_parameters_or_as_one_tensor_stays_what_it_is_meant_to_be(
    whose, monkeypatch
):
    """In-place updates of donated memory must not reach what a user's ``init`` or step has made of it."""
    if whose == "regularizer":
        monkeypatch.setattr(program, "build_parts", lambda *_: [anchored()])
    else:
        build = program.build
        monkeypatch.setattr(setup, "build", lambda *args: replace(build(*args), optimizer=lookback()))
    stack = cells("mlp", "clip_value", seed=[0, 1], steps=12, eval_every=12, regularizer__threshold=0.5)
    outcomes = []
    for traces in (False, True):
        monkeypatch.setattr(training, "build_stack", partial(build_stack, traces=traces))
        outcomes.append(train(stack, data_of(stack[0]), CPU))
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(
            outcomes[1].curves[name], outcomes[0].curves[name], rtol=1e-9, err_msg=name
        )


ONES = torch.ones(2, 3)


@pytest.mark.parametrize(
    "function",
    [
        torch.rand_like,
        lambda x: x + torch.randn(3),
        lambda x: x[torch.randperm(2)],
        lambda x: torch.bernoulli(x.sigmoid()),
        lambda x: x.clone().normal_(),
        nn.Dropout(0.5),
        nn.RReLU(),
        vmap(nn.Dropout(0.5), randomness="different"),
        lambda x: nn.functional.scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=0.5),
    ],
)
def test_a_function_that_draws_random_numbers_is_refused_with_what_to_do(function):
    with pytest.raises(
        UntraceableError, match=r"draws random numbers .* come from its own seed: draw them in"
    ):
        trace(function, (ONES,))


def test_attention_without_dropout_draws_nothing():
    x = torch.randn(1, 4, 8)
    function = partial(nn.functional.scaled_dot_product_attention, dropout_p=0.0)
    torch.testing.assert_close(trace(function, (x, x, x))[1](x, x, 2 * x), function(x, x, 2 * x))


class Counting(nn.Module):
    """Counts its calls in a buffer, in one of several ways."""

    def __init__(self, count):
        super().__init__()
        self.register_buffer("calls", torch.zeros(2))
        self.count = count

    def forward(self, x):
        self.count(self.calls)
        return x * self.calls.sum()


def write_without_saying_so(calls):
    """Write to a tensor where no operation can be seen to do it, as an extension with a wrong schema would."""
    calls.untyped_storage().fill_(1)


@pytest.mark.parametrize(
    "module",
    [
        nn.BatchNorm1d(3),
        nn.BatchNorm1d(3, affine=False),
        nn.Sequential(nn.Unflatten(1, (1, 3)), nn.InstanceNorm1d(1, track_running_stats=True)),
        Counting(lambda calls: calls.add_(1.0)),
        Counting(lambda calls: calls[0].add_(1.0)),
        Counting(lambda calls: calls.view(1, 2).squeeze(0).copy_(torch.ones(2))),
        Counting(lambda calls: torch.add(calls, 1.0, out=calls)),
        Counting(lambda calls: write_without_saying_so(calls * 0 + calls) or write_without_saying_so(calls)),
    ],
    ids=["batch norm", "without affine", "instance norm", "buffer", "row", "view", "out", "undeclared"],
)
def test_a_function_that_writes_to_what_is_no_input_is_refused_with_what_to_do(module):
    with pytest.raises(
        UntraceableError, match="writes to a tensor that is no input of the training step, such as a"
    ):
        trace(module, (ONES,))


def test_what_is_an_input_or_made_inside_may_be_written_to_and_batch_norm_in_evaluation_writes_nothing():
    norm = nn.BatchNorm1d(3).eval()

    def function(x, calls):
        calls[0].add_(1.0)
        return norm(x.clone().add_(calls.sum()))

    x, calls = torch.randn(2, 3), torch.zeros(2)
    _, replay = trace(function, (x, calls.clone()))
    for _ in range(2):
        mine, theirs = calls.clone(), calls.clone()
        torch.testing.assert_close(replay(x, mine), function(x, theirs))
        torch.testing.assert_close(mine, theirs)
        x, calls = torch.randn(2, 3), torch.randn(2)


def test_a_gradient_that_nobody_asked_for_is_no_hole_in_a_trace():
    """A convolution's backward returns None for an input that needs no gradient."""
    bias = torch.randn(2, dtype=torch.float64)

    def step(weight, x):
        weight = weight.detach().requires_grad_()
        loss = nn.functional.conv2d(x, weight, bias).square().sum()
        return torch.autograd.grad(loss, weight)[0]

    weight, x = torch.randn(2, 1, 3, 3, dtype=torch.float64), torch.randn(2, 1, 5, 5, dtype=torch.float64)
    _, replay = trace(step, (weight, x))
    torch.testing.assert_close(replay(2 * weight, x), step(2 * weight, x), rtol=1e-12, atol=0)


def test_looping_equals_vmap():
    def one(x, tree):
        return (x * tree["a"]).sum(), {"twice": 2 * x}

    x, a = torch.randn(4, 3), torch.randn(4)
    total, rest = sequential_vmap(one, 4)(x, {"a": a})
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

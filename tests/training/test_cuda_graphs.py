"""A step that is launched instead of called: on a CPU what was captured is called anew, with the same memory."""

import numpy as np
import pytest
import torch
from small import CPU, cells, data_of, each_pair
from torch.utils._pytree import tree_leaves

import gradbench.training.loop
from gradbench.tracing import cache
from gradbench.training.bind import init_state
from gradbench.training.cuda_graphs import CudaGraphStepper, tensors_of, write
from gradbench.training.draws import CHUNK, draw_chunk
from gradbench.training.loop import train
from gradbench.training.setup import build_stack
from gradbench.training.step import EagerStepper
from gradbench.training.telemetry import COMPARE_EVERY, Telemetry


class Launches:
    """Stands in for a GPU's graphs, and counts how often each was launched."""

    def __init__(self):
        self.counts = []

    def __call__(self, function):
        place = len(self.counts)
        self.counts.append(0)

        def launch():
            self.counts[place] += 1
            return function()

        return launch


def march(calls, steps):
    """Train some steps; return every tensor there is then: of the state, recorded, measured."""
    state, telemetry = init_state(calls.context), Telemetry(calls.context)
    draws = draw_chunk(calls.context, 0)
    for _ in range(steps):
        calls.advance(state, draws, telemetry)
    everything = [tensors_of(state), telemetry.recorded(), calls.evaluate(state)]
    everything += [state.last.used] if state.last else []
    return [tensor.clone() for tensor in tree_leaves(everything)]


@each_pair(0)
def test_a_launched_step_has_the_bits_of_a_called_one(model, regularizer):
    stack = cells(model, regularizer, seed=[0, 1], precision="float32", steps=4)
    setup, launches = build_stack(stack, data_of(stack[0]), CPU), Launches()
    graphs, expected = CudaGraphStepper(setup, launches), march(EagerStepper(setup), 4)
    for _ in range(3):
        captured, launched = len(launches.counts), sum(launches.counts)
        for one, other in zip(expected, march(graphs, 4), strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=0, equal_nan=True)
    assert len(launches.counts) == captured, "in the third round nothing is new"
    assert sum(launches.counts) > launched + 4, "each of its four steps is launched, and its evaluation"


@pytest.mark.parametrize(
    ("model", "regularizer", "given"),
    [
        ("mlp", "clip_value", {}),
        ("wgan", "autoclip", {}),
        ("lstm", "gp", {}),
        ("wgan", "gp+gp_zero", {"regularizer__gp__every": 4, "regularizer__gp_zero__every": 6}),
    ],
)
def test_a_stack_of_launches_trains_as_one_of_calls_over_several_chunks(
    model, regularizer, given, monkeypatch
):
    sizes = {"precision": "float32", "steps": 2 * CHUNK + 7, "eval_every": 30}
    stack = cells(model, regularizer, seed=[0, 1], **sizes, **given)
    called = train(stack, data_of(stack[0]), CPU)
    launches = Launches()
    monkeypatch.setattr(
        gradbench.training.loop, "make_stepper", lambda setup: CudaGraphStepper(setup, launches)
    )
    launched = train(stack, data_of(stack[0]), CPU)
    assert sum(launches.counts) > 2 * CHUNK
    for name, curve in called.curves.items():
        np.testing.assert_array_equal(launched.curves[name], curve, err_msg=name)
    for step, metrics in called.evaluations.items():
        for name, values in metrics.items():
            np.testing.assert_array_equal(launched.evaluations[step][name], values, err_msg=name)
    for ours, theirs in zip(launched.arrays, called.arrays, strict=True):
        assert ours.keys() == theirs.keys()
        for name, values in theirs.items():
            np.testing.assert_array_equal(ours[name], values, err_msg=name)


def test_nothing_is_traced_while_a_graph_is_captured(monkeypatch):
    """The constants of such a trace would lie in memory of graphs, which write over it."""
    traced, captured = [], []

    def spied(*args, rewritten=cache.rewritten):
        traced.append(bool(capturing))
        return rewritten(*args)

    def capture(function):
        captured.append(function)
        capturing.append(True)
        function()
        capturing.pop()
        return function

    capturing = []
    monkeypatch.setattr(cache, "rewritten", spied)
    monkeypatch.setattr(cache, "TRACE_CACHE", {})
    monkeypatch.setattr(cache, "CAPACITY", 1)  # each trace drives out the one before
    stack = cells("mlp", "clip_value", seed=[0, 1], steps=4)
    march(CudaGraphStepper(build_stack(stack, data_of(stack[0]), CPU), capture), 4)
    assert captured
    assert traced
    assert not any(traced)


def test_memory_stays_where_it_is_and_nothing_is_captured_twice():
    stack = cells("wgan", "clip_value", seed=[0, 1], steps=4 * CHUNK, eval_every=4 * CHUNK)
    setup, launches = build_stack(stack, data_of(stack[0]), CPU), Launches()
    graphs, state, telemetry = CudaGraphStepper(setup, launches), init_state(setup), Telemetry(setup)
    addresses, captured, launched = set(), [], []
    for step in range(4 * CHUNK):
        if step % CHUNK == 0:
            draws = draw_chunk(setup, step)
            captured.append(len(launches.counts))
            launched.append(sum(launches.counts))
        graphs.advance(state, draws, telemetry)
        if step > 2:
            addresses.add(
                tuple(leaf.data_ptr() for leaf in tree_leaves([tensors_of(graphs.static), graphs.draws]))
            )
    assert len(addresses) == 1
    assert CHUNK >= COMPARE_EVERY, "in each chunk there are steps of every kind, but for the very last one's"
    assert captured[2] == captured[3], "what two chunks have captured the third launches"
    assert launched[3] - launched[2] >= CHUNK, "and calls nothing"


def test_writing_copies_first_what_would_be_overwritten():
    a, b = torch.zeros(3), torch.ones(3)
    write({"a": a, "b": b}, {"a": b, "b": a})
    assert a.tolist() == [1, 1, 1]
    assert b.tolist() == [0, 0, 0]

"""Memory: what is predicted before a stack starts, against what torch's own allocators hand out while it runs."""

import gc

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import CONFIGS, CPU, cells, data_of, in_suites

from gradbench.memory import estimate as memory
from gradbench.memory.estimate import (
    HEADROOM,
    Footprint,
    PhasePeak,
    cgroup_free,
    free_memory,
    max_width,
    measure_peak,
    predict_footprint,
)
from gradbench.memory.tracker import MemoryTracker
from gradbench.tracing.cache import TRACE_CACHE

every_model = pytest.mark.parametrize("model", CONFIGS.groups["model"])

QUICK = {
    "autoencoder": {"model.channels": 8, "model.batch_size": 64},
    "cnn": {"model.channels": 8, "model.batch_size": 512},
    "lstm": {"model.hidden": 64, "model.embedding": 64, "model.batch_size": 20, "model.unroll": 35},
    "mlp": {"model.hidden": 64, "model.depth": 4, "model.batch_size": 64},
    "resnet": {"model.channels": 8, "model.batch_size": 64},
    "wgan": {"model.hidden": 64, "model.depth": 3, "model.batch_size": 64, "model.critic_steps": 5},
}
"""Sizes of the default experiment, or large enough for a step to take memory; other models keep those of the tests."""


def sized(model, regularizer, K, **values):
    values = QUICK.get(model, {}) | {"precision": "float32", "seed": list(range(K)), "steps": 120} | values
    return cells(model, regularizer, **{key.replace(".", "__"): value for key, value in values.items()})


def within_a_quarter(predicted, measured):
    return abs(predicted - measured) <= measured / 4


@in_suites(  # the profiler reads each allocation, of which a recurrent network written out makes a million
    "model, regularizer",
    [("mlp", "gp"), ("wgan", "none"), ("classifier", "none")],
    [(model, ("none", "gp")[index % 2]) for index, model in enumerate(CONFIGS.groups["model"])],
    [(model, name) for model in CONFIGS.groups["model"] for name in ("none", "gp")],
)
def test_a_prediction_is_within_a_quarter_of_what_the_allocator_hands_out(model, regularizer):
    K = 4 if model == "lstm" else 12
    stack = sized(model, regularizer, K)
    _, measured = measure_peak(stack, data_of(stack[0]), CPU, traces=False)
    predicted = predict_footprint(stack, data_of(stack[0]), "cpu").peak_bytes(K)
    assert within_a_quarter(predicted, measured), f"predicted {predicted:,}, measured {measured:,} bytes"


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer": "muon", "schedule": "warmup_cosine"},
        pytest.param({"optimizer": "lion"}, marks=pytest.mark.slow),
        pytest.param({"accumulate": 4}, marks=pytest.mark.slow),
        pytest.param({"accumulate": 4, "optimizer": "muon"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_prediction_counts_what_an_update_keeps(values):
    stack = sized("mlp", "none", 12, **values)
    data = data_of(stack[0])
    _, measured = measure_peak(stack, data, CPU, traces=False)
    assert within_a_quarter(predict_footprint(stack, data, "cpu").peak_bytes(12), measured)


def test_tracing_a_step_and_replaying_it_takes_hardly_more():
    stack = sized("mlp", "gp", 12)
    TRACE_CACHE.clear()
    (_, plain), (_, replayed) = (
        measure_peak(stack, data_of(stack[0]), CPU, traces) for traces in (False, True)
    )
    assert TRACE_CACHE, "the second must have been traced"
    assert within_a_quarter(predict_footprint(stack, data_of(stack[0]), "cpu").peak_bytes(12), replayed)
    assert (
        replayed <= 1.2 * plain
    )  # a product that is fused with an addition waits for it, and so do its factors


def test_a_stack_is_measured_as_the_first_of_its_process_whatever_was_traced_before():
    stack = sized("translation", "none", 2)
    (_, first), (_, again) = (measure_peak(stack, data_of(stack[0]), CPU) for _ in range(2))
    assert first == again


def test_what_was_left_to_the_garbage_collector_is_not_counted_as_freed_by_a_stack(monkeypatch):
    stack, build = sized("mlp", "none", 2), memory.build_stack
    monkeypatch.setattr(memory, "build_stack", lambda *args, **how: (gc.collect(), build(*args, **how))[1])
    left = [torch.zeros(10_000)]
    left.append(left)
    del left
    (_, first), (_, again) = (measure_peak(stack, data_of(stack[0]), CPU) for _ in range(2))
    assert first == again


def test_a_wide_stack_of_convolutions_is_predicted_from_narrow_ones():
    """Padded channels of one network are no measure of a stack's, which fill their blocks."""
    stack = sized("cnn", "gp", 40, **{"model.batch_size": 64, "model.depth": 3})
    _, measured = measure_peak(stack, data_of(stack[0]), CPU, traces=False)
    assert within_a_quarter(predict_footprint(stack, data_of(stack[0]), "cpu").peak_bytes(40), measured)


def test_a_mixed_stack_is_predicted_by_its_most_demanding_regularizer():
    stack = sized("mlp", "none,clip_norm,clip_value", 4)
    _, measured = measure_peak(stack, data_of(stack[0]), CPU)
    predicted = predict_footprint(stack, data_of(stack[0]), "cpu")
    assert within_a_quarter(predicted.peak_bytes(len(stack), seeds=4), measured)
    assert predicted.peak_bytes(9) == max(
        predict_footprint([cell], data_of(cell), "cpu").peak_bytes(9)
        for cell in (stack[0], stack[4], stack[8])
    )


def test_cells_that_share_seeds_share_their_draws():
    stack = sized("wgan", "clip_norm", 2, **{"model.batch_size": 256, "regularizer.threshold": [0.1, 1, 10]})
    _, measured = measure_peak(stack, data_of(stack[0]), CPU)
    predicted = predict_footprint(stack, data_of(stack[0]), "cpu")
    assert within_a_quarter(predicted.peak_bytes(len(stack), seeds=2), measured)
    assert predicted.peak_bytes(len(stack)) > 1.5 * predicted.peak_bytes(len(stack), seeds=2)


def test_three_cells_tell_the_memory_of_any_number_of_them():
    """The line through two and three cells goes through five: nothing but the number of cells adds up."""
    five = sized("mlp", "gp", 5, steps=2)
    *lines, _ = predict_footprint(five, data_of(five[0]), "cpu").phases
    found = memory.predict_peaks(five, data_of(five[0]), "cpu", 2)
    of_five = [line.fixed + 5 * (line.per_cell + line.per_seed) for line in lines]
    assert of_five == pytest.approx(found, rel=0.05)


def test_a_prediction_is_a_function_of_the_cells():
    stack = sized("mlp", "gp", 2)
    first, again = (predict_footprint(stack, data_of(stack[0]), "cpu") for _ in range(2))
    assert first == again


def test_a_large_model_is_predicted_without_its_memory():
    (cell,) = sized("mlp", "none", 1, **{"model.hidden": 1024, "model.batch_size": 1024, "model.depth": 2})
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiler:
        predicted = predict_footprint([cell], data_of(cell), "cpu").peak_bytes(300)
    taken = max(event.nbytes() for event in profiler.profiler.kineto_results.events())
    assert predicted > 5 * 2**30 > 500 * taken


def test_the_ledger_counts_what_is_alive_and_views_once():
    with MemoryTracker("cpu") as tracker:
        a = torch.empty(1000, device="meta")
        b = (a.view(10, 100).t(), a + 1)
        assert tracker.live == 8000
        del b
        assert (tracker.live, tracker.pop_peak()) == (4000, 8000)
        sums = [(a * 2).sum() for _ in range(3)]
        assert (tracker.live, tracker.pop_peak()) == (4012, 8008 + 4 - 4 + 4)
        del a, sums
    assert tracker.live == 0


def test_a_cuda_allocator_hands_out_blocks():
    with MemoryTracker("cuda") as tracker:
        kept = [
            torch.empty(1, device="meta"),
            torch.empty(513, dtype=torch.uint8, device="meta"),
            torch.ones(9),
        ]
        assert tracker.live == 512 + 1024
        del kept


numbers = st.integers(0, 10**6)


@given(
    lines=st.lists(st.builds(PhasePeak, numbers, st.integers(1, 10**6), numbers), min_size=1, max_size=4),
    free=st.integers(0, 10**9),
)
def test_the_widest_that_fits_fits_and_one_more_does_not(lines, free):
    found = Footprint(tuple(lines))
    width = max_width(found, free)
    assert width == 0 or found.peak_bytes(width) * HEADROOM <= free
    assert width == 2**20 - 1 or found.peak_bytes(width + 1) * HEADROOM > free


def test_free_memory_is_no_more_than_the_machine_has():
    assert 0 < free_memory(CPU) <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("line", "folder", "limit", "used"),
    [
        ("0::/batch/job", "batch/job", "memory.max", "memory.current"),
        ("7:memory:/batch/job", "memory/batch", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("0::/../elsewhere", ".", "memory.max", "memory.current"),
    ],
)
def test_a_cgroup_leaves_its_limit_less_what_is_used(line, folder, limit, used, tmp_path):
    own, root = tmp_path / "own", tmp_path / "root"
    own.write_text(f"3:cpu,cpuacct:/other\n{line}\n")
    assert cgroup_free(root, own) == []
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / limit).write_text("5000\n")
    (root / folder / used).write_text("3000\n")
    assert cgroup_free(root, own) == [2000]
    (root / folder / limit).write_text("max\n")
    assert cgroup_free(root, own) == []
    assert cgroup_free(root, tmp_path / "absent") == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("regularizer", ["none", "gp"])
@every_model
def test_a_prediction_is_within_a_quarter_of_what_a_gpu_hands_out(model, regularizer):
    from gradbench.launchers.worker import configure_process

    device = torch.device("cuda", 0)
    configure_process(device)
    stack = sized(model, regularizer, 64)
    _, measured = measure_peak(stack, data_of(stack[0]), device)
    torch.use_deterministic_algorithms(False)
    assert within_a_quarter(predict_footprint(stack, data_of(stack[0]), "cuda").peak_bytes(64), measured)

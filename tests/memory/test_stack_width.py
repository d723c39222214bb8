"""How wide stacks are: by a core's cache or a device's memory, or as told; the same whatever else goes on."""

import math
from functools import partial
from importlib import import_module

import pytest
import torch
from small import CPU, cells, data_of

from gradbench.errors import UsageError
from gradbench.launchers import worker
from gradbench.memory import estimate as memory
from gradbench.memory import stack_width as widths
from gradbench.memory.saturation import TABLE, saturating_bytes
from gradbench.memory.stack_width import CACHE_BYTES, MAX_CPU_WIDTH, choose_width, count_stacks, is_too_large
from gradbench.storage.results import Results

saturation = import_module("saturation")


def wide(model="mlp", regularizer="none", **values):
    (cell,) = cells(model, regularizer, **values)
    return choose_width(cell, data_of(cell), CPU)


def test_a_cpus_stack_holds_as_many_cells_as_its_cache_and_at_least_one():
    hidden = 100
    numbers = sum(
        (inputs + 1) * outputs for inputs, outputs in ((64, hidden), (hidden, hidden), (hidden, 10))
    )
    assert wide(model__hidden=hidden) == CACHE_BYTES // (4 * numbers) > 1
    assert wide(model__hidden=4) == MAX_CPU_WIDTH
    assert wide(model__hidden=1000, model__depth=4) == 1


def test_a_width_that_is_told_is_kept():
    assert wide(stack_width__cpu=3) == 3


@pytest.mark.parametrize(
    ("seeds", "stacks"), [(1, 1), (7, 1), (8, 2), (28, 2), (29, 4), (56, 4), (57, 8), (224, 16), (225, 17)]
)
def test_few_stacks_on_a_cpu_are_as_many_as_cores_share_equally(seeds, stacks):
    made = cells("mlp", "none", seed=[0], model__hidden=100)
    assert choose_width(made[0], data_of(made[0]), CPU) == 14
    assert count_stacks(made * seeds, data_of(made[0]), CPU) == stacks


def test_a_width_that_is_told_makes_as_few_stacks_as_it_allows():
    made = cells("mlp", "none", seed=list(range(10)), stack_width__cpu=4)
    assert count_stacks(made, data_of(made[0]), CPU) == 3


def test_a_wgan_is_as_wide_as_the_larger_of_its_networks_allows():
    critic, generator = ((2 + 1) * 80 + 81 * 80 + 81 * out for out in (1, 2))
    assert critic < generator
    assert wide("wgan", model__hidden=80) == CACHE_BYTES // (4 * generator)


def test_a_gpus_stack_takes_its_memory_whatever_is_free(monkeypatch):
    (cell,) = cells("mlp", "none")
    found = []
    for size in (1 << 28, 1 << 30, 1 << 10):
        monkeypatch.setattr(widths, "total_memory", lambda _device, size=size: size)
        monkeypatch.setattr(widths, "name_of", lambda _device: "a GPU that nobody has measured")
        found.append(choose_width(cell, data_of(cell), torch.device("cuda")))
    assert found[1] > found[0] > 1
    assert found[2] == 1, "a cell that does not fit is tried all the same"


def test_a_gpu_predicts_nothing_where_all_cells_fit_in_any_case(monkeypatch):
    (cell,) = cells("mlp", "none")
    monkeypatch.setattr(widths, "name_of", lambda _device: "a GPU that nobody has measured")
    for size, counts, predictions in ((1 << 24, [50, 4000], 4), (1 << 34, [1, 50], 2)):
        predicted = []
        monkeypatch.setattr(widths, "total_memory", lambda _device, size=size: size)
        monkeypatch.setattr(
            widths,
            "predict_footprint",
            lambda *args, to=predicted: to.append(args) or memory.predict_footprint(*args),
        )
        for count in counts:
            told, found = (
                choose_width(cell, data_of(cell), torch.device("cuda"), *args) for args in ((count,), ())
            )
            assert min(told, count) == min(found, count)
        assert len(predicted) == predictions, "one where nobody says how many, one where it is not clear"


def test_a_gpu_that_was_measured_is_filled_and_no_more_whatever_the_cell_s_size(monkeypatch, tmp_path):
    table = tmp_path / "saturation.csv"
    table.write_text(saturation.merge_rows({("GPU, large", "mlp"): 4 * 10**5}))
    monkeypatch.setattr(widths, "saturating_bytes", partial(saturating_bytes, table=table))
    monkeypatch.setattr(widths, "name_of", lambda _device: "GPU, large")
    monkeypatch.setattr(widths, "total_memory", lambda _device: 1 << 33)
    for hidden in (4, 40, 1000):
        (cell,) = cells("mlp", "none", model__hidden=hidden, model__depth=1)
        numbers = (64 + 1) * hidden + (hidden + 1) * 10
        assert choose_width(cell, data_of(cell), torch.device("cuda")) == max(math.ceil(10**5 / numbers), 1)
    (cell,) = cells("wgan", "none")
    assert choose_width(cell, data_of(cell), torch.device("cuda")) > 1000, "that model was not measured"


def test_the_table_of_measured_gpus_keeps_others_and_is_empty_until_one_is(tmp_path):
    table = tmp_path / "saturation.csv"
    table.write_text(TABLE.read_text())
    table.write_text(saturation.merge_rows({("b", "mlp"): 7, ("a, b", "mlp"): 5}, table))
    table.write_text(saturation.merge_rows({("b", "mlp"): 8}, table))
    assert [saturating_bytes(name, "mlp", table) for name in ("a, b", "b", "c")] == [5, 8, None]
    assert saturating_bytes("b", "lstm", table) is None


def test_the_narrowest_stack_that_fills_a_device_is_within_a_twentieth_of_the_best_per_cell():
    assert saturation.narrowest_full({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.9, 16: 3.7}) == 8
    assert saturation.narrowest_full({1: 1.0, 2: 2.0, 4: 4.0}) == 1
    assert saturation.narrowest_full({1: 1.0, 2: 1.01, 4: 1.02}) == 4


def test_a_kind_of_device_whose_memory_is_unknown_needs_to_be_told():
    with pytest.raises(UsageError, match=r"stack_width\.xpu=auto"):
        widths.total_memory(torch.device("xpu"))


@pytest.mark.parametrize("regularizer", ["none", "gp"])
def test_a_stack_that_would_not_fit_into_what_is_free_is_split_before_it_starts(
    regularizer, tmp_path, monkeypatch
):
    stack = cells("mlp", regularizer, seed=[0, 1, 2, 3])
    data = data_of(stack[0])
    need = widths.predict_footprint(stack, data, "cpu").peak_bytes(4)
    for free, too_large in ((need, True), (2 * need, False)):
        monkeypatch.setattr(widths, "free_memory", lambda _device, free=free: free)
        assert is_too_large(stack, data, CPU) == too_large
        verdict = worker.train_and_store(stack, Results(tmp_path).folder, CPU, Silent())
        assert (verdict == ("too large",)) == too_large


class Silent:
    """A pipe that nobody listens to."""

    def poll(self):
        return False

    def send(self, _message):
        pass


@pytest.mark.parametrize(("network", "is_predicted"), [("CNN", True), ("Branching", False)])
def test_the_memory_of_a_network_that_needs_values_is_not_predicted(network, is_predicted):
    (cell,) = cells("classifier", "none", model__network=f"networks.{network}")
    assert (widths.predict([cell], data_of(cell), CPU) is not None) == is_predicted

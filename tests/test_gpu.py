"""On a GPU (`pytest -m gpu`): the same numbers as on a CPU, the same bits again, and a step that never waits."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from small import CONFIGS, CPU, cells, data_of

import gradbench.training.loop
from gradbench.launchers.worker import configure_process
from gradbench.training.bind import init_state
from gradbench.training.cuda_graphs import make_stepper
from gradbench.training.draws import CHUNK, draw_chunk
from gradbench.training.loop import train
from gradbench.training.setup import build_stack
from gradbench.training.step import EagerStepper
from gradbench.training.telemetry import Telemetry

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]

every_pair = pytest.mark.parametrize(
    ("model", "regularizer"),
    [
        (model, regularizer)
        for model in CONFIGS.groups["model"]
        for regularizer in CONFIGS.groups["regularizer"]
    ],
)


@pytest.fixture(autouse=True)
def cuda():
    device = torch.device("cuda", 0)
    configure_process(device)
    yield device
    torch.use_deterministic_algorithms(False)


@every_pair
def test_a_gpu_trains_to_the_numbers_of_a_cpu(model, regularizer, cuda):
    stack = cells(model, regularizer, seed=[0, 1], optimizer__lr=0.01)
    there, here = (train(stack, data_of(stack[0]), device) for device in (cuda, CPU))
    for name, curve in here.curves.items():
        np.testing.assert_allclose(there.curves[name], curve, rtol=1e-8, atol=1e-9, err_msg=name)


@every_pair
def test_a_rerun_on_a_gpu_has_the_same_bits(model, regularizer, cuda):
    stack = cells(model, regularizer, seed=[0, 1], precision="float32")
    first, second = (train(stack, data_of(stack[0]), cuda) for _ in range(2))
    for name, curve in first.curves.items():
        np.testing.assert_array_equal(curve, second.curves[name], err_msg=name)


@every_pair
def test_a_step_never_waits_for_the_gpu(model, regularizer, cuda):
    stack = cells(model, regularizer, seed=[0, 1], precision="float32")
    setup = build_stack(stack, data_of(stack[0]), cuda)
    state, telemetry, draws = init_state(setup), Telemetry(setup), draw_chunk(setup, 0)
    called, launched = EagerStepper(setup), make_stepper(setup)
    called.advance(state, draws, telemetry)  # the first step may initialise libraries
    for _ in range(3):
        launched.advance(state, draws, telemetry)  # or capture graphs
    torch.cuda.set_sync_debug_mode("error")
    try:
        for calls in (called, launched, launched):
            calls.advance(state, draws, telemetry)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@every_pair
def test_a_graph_has_the_bits_of_the_calls_it_was_captured_from(model, regularizer, cuda, monkeypatch):
    stack = cells(model, regularizer, seed=[0, 1], precision="float32", steps=60, eval_every=20)
    launched = train(stack, data_of(stack[0]), cuda)
    monkeypatch.setattr(gradbench.training.loop, "make_stepper", EagerStepper)
    called = train(stack, data_of(stack[0]), cuda)
    for name, curve in called.curves.items():
        np.testing.assert_array_equal(launched.curves[name], curve, err_msg=name)
    for step, metrics in called.evaluations.items():
        for name, values in metrics.items():
            np.testing.assert_array_equal(launched.evaluations[step][name], values, err_msg=name)


@pytest.mark.parametrize("model", CONFIGS.groups["model"])
def test_random_numbers_of_the_next_chunk_are_copied_while_the_host_goes_on(model, cuda):
    stack = cells(model, "none", seed=[0, 1], precision="float32")
    setup = build_stack(stack, data_of(stack[0]), cuda)
    draw_chunk(setup, 0)  # the first copies pin memory, later ones find it
    torch.cuda.set_sync_debug_mode("error")
    try:
        draws = draw_chunk(setup, CHUNK)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    here = draw_chunk(build_stack(stack, data_of(stack[0]), CPU), CHUNK)
    for player, named in here.items():
        for name, tensor in named.items():
            torch.testing.assert_close(draws[player][name].cpu(), tensor, rtol=0, atol=0)


def test_a_sweep_on_a_gpu_is_trained_by_a_worker_of_its_own(tmp_path):
    words = ["model=mlp", "regularizer=none,gp", "seed=0,1", "steps=60", "device=cuda", "--no-report"]
    command = [sys.executable, "-m", "gradbench", "run", *words, "--results", str(tmp_path / "out")]
    subprocess.run(command, check=True, cwd=tmp_path)
    table = pd.read_parquet(tmp_path / "out" / "cells")
    assert table["status"].tolist() == ["completed"] * 4
    assert set(table["device"]) == {"cuda"}
    assert set(table["device_name"]) == {torch.cuda.get_device_name(0)}

"""On a GPU (`pytest -m gpu`): the same numbers as on a CPU, the same bits again, and a step that never waits."""

import numpy as np
import pytest
import torch
from small import CONFIGS, CPU, cells, data_of

from gradbench.stack import begin, draw_chunk, prepare
from gradbench.telemetry import Telemetry
from gradbench.train import advance, train
from gradbench.worker import settle

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
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
    settle(device)
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
    setup = prepare(stack, data_of(stack[0]), cuda)
    state, telemetry, draws = begin(setup), Telemetry(setup), draw_chunk(setup, 0)
    advance(setup, state, draws, telemetry)  # the first step may initialise libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        advance(setup, state, draws, telemetry)
    finally:
        torch.cuda.set_sync_debug_mode("default")

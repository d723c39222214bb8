"""What is done to parameters after a step, against clamping in place and singular values."""

import math

import pytest
import torch
from gradients import LAYOUT, SEEDS, THRESHOLDS, P, few_examples, gradient_of
from hypothesis import given
from small import CPU, advance, cells, data_of
from torch import nn
from torch.func import jacrev, vmap

from gradbench.functional.flat_params import Layout, flatten
from gradbench.regularizers.spectral_norm import largest_singular_value, spectral_norm
from gradbench.regularizers.weight_clip import weight_clip
from gradbench.training.bind import init_state
from gradbench.training.draws import draw_chunk
from gradbench.training.setup import build_stack
from gradbench.training.telemetry import Telemetry

CERTAIN = 200
"""Iterations after which the power method is within 2 %, unless its start is blind to what it seeks."""


every_projection = pytest.mark.parametrize(
    "regularizer", [weight_clip(), spectral_norm()], ids=["weight_clip", "spectral_norm"]
)


def project(regularizer, parameters, strength, layout=LAYOUT):
    return regularizer.project(parameters, torch.tensor(strength, dtype=parameters.dtype), layout)


def sigmas(parameters, layout=LAYOUT):
    """Return the largest singular value of each weight, a kernel seen as [outputs, the rest]."""
    parts = layout.split(parameters).values()
    return [torch.linalg.matrix_norm(part.flatten(1), ord=2).item() for part in parts if part.dim() > 1]


@given(seed=SEEDS, threshold=THRESHOLDS)
@few_examples
def test_weight_clipping_is_a_clamp_in_place_of_every_parameter(seed, threshold):
    parameters = gradient_of(seed)
    theirs = [nn.Parameter(part.clone()) for part in LAYOUT.split(parameters).values()]
    for parameter in theirs:
        parameter.data.clamp_(-threshold, threshold)
    ours = project(weight_clip(), parameters, threshold)
    assert torch.equal(ours, torch.cat([parameter.detach().reshape(-1) for parameter in theirs]))
    assert torch.equal(project(weight_clip(), ours, threshold), ours)


@pytest.mark.parametrize("name", ["weight_clip", "spectral_norm"])
def test_the_critic_is_projected_and_the_generator_is_not(name):
    (treated,) = cells("wgan", name, regularizer__threshold=0.01)
    setup = build_stack([treated], data_of(treated), CPU)
    state = init_state(setup)

    def largest(player):
        return max(sigmas(state.parameters[player][0], setup.layouts[player]))

    before = {player: largest(player) for player in ("critic", "generator")}
    advance(setup, state, draw_chunk(setup, 0), Telemetry(setup))
    assert largest("critic") < before["critic"] / 5
    assert largest("generator") > before["generator"] / 2


@given(seed=SEEDS)
@few_examples
def test_the_power_method_finds_the_largest_singular_value_from_below(seed):
    generator = torch.Generator().manual_seed(seed)
    for shape in [(1, 7), (7, 1), (6, 6), (12, 5)]:
        matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
        exact = torch.linalg.matrix_norm(matrix, ord=2).item()
        assert largest_singular_value(matrix, CERTAIN).item() == pytest.approx(exact, rel=0.02)
        assert largest_singular_value(matrix, 10).item() <= exact * (1 + 1e-12)


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 64), (64, 64), (64, 1), (256, 64)])
def test_ten_iterations_are_within_a_few_percent_for_layers_as_they_begin(inputs, outputs):
    weight = nn.Linear(inputs, outputs).weight.detach()
    exact = torch.linalg.matrix_norm(weight, ord=2).item()
    assert largest_singular_value(weight, 10).item() == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize(
    "matrix",
    [
        torch.tensor([[1.0, -1.0]]),
        torch.eye(4) - 0.25,
        torch.tensor([[0.0, 0.0], [0.0, 1.0]]),
        torch.diag(torch.tensor([1.0, 2.0, 3.0])),
        torch.tensor([[1.0, 1.0], [-1.0, -1.0]]),
    ],
    ids=["rows that sum to zero", "a projection", "one entry", "a diagonal", "rank one"],
)
def test_the_start_vector_is_not_blind_to_plain_matrices(matrix):
    exact = torch.linalg.matrix_norm(matrix, ord=2).item()
    assert largest_singular_value(matrix, 20).item() == pytest.approx(exact, rel=1e-4)


@given(seed=SEEDS, threshold=THRESHOLDS)
@few_examples
def test_a_weight_above_the_threshold_comes_down_to_it_and_all_else_keeps_its_bits(seed, threshold):
    parameters = gradient_of(seed)
    before, after = (
        LAYOUT.split(vector)
        for vector in (parameters, project(spectral_norm(CERTAIN), parameters, threshold))
    )
    for name, part in before.items():
        sigma = torch.linalg.matrix_norm(part.flatten(1), ord=2).item() if part.dim() > 1 else 0.0
        if sigma <= threshold:
            assert torch.equal(after[name], part)
        else:
            expected = part * (threshold / sigma)
            torch.testing.assert_close(after[name], expected, rtol=0.02, atol=0)


def test_a_perceptron_of_projected_layers_is_lipschitz():
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    layout = Layout(net)
    bounded = project(spectral_norm(CERTAIN), flatten(net) * 20, 1.5, layout)
    points = torch.randn(50, 3, dtype=torch.float64)
    jacobians = vmap(jacrev(layout.bind(bounded)))(points)
    assert torch.linalg.matrix_norm(jacobians, ord=2).max() <= 1.5**3 * (1 + 1e-6)


def test_a_zero_matrix_stays_zero():
    zero = torch.zeros(P, dtype=torch.float64)
    assert torch.equal(project(spectral_norm(), zero, 1e-3), zero)


@every_projection
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_stack_of_cells_is_projected_as_each_cell_alone_and_no_value_is_read(regularizer, device):
    parameters = torch.stack([gradient_of(seed) for seed in range(3)])
    thresholds = torch.tensor([0.01, 0.1, 1.0], dtype=torch.float64)
    act = vmap(lambda p, s: regularizer.project(p, s, LAYOUT))
    together = act(parameters.to(device), thresholds.to(device))
    assert together.shape == (3, P)
    for k in range(3 if device == "cpu" else 0):
        alone = project(regularizer, parameters[k], thresholds[k].item())
        torch.testing.assert_close(together[k], alone, rtol=1e-12, atol=0)


@every_projection
def test_an_infinite_threshold_keeps_every_bit(regularizer):
    parameters = gradient_of(0, 1e3)
    assert torch.equal(project(regularizer, parameters, math.inf), parameters)

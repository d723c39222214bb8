"""What is done to one gradient, against torch's own clipping, numpy and loops over numbers."""

import math

import numpy as np
import pytest
import torch
from gradients import LAYOUT, SCALES, SEEDS, THRESHOLDS, P, act, few_examples, gradient_of, torchs
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradbench.functional.flat_params import Layout
from gradbench.regularizers.agc import agc, clipped_names
from gradbench.regularizers.block_rms import block_rms
from gradbench.regularizers.clip_norm import clip_norm
from gradbench.regularizers.clip_value import clip_value


def same_bits(one, other):
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
@given(seed=SEEDS, scale=SCALES, threshold=THRESHOLDS)
@few_examples
def test_clip_norm_is_torchs_clip_grad_norm(norm_type, seed, scale, threshold):
    gradient = gradient_of(seed, scale)
    theirs = torchs(nn.utils.clip_grad_norm_, gradient, threshold, norm_type=norm_type)
    torch.testing.assert_close(act(clip_norm(norm_type), gradient, threshold), theirs, rtol=1e-12, atol=0)


EDGES = {
    "a norm exactly at the threshold": (torch.tensor([3.0, 4.0]), 5.0),
    "a norm just below the threshold": (torch.tensor([3.0, 4.0]), 5.000002),
    "a zero gradient": (torch.zeros(2), 1.0),
    "one NaN": (torch.tensor([math.nan, 4.0]), 1.0),
    "one Inf": (torch.tensor([math.inf, 4.0]), 1.0),
    "an infinite threshold": (torch.tensor([3.0, 4.0]), math.inf),
    "an infinite threshold and one Inf": (torch.tensor([math.inf, 4.0]), math.inf),
    "an infinite threshold and one NaN": (torch.tensor([math.nan, 4.0]), math.inf),
    "a norm that overflows": (torch.tensor([1e200, 1e200]) * 1e150, 1.0),
    "a tiny gradient": (torch.tensor([3e-300, 4e-300]), 1.0),
}


@pytest.mark.parametrize(("head", "threshold"), EDGES.values(), ids=EDGES)
@pytest.mark.parametrize(
    ("regularizer", "theirs"),
    [(clip_norm(), nn.utils.clip_grad_norm_), (clip_value(), nn.utils.clip_grad_value_)],
    ids=["clip_norm", "clip_value"],
)
def test_edge_cases_end_as_in_torch(regularizer, theirs, head, threshold):
    gradient = torch.zeros(P, dtype=torch.float64)
    gradient[:2] = head
    assert same_bits(act(regularizer, gradient, threshold), torchs(theirs, gradient, threshold))


def test_a_norm_exactly_at_the_threshold_is_still_scaled_by_a_millionth():
    gradient = torch.zeros(P, dtype=torch.float64)
    gradient[:2] = torch.tensor([0.6, 0.8], dtype=torch.float64)
    torch.testing.assert_close(act(clip_norm(), gradient, 1.0), gradient / (1 + 1e-6), rtol=1e-15, atol=0)


def test_one_nan_makes_the_whole_clipped_gradient_nan_and_one_inf_zeroes_what_is_finite():
    gradient = torch.ones(P, dtype=torch.float64)
    gradient[7] = math.nan
    assert act(clip_norm(), gradient, 1.0).isnan().all()
    gradient[7] = math.inf
    clipped = act(clip_norm(), gradient, 1.0)
    assert clipped[7].isnan()
    assert (clipped[torch.arange(P) != 7] == 0).all()


@given(seed=SEEDS, scale=SCALES, threshold=THRESHOLDS)
@few_examples
def test_clip_norm_never_raises_the_norm_and_keeps_the_direction(seed, scale, threshold):
    gradient = gradient_of(seed, scale)
    clipped = act(clip_norm(), gradient, threshold)
    assert clipped.norm() <= min(gradient.norm().item(), threshold) * (1 + 1e-12)
    torch.testing.assert_close(clipped / clipped.norm(), gradient / gradient.norm(), rtol=1e-9, atol=1e-12)


@given(seed=SEEDS, scale=SCALES, threshold=st.floats(1.0, 1e3))
@few_examples
def test_clip_norm_twice_is_clip_norm_once_up_to_a_millionth(seed, scale, threshold):
    once = act(clip_norm(), gradient_of(seed, scale), threshold)
    torch.testing.assert_close(act(clip_norm(), once, threshold), once, rtol=1.01e-6, atol=0)


def test_clip_norm_takes_one_norm_over_all_parameters_and_not_one_per_tensor():
    parts = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in LAYOUT.shapes.items()}
    for part in parts.values():
        part.view(-1)[0] = 0.9  # each tensor's norm is below the threshold, the whole norm is above
    clipped = act(clip_norm(), LAYOUT.join(parts), 1.0)
    assert clipped.norm().item() == pytest.approx(1.0, rel=1e-5)


# ---- one coordinate at a time ------------------------------------------------------------------------------


@given(seed=SEEDS, scale=SCALES, threshold=THRESHOLDS)
@few_examples
def test_clip_value_is_torchs_clip_grad_value_stays_in_its_bound_and_is_idempotent(seed, scale, threshold):
    gradient = gradient_of(seed, scale)
    clipped = act(clip_value(), gradient, threshold)
    assert torch.equal(clipped, torchs(nn.utils.clip_grad_value_, gradient, threshold))
    assert clipped.abs().max() <= threshold
    assert torch.equal(act(clip_value(), clipped, threshold), clipped)


def test_clip_value_changes_the_direction():
    gradient = torch.full((P,), 0.01, dtype=torch.float64)
    gradient[0] = 1.0
    clipped = act(clip_value(), gradient, 0.01)
    assert nn.functional.cosine_similarity(gradient, clipped, dim=0) < 0.5


# ---- tensor by tensor --------------------------------------------------------------------------------------


@given(seed=SEEDS, threshold=st.floats(1e-2, 1e2))
@few_examples
def test_block_rms_holds_each_tensors_root_mean_square_at_the_threshold(seed, threshold):
    gradient = gradient_of(seed)
    clipped = LAYOUT.split(act(block_rms(), gradient, threshold))
    for name, block in LAYOUT.split(gradient).items():
        rms = float(np.sqrt(np.mean(block.numpy() ** 2)))
        expected = block / max(1.0, rms / threshold)
        torch.testing.assert_close(clipped[name], expected, rtol=1e-12, atol=0)


def test_block_rms_of_one_tensor_does_not_depend_on_the_others():
    gradient = gradient_of(0)
    louder = gradient.clone()
    louder[-LAYOUT.sizes[-1] :] *= 1e6
    one, other = act(block_rms(), gradient, 0.1), act(block_rms(), louder, 0.1)
    assert torch.equal(one[: -LAYOUT.sizes[-1]], other[: -LAYOUT.sizes[-1]])


def agc_by_loops(gradient, parameters, threshold, eps):
    """Clip unit by unit, number by number: an output row of a weight, or a whole bias."""
    gradients, weights = LAYOUT.split(gradient), LAYOUT.split(parameters)
    names = list(LAYOUT.shapes)
    clipped = {name: tensor.clone().numpy() for name, tensor in gradients.items()}
    for name in names[:-2]:  # the last linear layer's weight and bias stay
        units = clipped[name] if clipped[name].ndim > 1 else clipped[name][None]
        sizes = weights[name].numpy() if clipped[name].ndim > 1 else weights[name].numpy()[None]
        for unit, size in zip(units, sizes, strict=True):
            norm = math.sqrt(sum(float(g) ** 2 for g in unit.flat))
            limit = threshold * max(math.sqrt(sum(float(w) ** 2 for w in size.flat)), eps)
            if norm > limit:
                unit *= limit / max(norm, 1e-6)
    return torch.cat([torch.from_numpy(clipped[name]).reshape(-1) for name in names])


@given(seed=SEEDS, scale=st.floats(1e-8, 1e2), threshold=st.floats(1e-3, 10.0), eps=st.floats(1e-6, 1.0))
@few_examples
def test_agc_is_a_loop_over_units(seed, scale, threshold, eps):
    gradient, parameters = gradient_of(seed, scale), gradient_of(seed + 1, 0.1)
    parameters[:8] = 0.0  # one unit without weights: eps lets it move
    expected = agc_by_loops(gradient, parameters, threshold, eps)
    torch.testing.assert_close(
        act(agc(eps), gradient, threshold, parameters), expected, rtol=1e-9, atol=1e-300
    )


def test_agc_leaves_the_output_layer_alone_and_clips_everything_in_front_of_it():
    gradient, output = torch.full((P,), 1e3, dtype=torch.float64), LAYOUT.sizes[-2] + LAYOUT.sizes[-1]
    clipped = act(agc(), gradient, 0.01)
    assert torch.equal(clipped[-output:], gradient[-output:])
    assert (clipped[:-output].abs() < 1.0).all()


def test_agc_finds_the_output_layer_by_shape():
    deep = Layout(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    assert clipped_names(deep) == ["0.weight", "0.bias"]
    without_bias = Layout(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False)))
    assert clipped_names(without_bias) == ["0.weight", "0.bias"]
    assert clipped_names(Layout(nn.Linear(3, 2))) == []
    assert clipped_names(Layout(nn.LayerNorm(3))) == ["weight", "bias"]

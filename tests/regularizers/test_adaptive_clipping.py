"""Clippings that remember: a history of norms against numpy, averages against a loop over scalars."""

import math

import numpy as np
import pytest
import torch
from gradients import act, few_examples, follow, gradient_of, series, torchs
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradbench.regularizers.autoclip import autoclip, percentile_of
from gradbench.regularizers.zclip import zclip


@given(
    values=st.lists(st.floats(0.0, 1e6), min_size=1, max_size=30),
    percentile=st.floats(0.0, 100.0),
    spare=st.integers(0, 5),
)
@few_examples
def test_the_percentile_is_numpys(values, percentile, spare):
    held = torch.tensor(values + [math.inf] * spare, dtype=torch.float64)
    ours = percentile_of(held, torch.tensor(len(values)), torch.tensor(percentile, dtype=torch.float64))
    assert ours.item() == pytest.approx(np.percentile(values, percentile), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("percentile", [1.0, 10.0, 25.0, 50.0, 90.0])
@pytest.mark.parametrize("window", [1000, 20])
def test_autoclip_is_torchs_clipping_at_numpys_percentile_of_the_norms_so_far(percentile, window):
    gradients, history = series(70), []
    used, _ = follow(autoclip(window), gradients, percentile)
    for gradient, ours in zip(gradients, used, strict=True):
        history.append(gradient.norm().item())
        limit = np.percentile(history[-window:], percentile)
        theirs = torchs(nn.utils.clip_grad_norm_, gradient, limit)
        # where a norm is the percentile itself torch still scales it by a millionth of its inverse
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


def test_autoclip_counts_the_current_step_so_that_the_first_passes_whole():
    gradient = gradient_of(3)
    assert torch.equal(act(autoclip(), gradient, 10.0), gradient)


def zclip_by_loop(norms, z, alpha, warmup):
    """Return the norm each gradient is scaled to; a list of norms first, then two averages."""
    seen, used, mean, variance = [], [], 0.0, 0.0
    for norm in norms:
        if len(seen) < warmup:
            seen.append(norm)
            used.append(norm)
            mean, variance = float(np.mean(seen)), float(np.var(seen))
            continue
        score = (norm - mean) / (math.sqrt(variance) + 1e-6)
        kept = mean + z * math.sqrt(variance) / (score / z) if score > z else norm
        used.append(kept)
        mean = alpha * mean + (1 - alpha) * kept
        variance = alpha * variance + (1 - alpha) * (kept - mean) ** 2
    return used, mean, variance


@pytest.mark.parametrize(("z", "alpha", "warmup"), [(2.5, 0.97, 25), (1.0, 0.9, 5), (0.5, 0.0, 1)])
def test_zclip_is_a_loop_over_scalars(z, alpha, warmup):
    gradients = series(120)
    norms = [gradient.norm().item() for gradient in gradients]
    used, state = follow(zclip(alpha, warmup), gradients, z)
    expected, mean, variance = zclip_by_loop(norms, z, alpha, warmup)
    assert [gradient.norm().item() for gradient in used] == pytest.approx(expected, rel=1e-5)
    assert state["mean"].item() == pytest.approx(mean, rel=1e-9)
    assert state["variance"].item() == pytest.approx(variance, rel=1e-9)
    assert any(kept < norm for kept, norm in zip(expected, norms, strict=True)), "something must be clipped"


def test_zclip_clips_nothing_before_its_warm_up_is_over_and_an_outlier_right_after():
    calm = [gradient_of(step) for step in range(25)]
    calm = [gradient / gradient.norm() * (1 + step % 3 / 10) for step, gradient in enumerate(calm)]
    outlier = gradient_of(99, 1e3)
    early, _ = follow(zclip(), [*calm[:24], outlier], 2.5)
    late, _ = follow(zclip(), [*calm, outlier], 2.5)
    assert torch.equal(early[-1], outlier)
    assert 1.0 < late[-1].norm() < 1.2
    assert nn.functional.cosine_similarity(late[-1], outlier, dim=0).item() == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("regularizer", "strength"), [(autoclip(15), 10.0), (zclip(warmup=10), 2.5)])
@pytest.mark.parametrize("first", [0, 4, 30])
def test_a_gradient_that_is_not_finite_is_not_remembered(regularizer, strength, bad, first):
    gradients = series(60)
    broken = gradients[0].clone()
    broken[5] = bad
    disturbed, after = follow(regularizer, [*gradients[:first], broken, *gradients[first:]], strength)
    calm, state = follow(regularizer, gradients, strength)
    for one, other in zip(disturbed[:first] + disturbed[first + 1 :], calm, strict=True):
        assert torch.equal(one, other)
    for name, tensor in state.items():
        assert torch.equal(after[name], tensor)


def test_a_norm_too_large_to_square_does_not_switch_zclip_off():
    gradients = [gradient.float() for gradient in series(60, spikes=False)]
    huge = gradients[0] * 1e25
    disturbed, state = follow(zclip(), [*gradients[:5], huge, *gradients[5:]], 2.5)
    calm, _ = follow(zclip(), gradients, 2.5)
    assert all(tensor.isfinite() for tensor in state.values())
    assert torch.equal(disturbed[-1], calm[-1])

"""Mixtures, held to their formulas: means, σ, radius, and the share of points within 3σ."""

import math

import numpy as np
import pytest
from scipy.spatial import KDTree
from scipy.stats import chisquare, ks_2samp

from gradbench.data import mixtures
from gradbench.errors import UsageError

COUNT = 40_000
GAUSSIANS = {"gaussians8": (8, 0.02 / 1.414), "gaussians25": (25, 0.05 / 2.828)}


@pytest.mark.parametrize("kind", GAUSSIANS)
def test_points_scatter_around_their_centres_as_gaussians_do(kind):
    modes, sigma = GAUSSIANS[kind]
    data = mixtures.load(kind, COUNT, 100, 0)
    x, centres = data.arrays["train/x"].astype(float), data.arrays["centres"].astype(float)
    assert centres.shape == (modes, 2)
    assert float(data.arrays["sigma"]) == pytest.approx(sigma, rel=1e-6)
    assert data.arrays["sigma"].shape == ()
    distance, mode = KDTree(centres).query(x)
    # 1 − exp(−9/2): the mass of a plane Gaussian within 3σ, 98.89 %; five standard errors either side
    inside = 1 - math.exp(-4.5)
    assert np.mean(distance < 3 * sigma) == pytest.approx(
        inside, abs=5 * math.sqrt(inside * (1 - inside) / COUNT)
    )
    assert math.sqrt(np.mean(distance**2) / 2) == pytest.approx(sigma, rel=5 / math.sqrt(4 * COUNT))
    assert chisquare(np.bincount(mode, minlength=modes)).pvalue > 1e-3
    for index in range(modes):
        error = 5 * sigma / math.sqrt(np.sum(mode == index))
        np.testing.assert_allclose(x[mode == index].mean(axis=0), centres[index], atol=error)


def test_eight_centres_lie_evenly_on_one_circle():
    centres = mixtures.load("gaussians8", 10, 10, 0).arrays["centres"].astype(float)
    np.testing.assert_allclose(np.hypot(*centres.T), 2 / 1.414, rtol=1e-6)
    angles = np.sort(np.arctan2(centres[:, 1], centres[:, 0]))
    np.testing.assert_allclose(np.diff(angles), math.pi / 4, rtol=1e-5)


def test_twenty_five_centres_form_a_grid_of_the_scaled_spacing():
    centres = mixtures.load("gaussians25", 10, 10, 0).arrays["centres"].astype(float)
    expected = {(a, b) for a in (-4, -2, 0, 2, 4) for b in (-4, -2, 0, 2, 4)}
    assert {tuple(centre) for centre in np.rint(centres * 2.828).astype(int)} == expected
    np.testing.assert_allclose(centres * 2.828, np.rint(centres * 2.828), atol=1e-6)


def test_the_swiss_roll_is_the_one_of_scikit_learn():
    from sklearn.datasets import make_swiss_roll

    ours = mixtures.load("swiss_roll", COUNT, 10, 0).arrays["train/x"]
    theirs = make_swiss_roll(COUNT, noise=0.25, random_state=1)[0][:, [0, 2]] / 7.5
    for mine, other in ((ours[:, 0], theirs[:, 0]), (ours[:, 1], theirs[:, 1])):
        assert ks_2samp(mine, other).pvalue > 1e-3


def test_the_swiss_roll_scatters_around_its_curve_by_its_noise():
    data = mixtures.load("swiss_roll", COUNT, 10, 0)
    x = data.arrays["train/x"].astype(float)
    t = np.linspace(1.2 * math.pi, 4.8 * math.pi, 20_000)
    curve = np.stack([t * np.cos(t), t * np.sin(t)], axis=1) / 7.5
    distance, _ = KDTree(curve).query(x)
    assert math.sqrt(np.mean(distance**2)) == pytest.approx(0.25 / 7.5, rel=0.02)
    low, high = 1.5 * math.pi, 4.5 * math.pi
    squared_radius = (high**3 - low**3) / (3 * (high - low)) + 2 * 0.25**2
    assert np.mean(np.sum(x**2, axis=1)) * 7.5**2 == pytest.approx(squared_radius, rel=0.02)
    assert set(data.arrays) == {"train/x", "test/x"}


@pytest.mark.parametrize("kind", mixtures.KINDS)
def test_a_draw_depends_on_its_seed_alone(kind):
    one, same = mixtures.load(kind, 100, 50, 0), mixtures.load(kind, 100, 50, 0)
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != mixtures.load(kind, 100, 50, 1).fingerprint
    longer = mixtures.load(kind, 200, 50, 0)
    np.testing.assert_array_equal(longer.arrays["test/x"], one.arrays["test/x"])
    assert not np.isin(one.arrays["train/x"], one.arrays["test/x"]).any()


def test_settings_that_make_no_sense_are_answered_in_one_line():
    with pytest.raises(UsageError, match="got 'gaussian8'; did you mean 'gaussians8'"):
        mixtures.load("gaussian8", 10, 10, 0)
    with pytest.raises(UsageError, match=r"data.test must be at least 1 point, got 0; try data.test=4096"):
        mixtures.load("swiss_roll", 10, 0, 0)

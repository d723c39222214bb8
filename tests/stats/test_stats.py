import math
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats
from scipy.stats import mstats

from gradbench.stats import intervals as stats
from gradbench.stats import selection
from gradbench.stats.decisions import joint_confidence

FINITE = st.floats(-1e3, 1e3, allow_nan=False)
SCORES = st.sampled_from([*range(16), np.inf, np.nan])  # sums of them are exact in any order
SIZES = st.integers(1, 6)


@given(st.lists(FINITE, min_size=2, max_size=12))
def test_the_mean_interval_is_scipys_confidence_interval_of_a_t_test(values: list[float]) -> None:
    interval = stats.mean_interval(values)
    half = scipy_stats.sem(values) * scipy_stats.t.ppf(0.975, len(values) - 1)
    assert interval.estimate == pytest.approx(np.mean(values), abs=1e-9)
    assert interval.high - interval.estimate == pytest.approx(half, abs=1e-9)
    assert interval.estimate - interval.low == pytest.approx(half, abs=1e-9)


def test_the_mean_interval_is_what_ttest_1samp_says_of_it() -> None:
    values = np.random.default_rng(0).normal(3, 1, 7)
    theirs = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert stats.mean_interval(values)[1:3] == pytest.approx((theirs.low, theirs.high))


def test_absent_values_do_not_count() -> None:
    assert stats.mean_interval([1.0, np.nan, 3.0, 5.0]) == stats.mean_interval([1.0, 3.0, 5.0])


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    one, none = stats.mean_interval([2.0]), stats.mean_interval([np.nan])
    assert (one.estimate, one.n, one.sign) == (2.0, 1, 0)
    assert math.isnan(one.low)
    assert none.n == 0
    assert math.isnan(none.estimate)


@pytest.mark.parametrize("n", [4, 5, 8, 10, 20])
def test_the_interquartile_mean_is_the_trimmed_mean_of_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    for values in (rng.exponential(size=n), rng.integers(0, 4, n) / 7):
        interval = stats.interquartile_mean(values)
        low, high = mstats.trimmed_mean_ci(values, limits=(0.25, 0.25), alpha=1 - 0.95)
        assert interval == (scipy_stats.trim_mean(values, 0.25), low, high, n)


def test_the_interquartile_mean_ignores_an_outlier_that_moves_the_mean() -> None:
    values = [1.0, 1.1, 0.9, 1.0, 100.0]
    assert stats.interquartile_mean(values).estimate < 1.2 < stats.mean_interval(values).estimate


@pytest.mark.parametrize(
    ("n", "normal", "skewed"), [(3, 0.93, 0.85), (5, 0.93, 0.85), (10, 0.93, 0.87), (20, 0.93, 0.89)]
)
def test_the_t_interval_covers_where_the_bootstrap_does_not(n: int, normal: float, skewed: float) -> None:
    rng = np.random.default_rng(n)
    for draw, truth, least in ((rng.normal, 0.0, normal), (rng.exponential, 1.0, skewed)):
        samples = draw(size=(1200, n))
        ours = [stats.mean_interval(sample) for sample in samples]
        resampled = samples[:, rng.integers(0, n, (300, n))].mean(axis=2)
        low, high = np.percentile(resampled, [2.5, 97.5], axis=1)
        coverage = np.mean([interval.low <= truth <= interval.high for interval in ours])
        assert coverage >= least
        assert coverage > np.mean((low <= truth) & (truth <= high))


@pytest.mark.parametrize("n", [*range(1, 9), 20, 37])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_the_interval_of_a_median_is_scipys_and_needs_six_values(n: int, confidence: float) -> None:
    values = np.random.default_rng(n).lognormal(size=n)
    found = stats.median_interval([*values, np.nan], confidence)
    theirs = scipy_stats.quantile_test(values, q=1.0, p=0.5).confidence_interval(confidence)
    assert found == pytest.approx((np.median(values), theirs.low, theirs.high, n), nan_ok=True)
    assert np.isnan(found.low) == (n < 6 + 2 * (confidence > 0.95))
    assert stats.median_interval([]) == stats.NO_VALUES


def test_pairing_removes_what_seeds_have_in_common() -> None:
    rng = np.random.default_rng(1)
    seeds = rng.normal(0, 10, 8)
    treated, control = seeds + 1 + 0.1 * rng.normal(size=8), seeds + 0.1 * rng.normal(size=8)
    paired = stats.paired_difference(treated, control)
    theirs = scipy_stats.ttest_rel(treated, control).confidence_interval(0.95)
    assert paired[1:3] == pytest.approx((theirs.low, theirs.high))
    assert paired.sign == 1


def test_a_difference_needs_both_of_a_pair() -> None:
    assert stats.paired_difference([1.0, np.nan, 3.0], [0.0, 1.0, np.nan]).n == 1


@given(st.integers(1, 30), st.data())
def test_the_share_interval_solves_wilsons_equation(n: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, n))
    share = stats.share_interval(count, n)
    z = scipy_stats.norm.ppf(0.975)
    for end in (share.low, share.high):
        assert (share.estimate - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / n, abs=1e-9)
    assert -1e-12 <= share.low <= share.estimate + 1e-12 <= share.high + 2e-12 <= 1 + 1e-11
    assert share.high > share.low


@given(st.integers(1, 30), st.data())
def test_the_share_interval_is_scipys(n: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, n))
    theirs = scipy_stats.binomtest(count, n).proportion_ci(0.95, method="wilson")
    assert stats.share_interval(count, n)[1:3] == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_newcombes_interval_gives_his_published_example() -> None:
    # Newcombe (1998), table II, example (a): 56/70 against 48/80, method 10.
    difference = stats.share_difference(56, 70, 48, 80)
    assert difference[:3] == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_with_three_seeds_only_all_against_none_decides() -> None:
    signs = {(a, b): stats.share_difference(a, 3, b, 3).sign for a in range(4) for b in range(4)}
    assert {pair for pair, sign in signs.items() if sign} == {(0, 3), (3, 0)}


@pytest.mark.parametrize("n", [3, 5, 10])
def test_equal_divergence_rates_are_rarely_called_different(n: int) -> None:
    for rate in np.linspace(0.05, 0.95, 19):
        weights = scipy_stats.binom.pmf(range(n + 1), n, rate)
        wrong = sum(
            weights[a] * weights[b]
            for a in range(n + 1)
            for b in range(n + 1)
            if stats.share_difference(a, n, b, n).sign
        )
        assert wrong <= 0.0625


def test_fewer_diverged_cells_beat_a_better_mean() -> None:
    assert selection.choose_setting([[0.1, 0.1, np.inf], [5.0, 5.0, 5.0]]) == 1


def test_absent_cells_are_not_diverged_ones() -> None:
    assert selection.choose_setting([[0.1, np.nan, 0.1], [0.2, 0.2, 0.2]]) == 0
    assert selection.choose_setting([[np.nan, np.nan]]) == -1


@given(arrays(np.float64, SIZES, elements=SCORES), arrays(np.float64, SIZES, elements=SCORES))
def test_the_probability_of_improvement_is_the_share_of_all_pairs(
    treated: np.ndarray[Any, Any], control: np.ndarray[Any, Any]
) -> None:
    pairs = [(x < y) + 0.5 * (x == y) for x in treated for y in control if not np.isnan(x + y)]
    found = stats.probability_of_improvement(treated, control).estimate
    assert found == np.mean(pairs) if pairs else np.isnan(found)


@pytest.mark.parametrize(
    "work", [joint_confidence, lambda table: stats.probability_of_improvement(table[0], table[1])]
)
def test_no_pairs_of_seeds_are_held_or_gone_through(work: Callable[[object], object]) -> None:
    """Memory grows with the seeds and not with their square, and no seed takes a pass over the others."""
    calls, costs = 0, []

    def profile(_: object, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    for seeds in (2, 1000, 4000):  # the first imports
        table, calls = np.random.default_rng(5).normal(size=(4, seeds)), 0
        tracemalloc.start()
        sys.setprofile(profile)
        try:
            work(table)
        finally:
            sys.setprofile(None)
            costs.append((tracemalloc.get_traced_memory()[1], calls))
            tracemalloc.stop()
    assert costs[2][0] < 5 * costs[1][0]
    assert costs[2][1] < 2 * costs[1][1]

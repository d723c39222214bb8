"""The one rule that decides "better": intervals that hold together, equality, rankings, and the seeds that decide."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from gradbench.stats.decisions import (
    BETTER,
    EQUAL,
    LEAVE_ALONE,
    NO_BETTER,
    UNDECIDED,
    WORSE,
    compare_settings,
    expected_best,
    joint_confidence,
    paired_interval,
    probability_best,
    rank_arms,
    seeds_to_decide,
)
from gradbench.stats.intervals import share_difference

TABLES = arrays(np.float64, (5, 6), elements=st.floats(-3, 3).map(lambda x: round(x, 3)))
ARMS = [0, 1, 1, 2, 2]


def drawn(settings_, seeds, seed=0):
    """Draw scores with a level of each seed, as paired cells have."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(seeds) + rng.standard_normal((settings_, seeds)) / np.sqrt(2)


# ---- joint intervals -----------------------------------------------------------------------------------


def test_a_single_comparison_is_the_paired_t_test_of_scipy():
    treated, control = drawn(2, 7)
    (found,) = compare_settings(treated, control)
    theirs = stats.ttest_rel(control, treated)
    interval = theirs.confidence_interval(0.95)
    assert (found.gain.low, found.gain.high) == pytest.approx((interval.low, interval.high))
    assert found.gain.estimate == pytest.approx((control - treated).mean())
    one_sided = theirs.confidence_interval(0.9)
    assert (found.floor, found.ceiling) == pytest.approx((one_sided.low, one_sided.high))


def test_joint_confidence_lies_between_one_comparison_and_bonferronis():
    many = np.random.default_rng(0).standard_normal((20, 200))
    independent = joint_confidence(many)
    assert independent == pytest.approx(0.95 ** (1 / 20), abs=5e-4)  # Šidák's, of independent comparisons
    alike = joint_confidence(np.repeat(many[:1], 20, axis=0))
    assert 0.95 < alike < 0.975 < independent < 1 - 0.05 / 20 + 1e-3
    assert joint_confidence(many[:1]) == 0.95
    assert joint_confidence(many) == independent, "the same differences give the same number"


def test_two_correlated_means_have_the_joint_confidence_of_the_bivariate_t_distribution():
    correlation = 0.5
    rng = np.random.default_rng(3)
    rows = rng.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], 400).T
    seen = np.corrcoef(rows)[0, 1] * (1 - 1 / 399)
    level = joint_confidence(rows)
    edge = stats.norm.ppf((1 + level) / 2)
    box = stats.multivariate_normal([0, 0], [[1, seen], [seen, 1]])
    assert box.cdf([edge, edge], lower_limit=[-edge, -edge]) == pytest.approx(0.95, abs=4e-3)


@pytest.mark.slow
def test_intervals_of_settings_without_effect_hold_together_in_95_percent_of_experiments():
    count, held = 400, 0
    for seed in range(count):
        scores = drawn(13, 6, seed)
        found = compare_settings(scores[1:], scores[0])
        held += all(one.gain.low <= 0 <= one.gain.high for one in found)
    assert held / count > 0.95 - 3 * np.sqrt(0.05 * 0.95 / count)


def test_more_settings_make_intervals_wider_and_absent_cells_do_not_count():
    scores = drawn(9, 8)
    alone = compare_settings(scores[1], scores[0])[0].gain
    together = compare_settings(scores[1:], scores[0])[0].gain
    assert together.low < alone.low
    assert together.high > alone.high
    padded = np.vstack([scores[1:], np.full((3, 8), np.nan)])
    assert compare_settings(padded, scores[0])[0].gain == together
    assert compare_settings(padded, scores[0])[-1].gain.n == 0


@pytest.mark.parametrize("n", [2, 5, 6, 9])
def test_gains_that_all_agree_have_an_interval_only_if_a_sign_test_is_significant(n):
    found = paired_interval(np.full(n, 0.5))
    assert found.estimate == 0.5
    assert np.isnan(found.low) == (stats.binomtest(n, n).pvalue > 0.05)


# ---- diverged cells ------------------------------------------------------------------------------------


def test_diverged_cells_count_in_shares_and_halve_the_error_of_each_question():
    treated, control = drawn(2, 8)
    control[:3] = np.inf
    (found,) = compare_settings(treated, control)
    assert (found.lost, found.present) == ((0, 3), (8, 8))
    theirs = stats.ttest_rel(control[3:], treated[3:]).confidence_interval(0.975)
    assert (found.gain.low, found.gain.high, found.gain.n) == pytest.approx((theirs.low, theirs.high, 5))
    assert found.lost_gain == share_difference(3, 8, 0, 8, confidence=0.975)


def test_a_control_that_always_diverges_is_beaten_and_a_treatment_that_does_is_worse():
    lost, fine = np.full(8, np.inf), drawn(1, 8)[0]
    assert rank_arms([lost, fine], [0, 1], 0).verdict == BETTER
    assert rank_arms([fine, lost], [0, 1], 0).verdict == WORSE
    assert rank_arms([lost, lost], [0, 1], 0).verdict == UNDECIDED


def test_metric_and_losses_that_contradict_each_other_decide_nothing():
    rng = np.random.default_rng(0)
    control = rng.standard_normal(40) * 0.1
    treated = control - 1 + rng.standard_normal(40) * 0.1
    treated[:20] = np.inf
    (found,) = compare_settings(treated, control)
    assert (found.gain.sign, found.lost_gain.sign, found.sign) == (1, -1, 0)


# ---- equality ------------------------------------------------------------------------------------------


@given(st.integers(3, 12), st.floats(-0.4, 0.4), st.integers(0, 10_000))
def test_one_setting_is_equal_where_two_one_sided_tests_say_so(n, shift, seed):
    rng = np.random.default_rng(seed)
    control = rng.standard_normal(n)
    treated = control + shift + 0.3 * rng.standard_normal(n)
    gains = control - treated
    below = stats.ttest_1samp(gains, 0.3, alternative="less").pvalue
    above = stats.ttest_1samp(gains, -0.3, alternative="greater").pvalue
    verdict = rank_arms([control, treated], [0, 1], 0, (-0.3, 0.3)).verdict
    assert (verdict == EQUAL) == (max(below, above) < 0.05)
    worse = stats.ttest_1samp(gains, 0.0).pvalue < 0.05 and gains.mean() < 0
    assert (verdict == NO_BETTER) == (below < 0.05 <= above and not worse)


def test_a_treatment_is_equal_only_if_none_of_its_strengths_may_be_better_by_more_than_the_margin():
    rng = np.random.default_rng(0)
    control = rng.standard_normal(8)
    same = control + 0.01 * rng.standard_normal(8)
    wild = control + 3.0 * rng.standard_normal(8)
    worse = control + 2 + 0.01 * rng.standard_normal(8)
    margins = (-0.1, 0.1)
    assert rank_arms([control, same, worse], [0, 1, 1], 0, margins).verdict == EQUAL
    assert rank_arms([control, same, wild], [0, 1, 1], 0, margins).verdict == UNDECIDED
    assert rank_arms([control, worse], [0, 1], 0, margins).verdict == WORSE
    assert rank_arms([control, same], [0, 1], 0, None).verdict != EQUAL


def test_treatments_are_no_better_if_none_may_be_better_by_more_than_the_margin_and_what_else_they_are_is_open():
    rng = np.random.default_rng(0)
    control = rng.standard_normal(8)
    noise = rng.standard_normal(8)
    noise -= noise.mean()
    open_ = control + 0.6 + noise  # gains of -0.6, with a standard error of about 0.35
    worse = control + 2 + 0.01 * rng.standard_normal(8)
    same = control + 0.01 * rng.standard_normal(8)
    wild = control + 3 * noise
    margins = (-0.2, 0.2)
    assert rank_arms([control, open_], [0, 1], 0, margins).verdict == NO_BETTER
    assert rank_arms([control, open_, worse], [0, 1, 2], 0, margins).verdict == NO_BETTER
    assert rank_arms([control, open_, worse], [0, 1, 1], 0, margins).verdict == NO_BETTER
    assert rank_arms([control, open_, same], [0, 1, 2], 0, margins).verdict == EQUAL
    assert rank_arms([control, open_, wild], [0, 1, 2], 0, margins).verdict == UNDECIDED
    assert rank_arms([control, open_], [0, 1], 0, None).verdict == UNDECIDED


def test_of_treatments_that_are_better_by_the_margin_one_in_twenty_at_most_is_called_no_better():
    rng = np.random.default_rng(0)
    left, draws = 0, 150
    for _ in range(draws):
        control = rng.standard_normal(8)
        better = control - 0.3 + 0.3 * rng.standard_normal((2, 8))
        left += rank_arms([control, *better], [0, 1, 1], 0, (-0.3, 0.3)).verdict in LEAVE_ALONE
    assert left <= 0.05 * draws + 2 * (draws * 0.05 * 0.95) ** 0.5


def test_what_is_better_by_less_than_the_margin_is_equal():
    rng = np.random.default_rng(0)
    control = rng.standard_normal(10)
    treated = control - 0.05 + 0.01 * rng.standard_normal(10)
    assert rank_arms([control, treated], [0, 1], 0).verdict == BETTER
    assert rank_arms([control, treated], [0, 1], 0, (-0.1, 0.1)).verdict == EQUAL


# ---- rankings ------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(TABLES, st.permutations(range(5)))
def test_a_ranking_does_not_depend_on_the_order_of_the_settings(table, order):
    one, other = rank_arms(table, ARMS, 0), rank_arms(table[order], [ARMS[place] for place in order], 0)
    if len(set(table.mean(axis=1).round(6))) < 5:
        return  # ties are broken by the order
    assert [c.arm for c in one.contenders] == [c.arm for c in other.contenders]
    assert [c.setting for c in one.contenders] == [order[c.setting] for c in other.contenders]
    for mine, yours in zip(one.contenders, other.contenders, strict=True):
        assert mine.probability_best == pytest.approx(yours.probability_best)


@settings(max_examples=30, deadline=None)
@given(TABLES, st.floats(-5, 5))
def test_a_ranking_depends_only_on_differences_between_paired_cells(table, shift):
    moved = table + shift + np.arange(6)
    verdicts = [[c.verdict for c in rank_arms(scores, ARMS, 0).contenders] for scores in (table, moved)]
    assert sorted(verdicts[0]) == sorted(verdicts[1])


def test_fewest_diverged_cells_come_first_then_the_best_mean():
    scores = np.array([[3.0] * 6, [1.0] * 5 + [np.inf], [2.0] * 6, [4.0] * 6]) + drawn(4, 6) * 1e-3
    assert [c.arm for c in rank_arms(scores, [0, 1, 2, 3], 0).contenders] == [2, 0, 3, 1]


def test_settings_that_are_not_shown_to_be_worse_are_as_good():
    scores = drawn(5, 8) * 0.1 + np.array([[5], [0.0], [0.01], [3], [0]])
    found = rank_arms(scores, [0, 1, 1, 1, 2], 0)
    assert set(found.as_good) == {1, 2} or set(found.as_good) == {4}
    (none,) = (c for c in found.contenders if c.arm == 0)
    assert none.behind_first.low > 0
    assert none.against_control is None
    assert none.verdict == ""


def test_a_control_with_several_settings_must_be_beaten_at_its_best():
    rng = np.random.default_rng(0)
    base = rng.standard_normal(10)
    noise = 0.05 * rng.standard_normal((3, 10))
    bad_control, good_control, treated = base + 5 + noise[0], base + noise[1], base + 0.5 + noise[2]
    assert rank_arms([bad_control, treated], [0, 1], 0).verdict == BETTER
    assert rank_arms([bad_control, good_control, treated], [0, 0, 1], 0).verdict == WORSE


def test_the_probability_of_being_best_is_shared_by_equals_and_sure_of_winners():
    scores = drawn(2, 6)
    assert probability_best([scores[0], scores[0]], [0, 1]) == {0: 0.5, 1: 0.5}
    assert probability_best([scores[0], scores[0] - 1], [0, 1]) == {0: 0.0, 1: 1.0}
    assert probability_best([scores[0], np.full(6, np.inf)], [0, 1]) == {0: 1.0, 1: 0.0}


def test_the_mean_that_decides_who_is_best_varies_as_between_samples():
    gains = np.random.default_rng(5).standard_normal(9)
    chance = probability_best([np.zeros(9), gains], [0, 1], draws=20_000)[1]
    error = gains.std(ddof=1) / 3
    assert chance == pytest.approx(stats.norm.cdf(-gains.mean() / error), abs=0.04)


# ---- budgets and seeds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tries", [1, 2, 3, 5])
def test_the_expected_best_of_some_tries_is_the_mean_over_all_ways_to_draw_them(tries):
    from itertools import combinations

    scores = [3.0, 1.0, 4.0, 1.5, 9.0]
    theirs = np.mean([min(some) for some in combinations(scores, tries)])
    assert expected_best(scores, tries) == pytest.approx(theirs)


def test_the_seeds_that_decide_give_the_power_that_is_promised():
    rng = np.random.default_rng(0)
    gains = rng.standard_normal(20) + 0.8
    n = seeds_to_decide(-gains[None], np.zeros(20), None)
    size, spread = gains.mean(), gains.std(ddof=1)
    t = stats.t.ppf(0.975, n - 1)
    power = stats.nct.sf(t, n - 1, np.sqrt(n) * size / spread)
    assert power == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize(("gain", "margins"), [(0.0, (-0.1, 0.1)), (0.5, None)])
def test_differences_that_all_agree_are_decided_at_the_number_of_seeds_that_is_said(gain, margins):
    def verdict(seeds):
        scores = np.zeros((2, seeds))
        scores[1] -= gain
        return rank_arms(scores, [0, 1], 0, margins).verdict

    n = seeds_to_decide(np.full((1, 3), -gain), np.zeros(3), margins)
    assert verdict(n) == (BETTER if gain else EQUAL)
    assert verdict(n - 1) == UNDECIDED


def test_the_seeds_that_show_all_treatments_to_be_worse_decide_too():
    rng = np.random.default_rng(0)
    scores = rng.normal([[1.0], [2.0]], 1.0, (2, 8))
    n = seeds_to_decide(scores, np.zeros(8), None)
    assert n == max(seeds_to_decide(-row[None], np.zeros(8), None, confidence=0.975) for row in scores)
    more = np.tile(scores, n)
    assert rank_arms([np.zeros(8 * n), *more], [0, 1, 2], 0).verdict == WORSE
    scores[1] -= scores[1].mean()
    assert seeds_to_decide(scores, np.zeros(8), None) is None


def test_equality_may_take_fewer_seeds_than_a_difference():
    rng = np.random.default_rng(0)
    gains = 0.1 * rng.standard_normal(8)
    gains -= gains.mean() - 0.001
    without, within = (seeds_to_decide(-gains[None], np.zeros(8), margins) for margins in (None, (-0.1, 0.1)))
    assert without is None
    assert within is not None
    assert within < 20


def test_seeds_are_counted_for_shares_of_diverged_cells_too():
    scores = np.vstack([np.full(2, 1.0)] * 4)
    n = seeds_to_decide(scores, np.full(2, np.inf), None)
    confidence = 1 - 0.05 / 4
    assert share_difference(n, n, 0, n, confidence=confidence).low > 0
    assert share_difference(n - 1, n - 1, 0, n - 1, confidence=confidence).low <= 0

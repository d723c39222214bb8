"""The scales of metrics: there and back, within the metric's range, and changes as people read them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from gradbench.stats.intervals import Interval, mean_interval
from gradbench.stats.scales import Scale

SHARES = st.integers(0, 50).map(lambda count: count / 50)


@given(st.floats(1e-30, 1e30))
def test_the_way_back_from_logarithms_leads_to_the_value(value):
    assert Scale("log").back(Scale("log").forward(value)) == pytest.approx(value)


@given(SHARES)
def test_the_way_back_from_log_odds_leads_to_the_share_0_and_1_included(share):
    scale = Scale("logit", 50)
    assert np.isfinite(scale.forward(share))
    assert scale.back(scale.forward(share)) == pytest.approx(share, abs=1e-12)


def test_a_share_is_smoothed_by_half_an_example_on_each_side():
    # the empirical logit of Haldane (1956) and Anscombe (1956): log((x + 1/2) / (n - x + 1/2))
    assert Scale("logit", 20).forward(17 / 20) == pytest.approx(np.log(17.5 / 3.5))


@pytest.mark.parametrize(("name", "values"), [("log", [0.0, -1.0]), ("logit", [-0.01, 1.01])])
def test_what_is_no_value_of_the_scale_is_absent(name, values):
    assert np.isnan(Scale(name).forward(values)).all()


@given(st.lists(SHARES, min_size=2, max_size=8))
def test_no_interval_of_shares_leaves_their_range(shares):
    scale = Scale("logit", 50)
    found = scale.interval(mean_interval(scale.forward(shares)))
    assert 0 <= found.low <= found.estimate <= found.high <= 1


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=8))
def test_no_interval_of_positive_numbers_leaves_their_range(values):
    scale = Scale("log")
    found = scale.interval(mean_interval(scale.forward(values)))
    assert 0 <= found.low <= found.estimate <= found.high
    assert found.estimate == pytest.approx(np.exp(np.mean(np.log(values))))


def test_a_change_on_each_scale_is_what_people_read():
    difference = Interval(np.log(0.8), np.log(0.5), np.log(2), 5)
    assert Scale("log").change(difference, 7.0)[:3] == pytest.approx((-0.2, -0.5, 1.0))
    assert Scale().change(difference, 7.0) == difference
    scale = Scale("logit", 100)
    level = 0.9
    odds = special.logit((level * 100 + 0.5) / 101) + np.log(2)
    changed = scale.change(Interval(np.log(2), np.log(2), np.log(2), 5), level)
    assert level + changed.estimate == pytest.approx((special.expit(odds) * 101 - 0.5) / 100)


@given(SHARES, st.floats(-50, 50))
def test_no_change_of_a_share_leads_out_of_its_range(level, size):
    changed = Scale("logit", 50).change(Interval(size, size, size, 3), level)
    assert -1e-9 <= level + changed.estimate <= 1 + 1e-9


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("name", "level", "margin"), [("log", 40.0, 0.01), ("logit", 0.9, 0.01), ("linear", -3.0, 0.5)]
)
def test_the_gains_within_a_margin_are_those_whose_change_is(name, level, margin, sign):
    scale = Scale(name)
    low, high = scale.gains_within(margin, level, sign)
    assert low < 0 < high
    ends = [
        scale.change(Interval(-sign * gain, -sign * gain, -sign * gain, 3), level).estimate
        for gain in (low, high)
    ]
    assert sorted(ends) == pytest.approx([-margin, margin])
    assert -sign * ends[0] < 0, "a gain below zero is a change for the worse"


@pytest.mark.parametrize("level", [0.995, 1.0])
def test_a_gain_that_nothing_can_reach_stays_within_a_margin(level):
    scale = Scale("logit", 100)
    low, high = scale.gains_within(0.01, level, -1)
    assert high == np.inf
    assert scale.back(scale.forward(level) + low) == pytest.approx(level - 0.01)


def test_a_perplexity_and_its_changes_end_at_1():
    scale = Scale("log", least=1.0)
    far = Interval(np.log(80), np.log(0.1), np.log(1e5), 2)
    assert scale.interval(far) == pytest.approx((80, 1, 1e5, 2))
    assert 80 * (1 + scale.change(Interval(-1, -9, 0, 3), 80).low) == pytest.approx(1)

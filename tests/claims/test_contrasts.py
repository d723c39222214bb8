"""Intervals of claims: those of values that all agree, and those of several comparisons together."""

from dataclasses import replace

import numpy as np
import pytest
from claimed import CONTRAST, INTERIOR, SHIFT, claim, decided, experiment, row
from scipy.stats import binomtest

from gradbench.claims.contrasts import Contrast, decide_contrast
from gradbench.claims.judge import TESTS
from gradbench.claims.trends import fit_slopes


@pytest.mark.parametrize("value", [0.0, 2.0])
@pytest.mark.parametrize(("confidence", "enough"), [(0.95, 6), (0.975, 7), (1 - 0.05 / 4, 8)])
def test_values_that_all_agree_decide_only_where_a_sign_test_would(
    value: float, confidence: float, enough: int
) -> None:
    for n in range(2, 12):
        found = Contrast(claim(CONTRAST, above=1), row([8.0 + value] * n), row([8.0] * n), confidence)
        sure = binomtest(n, n).pvalue <= 1 - confidence
        assert sure == (n >= enough)
        assert decide_contrast(found) == (
            ("supported" if value > 1 else "contradicted") if sure else "undecided"
        )


def test_values_that_agree_to_within_rounding_agree() -> None:
    control = [0.1 * step for step in range(1, 5)]
    found = Contrast(claim(CONTRAST), row([value + 0.3 for value in control]), row(control), 0.95)
    assert np.ptp(found.differences) > 0
    assert np.isnan(found.effect.low)
    assert decide_contrast(found) == "undecided"


COUNTS = {
    "at even odds": lambda rng, shape: 2 * rng.integers(0, 2, shape),
    "seldom one less": lambda rng, shape: rng.binomial(8, 0.99, shape),
    "often one less": lambda rng, shape: rng.binomial(8, 0.9, shape),
    "all the same": lambda rng, shape: np.full(shape, 8),
}


@pytest.mark.parametrize("n", [2, 3, 4, 6, 8, 12])
@pytest.mark.parametrize("kind", COUNTS)
def test_counts_that_tie_are_called_neither_more_nor_fewer_in_more_than_5_percent(kind: str, n: int) -> None:
    rng = np.random.default_rng(n)
    sides = COUNTS[kind](rng, (2, 500, n)).astype(float)
    for one in (claim(CONTRAST), claim(CONTRAST, above=None, below=0.0)):
        verdicts = [decided(one, row(treated), row(control)) for treated, control in zip(*sides, strict=True)]
        assert verdicts.count("supported") <= 25
        assert verdicts.count("contradicted") <= 25


@pytest.mark.parametrize("n", [2, 3, 4, 6, 8, 12])
def test_an_effect_of_one_of_two_values_is_not_called_larger_than_its_mean(n: int) -> None:
    treated = 2.0 * np.random.default_rng(n).integers(0, 2, (500, n))
    verdicts = [decided(claim(CONTRAST, above=1), row(values), row([0.0] * n)) for values in treated]
    assert verdicts.count("supported") <= 25
    assert verdicts.count("contradicted") <= 25


@pytest.mark.parametrize("n", [3, 8])
def test_best_values_that_never_move_decide_only_where_there_are_enough(n: int) -> None:
    rng, effect = np.random.default_rng(0), lambda t, _x: -50.0 * abs(np.log10(t) - 1)
    one = claim(SHIFT, above=None, apart=0.1)
    found = TESTS["shift"](one, experiment(rng, one, effect, seeds=n, places=(0.01, 0.1, 1.0)))
    assert found.verdict == ("contradicted" if n == 8 else "undecided")
    assert any("agree" in note for note in found.notes) == (n == 3)


def test_intervals_are_corrected_for_all_comparisons_of_a_claim() -> None:
    rng, one = np.random.default_rng(1), claim(INTERIOR)
    whole = experiment(rng, one)
    least, greatest = (contrast for _, contrast in TESTS["interior"](one, whole).contrasts)
    assert least.interval_confidence == greatest.interval_confidence == pytest.approx(1 - 0.05 / 2)
    third = replace(whole, confidence=1 - 0.05 / 3)
    assert TESTS["interior"](one, third).contrasts[0][1].interval_confidence == pytest.approx(1 - 0.05 / 6)
    lost = Contrast(one, row([1.0, 2.0, 3.0], [True, False, False]), row([1.0, 2.0, 3.0]), 1 - 0.05 / 3)
    assert lost.interval_confidence == pytest.approx(1 - 0.05 / 6)


def test_all_intervals_of_a_claim_cover_together_at_the_nominal_rate() -> None:
    rng, one, conditions = np.random.default_rng(2), claim(INTERIOR), 3
    covered = []
    for _ in range(500):
        drawn = [experiment(rng, one, lambda t, _x: 4.0 * (t in (1.0, 10.0))) for _ in range(conditions)]
        found = [TESTS["interior"](one, replace(part, confidence=1 - 0.05 / conditions)) for part in drawn]
        effects = [contrast.effect for finding in found for _, contrast in finding.contrasts]
        assert len(effects) == 2 * conditions
        covered.append(all(effect.low <= 4.0 <= effect.high for effect in effects))
    assert np.mean(covered) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 500)


@pytest.mark.parametrize("effect", [-1.0, 0.1, 1 / 3])
def test_effects_that_are_alike_everywhere_have_no_slope(effect: float) -> None:
    places = np.log10([10.0, 20.0, 30.0])
    np.testing.assert_array_equal(fit_slopes(places, np.full((3, 8), effect)), 0.0)
    rising = np.random.default_rng(0).normal(size=(3, 8))
    expected = [np.polyfit(places, column, 1)[0] for column in rising.T]
    np.testing.assert_allclose(fit_slopes(places, rising), expected)

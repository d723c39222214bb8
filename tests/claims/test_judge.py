"""Verdicts on tables whose truth is known: how often they are wrong, and that losses, choices and conditions count."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from claimed import CONTRAST, INTERIOR, SHIFT, TREND, claim, decided, experiment, row

from gradbench.claims.contrasts import Contrast
from gradbench.claims.judge import TESTS, combine_verdicts
from gradbench.claims.schema import Claim


def verdict(rng: np.random.Generator, one: Claim, conditions: int = 1, **settings: Any) -> str:
    confidence = 1 - 0.05 / conditions
    drawn = [replace(experiment(rng, one, **settings), confidence=confidence) for _ in range(conditions)]
    return combine_verdicts(one, [TESTS[one.test](one, part).verdict for part in drawn])


DIVERGED = claim(CONTRAST, metric="diverged", goal="min", below=0.0, above=None)

NOTHING: dict[str, tuple[Claim, dict[str, Any]]] = {
    "contrast, a threshold chosen among four": (claim(CONTRAST), {}),
    "contrast, both sides chosen among several": (claim(CONTRAST), {"of_control": 3, "seeds": 8}),
    "contrast, no choice, few seeds": (claim(CONTRAST), {"thresholds": (1.0,), "seeds": 4}),
    "contrast, half of all cells diverge": (claim(CONTRAST), {"lost": 0.5}),
    "contrast, half diverge, no choice": (claim(CONTRAST), {"lost": 0.5, "thresholds": (1.0,)}),
    "contrast, half diverge, five seeds": (claim(CONTRAST), {"lost": 0.5, "thresholds": (1.0,), "seeds": 5}),
    "contrast, a few cells diverge": (claim(CONTRAST), {"lost": 0.15}),
    "contrast, the smallest effect that matters": (claim(CONTRAST, above=0.5), {"effect": lambda *_: 0.5}),
    "contrast, of diverged shares": (DIVERGED, {"lost": 0.4, "thresholds": (1.0,)}),
    "contrast, of rare divergence, chosen": (DIVERGED, {"lost": 0.1, "seeds": 8}),
    "contrast, any of three conditions": (claim(CONTRAST, combine="any"), {"conditions": 3}),
    "contrast, any of three, cells diverge": (claim(CONTRAST, combine="any"), {"conditions": 3, "lost": 0.3}),
    "contrast, each of two conditions": (claim(CONTRAST), {"conditions": 2}),
    "trend, thresholds chosen at each place": (claim(TREND), {"places": (10.0, 30.0, 100.0)}),
    "trend, of an effect that is the same everywhere": (
        claim(TREND),
        {"places": (10.0, 30.0, 100.0), "effect": lambda *_: 2.0, "thresholds": (1.0,)},
    ),
    "trend, cells diverge": (claim(TREND), {"places": (10.0, 30.0, 100.0), "lost": 0.3}),
    "interior, nothing matters": (claim(INTERIOR), {}),
    "interior, cells diverge": (claim(INTERIOR), {"lost": 0.3}),
    "interior, the greatest is as good": (claim(INTERIOR), {"effect": lambda t, _x: 3.0 * (t > 0.1)}),
    "interior, the best is the least": (claim(INTERIOR), {"effect": lambda t, _x: -np.log10(t)}),
    "shift, nothing matters": (claim(SHIFT), {"places": (0.01, 0.1, 1.0)}),
    "shift, either way": (claim(SHIFT, above=None, apart=0.1), {"places": (0.01, 0.1, 1.0)}),
    "shift, the best stays where it is": (
        claim(SHIFT),
        {"places": (0.01, 0.1, 1.0), "effect": lambda t, _x: -2.0 * abs(np.log10(t) - 1)},
    ),
}


@pytest.mark.parametrize("case", NOTHING)
def test_where_there_is_no_effect_a_claim_is_supported_in_at_most_5_percent_of_500_experiments(
    case: str,
) -> None:
    one, settings = NOTHING[case]
    rng = np.random.default_rng(list(NOTHING).index(case))
    supported = sum(verdict(rng, one, **settings) == "supported" for _ in range(500))
    assert supported <= 25


@pytest.mark.parametrize(
    ("one", "settings", "truth"),
    [
        (claim(CONTRAST), {"effect": lambda t, _x: 1.0}, 1.0),
        (claim(CONTRAST), {"effect": lambda t, _x: 1.0, "of_control": 4, "seeds": 20}, 1.0),
        (claim(CONTRAST), {"effect": lambda t, _x: 1.0, "thresholds": (1.0,), "seeds": 5}, 1.0),
        (
            claim(TREND),
            {"effect": lambda _t, x: 2 * np.log10(x), "places": (10.0, 100.0, 1000.0), "seeds": 6},
            2.0,
        ),
        (
            claim(SHIFT),
            {"effect": lambda t, x: -9 * abs(np.log10(t) + np.log10(x) - 1), "places": (0.1, 1.0, 10.0)},
            -1.0,
        ),
    ],
)
def test_the_interval_covers_a_known_effect_at_its_nominal_rate(
    one: Claim, settings: dict[str, Any], truth: float
) -> None:
    rng = np.random.default_rng(5)
    found = [TESTS[one.test](one, experiment(rng, one, **settings)).effect for _ in range(500)]
    covered = np.mean([effect.low <= truth <= effect.high for effect in found])
    assert covered >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 500)


@pytest.mark.parametrize(
    ("one", "settings"),
    [
        (claim(CONTRAST, above=0.5), {"effect": lambda t, _x: 3.0 * (t == 1.0)}),
        (claim(CONTRAST, combine="any"), {"effect": lambda t, _x: 3.0, "conditions": 4}),
        (claim(TREND), {"effect": lambda _t, x: 2 * np.log10(x), "places": (10.0, 100.0, 1000.0)}),
        (claim(INTERIOR), {"effect": lambda t, _x: 4.0 * (t in (1.0, 10.0))}),
        (claim(SHIFT, above=None, below=-0.5), {
            "effect": lambda t, x: -9 * abs(np.log10(t) + np.log10(x) - 1), "places": (0.1, 1.0, 10.0)
        }),
    ],
)  # fmt: skip
def test_a_large_effect_is_found_and_its_opposite_contradicts(one: Claim, settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(6)
    assert np.mean([verdict(rng, one, **settings) == "supported" for _ in range(50)]) > 0.9
    turned = (
        replace(one, above=None, below=-one.smallest_effect)
        if one.sign > 0
        else replace(one, above=0.5, below=None)
    )
    assert np.mean([verdict(rng, turned, **settings) == "contradicted" for _ in range(50)]) > 0.8


def test_a_control_that_always_diverges_loses_to_any_value() -> None:
    bad, gone = row([0.1] * 6), row([0.0] * 6, [True] * 6)
    assert decided(claim(CONTRAST), bad, gone) == "supported"
    assert decided(claim(CONTRAST), gone, bad) == "contradicted"
    assert decided(claim(CONTRAST), gone, gone) == "undecided"


def test_a_treatment_that_diverges_supports_the_claim_that_it_harms() -> None:
    harm = claim(CONTRAST, above=None, below=0.0)
    assert decided(harm, row([0.0] * 6, [True] * 6), row([0.9] * 6)) == "supported"


def test_survivors_of_a_control_that_diverges_do_not_contradict() -> None:
    values = [0.5, 0.6, 0.7, 0.8, 0.9, 0.5, 0.6, 0.7]
    treated, control = row(values), row(values, [True, True, True, *[False] * 5])
    assert decided(claim(CONTRAST, above=0.1), treated, row(values)) == "contradicted"
    assert decided(claim(CONTRAST, above=0.1), treated, control) == "undecided"


def test_losses_and_values_that_disagree_decide_nothing() -> None:
    worse = [0.1 + 0.01 * step for step in range(12)]
    better = [value + 0.5 + 0.01 * (step % 3) for step, value in enumerate(worse)]
    gone = [True] * 8 + [False] * 4
    assert decided(claim(CONTRAST), row(worse), row(better, gone)) == "undecided"


def test_a_diverged_cell_counts_in_the_probability_of_improvement() -> None:
    found = Contrast(claim(CONTRAST), row([0.9] * 4, [False, False, True, True]), row([0.5] * 4), 0.95)
    assert found.improvement.estimate == 0.5


def test_a_ratio_is_a_mean_of_logarithms() -> None:
    one = claim(CONTRAST, effect="ratio", above=1.5)
    found = Contrast(one, row([2.0, 8.0, 4.0]), row([1.0, 2.0, 2.0]), 0.95)
    assert found.effect.estimate == pytest.approx(16 ** (1 / 3))


def test_conditions_are_combined_as_the_claim_says() -> None:
    each, any_of = claim(CONTRAST), claim(CONTRAST, combine="any")
    mixed = ["supported", "undecided", "contradicted"]
    assert combine_verdicts(each, mixed) == "contradicted"
    assert combine_verdicts(any_of, mixed) == "supported"
    assert combine_verdicts(each, mixed[:2]) == combine_verdicts(any_of, mixed[1:]) == "undecided"
    assert combine_verdicts(any_of, mixed[2:]) == "contradicted"

"""From tables to verdicts: what is tuned and what only follows, what a diverged cell says, data sets as replicates."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from gradbench.claims.conditions import ConditionResult
from gradbench.claims.judge import TESTS, ClaimJudgement, judge_claim, split_by_condition
from gradbench.claims.metrics import Evidence
from gradbench.claims.samples import Side
from gradbench.claims.schema import Claim, parse_claims

PLACES = {"plane": 2, "wine": 13, "digits": 64}
LOADERS = {"plane": "mixtures.load", "wine": "tables.load", "digits": "images.load"}
CONTRAST: dict[str, Any] = {
    "id": "1",
    "sentence": "a penalty costs time",
    "metric": "test/loss",
    "goal": "min",
    "above": 1.0,
    "effect": "ratio",
    "treatment": {"regularizer": "gp"},
    "control": {"regularizer": "none"},
}
TREND = CONTRAST | {"test": "trend", "along": "data", "places": PLACES}
POOL = CONTRAST | {"pool": "data"}
EXPERIMENTS = 500


def claim(written: Mapping[str, Any], **changes: Any) -> Claim:
    keys = {key: value for key, value in {**written, **changes}.items() if value is not None}
    return parse_claims({"claims": [keys]}, "here")[0]


def crossed(**axes: Sequence[Any]) -> pd.DataFrame:
    """Return completed cells, one for each combination of regularizer, data and whatever else is given."""
    axes = {"regularizer": ["none", "gp"], **axes}
    cells = pd.MultiIndex.from_product(axes.values(), names=list(axes)).to_frame(index=False)
    names = [f"{number:016x}" for number in range(len(cells))]
    fixed = {"status": "completed", "model.metric": "test/loss", "model.goal": "min"}
    return cells.assign(cell=names, **fixed)


def noise(rng: np.random.Generator, cells: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return for each cell a number of its own, and one that cells of the same seed and data share."""
    shared = cells.groupby([key for key in ("experiment", "data", "seed") if key in cells]).ngroup()
    return rng.normal(size=int(shared.max()) + 1)[shared] + rng.normal(size=len(cells))


def with_followers(cells: pd.DataFrame) -> pd.DataFrame:
    """Add the keys that a config has of its data beside the name, ahead of all others."""
    source = cells["data"].where(cells["data"] != "plane")  # the plane is generated and has none
    cells.insert(0, "data._target_", cells["data"].map(LOADERS))
    cells.insert(0, "data.source", source)
    cells.insert(0, "data.features", cells["data"].map(PLACES))
    return cells


KEYS = ("data.features", "data.source", "data._target_", "data", "regularizer", "regularizer.lambda", "seed")


def judged(one: Claim, cells: pd.DataFrame, curves: pd.DataFrame | None = None) -> ClaimJudgement:
    curves = pd.DataFrame({"cell": [], "step": []}) if curves is None else curves
    return judge_claim(one, Evidence(cells, curves, [key for key in KEYS if key in cells]))


@pytest.mark.parametrize("written", [POOL, TREND], ids=["pool: data", "along: data"])
def test_keys_that_only_follow_from_the_datas_name_are_not_tuned(written: Mapping[str, Any]) -> None:
    plain = crossed(data=list(PLACES), seed=range(6))
    times = plain["data"].map(PLACES) ** np.where(plain["regularizer"] == "gp", 2.0, 1.0)
    rng = np.random.default_rng(0)
    plain["test/loss"] = times * np.exp(0.01 * noise(rng, plain))
    (alone,) = judged(claim(written), plain).results
    (found,) = judged(claim(written), with_followers(plain.copy())).results
    assert found.tuning == alone.tuning == 0
    assert found.effect == alone.effect
    assert found.effect.n == (18 if written is POOL else 6)
    expected = np.prod(list(PLACES.values())) ** (1 / 3) if written is POOL else 10.0
    assert found.effect.estimate == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("written", [POOL, TREND], ids=["pool: data", "along: data"])
def test_a_strength_beside_them_is_tuned_and_both_sides_are_compared_on_the_same_data(
    written: Mapping[str, Any],
) -> None:
    cells = crossed(data=list(PLACES), seed=range(12), **{"regularizer.lambda": [0.1, 10.0]})
    none = cells["regularizer"] == "none"
    cells = cells[~none | (cells["regularizer.lambda"] == 0.1)].copy()
    cells["regularizer.lambda"] = cells["regularizer.lambda"].where(cells["regularizer"] == "gp")
    of_data = cells["data"].map(PLACES).astype(float)
    cells["test/loss"] = of_data * cells["regularizer.lambda"].map({0.1: 3.0, 10.0: 2.0}).fillna(1.0)
    (found,) = judged(claim(written), with_followers(cells)).results
    assert found.tuning == (9 if written is POOL else 3)
    assert found.effect.estimate == pytest.approx(2.0 if written is POOL else 1.0)
    assert found.effect.n == (27 if written is POOL else 9)
    if written is POOL:
        assert found.chosen == (("treatment", {"regularizer.lambda": 10.0}),)


INTERIOR = CONTRAST | {"test": "interior", "along": "data.features", "control": None}
SHIFT = INTERIOR | {"test": "shift", "versus": "regularizer.lambda", "effect": None}


@pytest.mark.parametrize("written", [CONTRAST, TREND, INTERIOR, SHIFT], ids=lambda one: one.get("test"))
def test_a_claim_that_nothing_decides_says_whether_cells_or_their_values_are_missing(
    written: Mapping[str, Any],
) -> None:
    cells = crossed(data=list(PLACES), seed=range(6), **{"regularizer.lambda": [0.1, 10.0]})
    cells = with_followers(cells.assign(**{"test/accuracy": 0.5}))

    def notes(cells: pd.DataFrame) -> tuple[str, ...]:
        (result,) = judged(claim(written), cells).results
        assert result.verdict == "undecided"
        return result.notes

    assert notes(cells) == ("no cell of the treatment has a value of test/loss",)
    treated = cells["regularizer"] == "gp"
    known = cells.assign(**{"test/loss": 1.0})
    assert notes(known[~treated]) == ("there is no cell of the treatment",)
    failed = known.assign(status=known["status"].mask(treated, "failed"))
    assert notes(failed) == ("every cell of the treatment failed",)


def findings(one: Claim, cells: pd.DataFrame, curves: pd.DataFrame | None = None) -> list[ConditionResult]:
    """Judge many experiments in one table: first as replicates, the last of their keys, then each by itself."""
    curves = pd.DataFrame({"cell": [], "step": []}) if curves is None else curves
    evidence = Evidence(cells, curves, [key for key in KEYS if key in cells])
    (whole,) = split_by_condition(replace(one, pool=(*one.pool, "experiment")), evidence)
    return [
        TESTS[one.test](one, replace(whole, sides=tuple(_only(side, number) for side in whole.sides)))
        for number in range(EXPERIMENTS)
    ]


def _only(side: Side, number: int) -> Side:
    values, lost, tuned = (array[..., number::EXPERIMENTS] for array in (side.values, side.lost, side.tuned))
    return Side(values, lost, tuned, side.settings)


def tables(rng: np.random.Generator, lost: float, slope: float = 0.0, effect: float = 0.0) -> pd.DataFrame:
    """Return cells of ``EXPERIMENTS`` experiments whose logarithms have an effect, and a slope over data."""
    cells = crossed(experiment=range(EXPERIMENTS), data=list(PLACES), seed=range(5))
    treated = (cells["regularizer"] == "gp") * (effect + slope * np.log10(cells["data"].map(PLACES)))
    values = np.exp(treated + noise(rng, cells))
    gone = rng.random(len(cells)) < lost
    cells["status"] = np.where(gone, "diverged", "completed")
    return with_followers(cells.assign(**{"test/loss": np.where(gone, np.nan, values)}))


@pytest.mark.parametrize("lost", [0.0, 0.3])
@pytest.mark.parametrize("written", [POOL, TREND], ids=["pool: data", "along: data"])
def test_over_data_sets_without_effect_at_most_5_percent_are_supported(
    written: Mapping[str, Any], lost: float
) -> None:
    found = findings(claim(written), tables(np.random.default_rng(1), lost))
    assert len(found) == EXPERIMENTS
    assert sum(one.verdict == "supported" for one in found) <= EXPERIMENTS * 0.05


@pytest.mark.parametrize(
    ("written", "truth"),
    [(POOL, {"effect": np.log(3.0)}), (TREND, {"effect": 1.0, "slope": np.log(3.0)})],
    ids=["pool: data", "along: data"],
)
def test_over_data_sets_the_interval_covers_a_known_effect_at_its_nominal_rate(
    written: Mapping[str, Any], truth: Mapping[str, float]
) -> None:
    found = findings(claim(written), tables(np.random.default_rng(2), 0.0, **truth))
    covered = np.mean([one.effect.low <= 3.0 <= one.effect.high for one in found])
    spread = np.sqrt(0.95 * 0.05 / EXPERIMENTS)
    assert abs(covered - 0.95) <= 3 * spread


MEAN = CONTRAST | {"take": "mean"}


def courses(
    rng: np.random.Generator, lost: float, effect: float, explodes: float = 0.0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return cells and their curves of 4 steps; one that diverges has fewer, none if it did at once.

    Its last values grow by ``explodes``, a logarithm.
    """
    cells = crossed(experiment=range(EXPERIMENTS), seed=range(6))
    gone = rng.random(len(cells)) < lost
    cells["status"] = np.where(gone, "diverged", "completed")
    n = np.where(gone, rng.integers(0, 4, len(cells)), 4)
    level = noise(rng, cells) + effect * (cells["regularizer"] == "gp")
    place = np.repeat(np.arange(len(cells)), n)
    step = np.arange(len(place)) - np.repeat(np.cumsum(n) - n, n)
    values = np.exp(level.to_numpy()[place] + explodes * gone[place] * step)
    return cells, pd.DataFrame({"cell": cells["cell"].to_numpy()[place], "step": step, "test/loss": values})


@pytest.mark.parametrize("explodes", [0.0, 3.0])
@pytest.mark.parametrize("lost", [0.15, 0.5])
def test_means_of_cells_that_diverge_alike_are_called_apart_in_at_most_5_percent(
    lost: float, explodes: float
) -> None:
    found = findings(claim(MEAN), *courses(np.random.default_rng(3), lost, 0.0, explodes))
    assert sum(one.verdict == "supported" for one in found) <= EXPERIMENTS * 0.05
    assert sum(one.verdict == "contradicted" for one in found) <= EXPERIMENTS * 0.05


def test_means_of_cells_that_diverge_alike_cover_a_known_effect() -> None:
    found = findings(claim(MEAN), *courses(np.random.default_rng(4), 0.15, np.log(3.0)))
    covered = np.mean([one.effect.low <= 3.0 <= one.effect.high for one in found])
    assert covered >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / EXPERIMENTS)


def test_a_diverged_cell_has_the_mean_of_what_it_recorded_and_one_that_recorded_nothing_is_lost() -> None:
    cells = crossed(seed=range(4))
    cells.loc[:, "status"] = ["completed"] * 4 + ["diverged"] * 4
    steps = pd.DataFrame({"step": [1, 2]})
    curves = cells.iloc[:7][["cell"]].merge(steps, how="cross")
    curves["test/loss"] = np.where(curves["cell"].isin(cells["cell"][:4]), 1.0, 4.0 * curves["step"])
    curves.loc[len(curves) - 1, "test/loss"] = np.inf
    (found,) = judged(claim(MEAN), cells, curves).results
    ((_, contrast),) = found.contrasts
    assert contrast.lost == (1, 0)
    assert list(contrast.treated.values[:3]) == [6.0, 6.0, 4.0]
    assert list(contrast.treated.lost) == [False, False, False, True]
    assert contrast.present == (4, 4)


def test_conditions_of_an_entry_are_corrected_for_and_other_entries_are_not() -> None:
    cells = tables(np.random.default_rng(5), 0.0).query("experiment < 4")
    evidence = Evidence(cells, pd.DataFrame({"cell": [], "step": []}), [key for key in KEYS if key in cells])
    confidences = [part.confidence for part in split_by_condition(claim(POOL, per=["experiment"]), evidence)]
    assert confidences == [pytest.approx(1 - 0.05 / 4)] * 4
    among = claim(POOL, per=["experiment"], among={"experiment": [0, 1]})
    assert [part.confidence for part in split_by_condition(among, evidence)] == [pytest.approx(0.975)] * 2


@pytest.mark.parametrize(("seeds", "has_interval"), [(3, False), (4, True)])
def test_a_claim_without_an_interval_says_that_seeds_are_missing_beside_those_that_chose(
    seeds: int, has_interval: bool
) -> None:
    cells = crossed(data=["digits"], seed=range(seeds), **{"regularizer.lambda": [0.1, 1.0]})
    cells["test/loss"] = np.random.default_rng(0).uniform(1, 2, len(cells))
    (found,) = judged(claim(CONTRAST), cells).results
    assert found.tuning == 2
    assert np.isfinite(found.effect.low) == has_interval
    why = "no interval: at least two seeds are needed beside the 2 that chose the settings"
    assert found.notes == (() if has_interval else (why,))

"""Claims about cost read steps that were timed side by side: the rounds of the timing are the replicates."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from claimed import claim

from gradbench.claims.conditions import ConditionResult
from gradbench.claims.judge import judge_claim
from gradbench.claims.metrics import Evidence, add_claim_values
from gradbench.claims.schema import STEP_RATIO

COST: dict[str, Any] = {
    "id": "1",
    "sentence": "clipping costs less than a tenth of a step",
    "metric": STEP_RATIO,
    "goal": "min",
    "effect": "ratio",
    "below": 1.1,
    "treatment": {"regularizer": "clip_norm"},
    "control": {"regularizer": "none"},
}
TRUTH = {"none": 1.0, "clip_norm": 1.02, "gp": 2.0}
KEYS = ["data", "regularizer", "regularizer.threshold", "seed"]


def evidence(rounds: int = 20, data: tuple[str, ...] = ("digits",), status: str = "completed") -> Evidence:
    """Return three seeds of each treatment, whose stopwatch says nonsense, and the rounds of each."""
    rng = np.random.default_rng(0)
    cells, timed = [], []
    for name in data:
        for regularizer, ratio in TRUTH.items():
            program = {"step_program": f"{name} {regularizer}", "device": "cpu"}
            for threshold in (0.1, 1.0) if regularizer == "clip_norm" else (np.nan,):
                cells += [
                    {
                        **program,
                        "cell": f"{len(cells):016x}",
                        "data": name,
                        "regularizer": regularizer,
                        "regularizer.threshold": threshold,
                        "seed": seed,
                        "steps": 100,
                        "status": status,
                        "model.metric": "test/loss",
                        "model.goal": "min",
                        "test/loss": 1.0,
                        "step_seconds": rng.random(),
                    }
                    for seed in range(3)
                ]
            timed += [
                {**program, "round": index, "step_ratio": ratio * (1 + 0.01 * rng.normal() * (ratio > 1))}
                for index in range(rounds)
            ]
    return Evidence(pd.DataFrame(cells), pd.DataFrame({"cell": [], "step": []}), KEYS, pd.DataFrame(timed))


def result(given: Evidence, **changes: Any) -> ConditionResult:
    (found,) = judge_claim(claim(COST, **changes), given).results
    return found


def test_rounds_judge_and_strengths_which_cost_the_same_are_not_tuned() -> None:
    found = result(evidence())
    assert (found.verdict, found.effect.n, found.tuning, found.chosen) == ("supported", 20, 0, ())
    assert found.effect.estimate == pytest.approx(1.02, rel=0.01)


def test_two_treatments_are_compared_by_their_ratios_to_none() -> None:
    given = {"treatment": {"regularizer": "gp"}, "control": {"regularizer": "clip_norm"}, "below": None}
    found = result(evidence(), above=1.5, **given)
    assert found.verdict == "supported"
    assert found.effect.estimate == pytest.approx(2 / 1.02, rel=0.01)
    assert result(evidence(), above=2.5, **given).verdict == "contradicted"


def test_each_setting_is_judged_by_its_own_rounds_and_pooled_ones_add_up() -> None:
    given = evidence(data=("digits", "wine"))
    assert [one.effect.n for one in judge_claim(claim(COST, per="data"), given).results] == [20, 20]
    assert result(given, pool="data").effect.n == 40


def test_what_diverged_was_timed_as_well_and_what_failed_was_not() -> None:
    assert result(evidence(status="diverged")).verdict == "supported"
    assert result(evidence(status="failed")).notes == ("no step was timed",)


def test_where_nothing_was_timed_a_claim_is_undecided_and_says_so() -> None:
    given = evidence()
    untimed = Evidence(given.cells, given.curves, KEYS)
    found = result(untimed)
    assert (found.verdict, found.notes) == ("undecided", ("no step was timed",))
    old = Evidence(given.cells.drop(columns="step_program"), given.curves, KEYS, given.rounds)
    assert result(old).notes == ("no step was timed",)


def test_equal_seconds_are_those_that_were_timed_where_all_were() -> None:
    given = evidence()
    cells = given.cells[given.cells["regularizer"] != "clip_norm"].reset_index(drop=True)
    steps = range(1, 101)
    curves = pd.concat(
        [pd.DataFrame({"cell": cell, "step": steps, "loss": steps}) for cell in cells["cell"]],
        ignore_index=True,
    )
    one = claim(COST, metric="loss", take="equal_seconds", treatment={"regularizer": "gp"})
    cells["step_seconds"] = np.where(cells["regularizer"] == "gp", 4.0, 1.0)
    timed = cells.assign(**{"cost/step_seconds": np.where(cells["regularizer"] == "gp", 2.0, 1.0)})
    for table, reached in ((timed, 50), (cells, 25), (timed.assign(**{"cost/step_seconds": np.nan}), 25)):
        values = add_claim_values(one, table, curves).groupby("regularizer")["value"].unique()
        assert (values["gp"].tolist(), values["none"].tolist()) == ([reached], [100])

"""Decide a claim from the tables of a results folder.

Intervals are corrected for the number of comparisons within a claim (Bonferroni: each covers 1 - .05 / comparisons),
so that all of a claim's intervals hold jointly at 95 %. Comparisons are its conditions, the two ends of an
``interior``, and values and shares where cells were lost. There is no correction for the number of claims.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import trim_mean

from gradbench.claims.conditions import ConditionCells, ConditionResult
from gradbench.claims.contrasts import (
    CONTRADICTED,
    SUPPORTED,
    UNDECIDED,
    Contrast,
    decide_contrast,
    note_missing_interval,
    to_effect_scale,
)
from gradbench.claims.metrics import (
    Evidence,
    add_claim_values,
    list_conditions,
    rounds_as_seeds,
    select_cells,
)
from gradbench.claims.samples import build_side, drop_repeated_timings, list_replicates
from gradbench.claims.schema import STEP_RATIO, Claim
from gradbench.claims.trends import judge_interior, judge_shift, judge_trend
from gradbench.stats.intervals import CONFIDENCE, NO_VALUES, Interval, stratified_interval

MIN_SEEDS = 10
"""Seeds in each condition that the stratified bootstrap needs for its coverage."""


@dataclass(frozen=True)
class ClaimJudgement:
    """A judged claim.

    Attributes:
        claim: the claim.
        verdict: the verdict over all conditions: supported, contradicted or undecided.
        results: the result under each condition.
        overall: interquartile mean of the effect over all conditions and seeds, with its stratified bootstrap
            interval; ``NO_VALUES`` for a single condition or too few seeds.
    """

    claim: Claim
    verdict: str
    results: tuple[ConditionResult, ...]
    overall: Interval = NO_VALUES


def judge_claim(claim: Claim, evidence: Evidence) -> ClaimJudgement:
    """Decide a claim under each of its conditions and combine the verdicts.

    Used by ``gradbench claims`` and the report's section of claims.
    """
    results = [
        cells.undecided(cells.missing) if cells.missing else TESTS[claim.test](claim, cells)
        for cells in split_by_condition(claim, evidence)
    ]
    if not results:
        lacking = "no step was timed" if claim.metric == STEP_RATIO else "no cell is what the claim is about"
        results = [ConditionResult({}, UNDECIDED, notes=(lacking,))]
    verdict = combine_verdicts(claim, [result.verdict for result in results])
    return ClaimJudgement(claim, verdict, tuple(results), overall_effect(claim, results))


def split_by_condition(claim: Claim, evidence: Evidence) -> list[ConditionCells]:
    """Split the claim's cells, with their values, by its conditions."""
    cells = select_cells(evidence.cells, claim.among)
    if claim.metric == STEP_RATIO:
        cells = rounds_as_seeds(cells, evidence.rounds)
        if cells.empty:
            return []
    groups = [(condition, select_cells(cells, condition)) for condition in list_conditions(cells, claim.per)]
    confidence = 1 - (1 - CONFIDENCE) / max(len(groups), 1)
    found = []
    for condition, group in groups:
        valued = add_claim_values(claim, group, evidence.curves)
        selectors = [selector for selector in (claim.treatment, claim.control) if selector]
        tables = [select_cells(valued, selector) for selector in selectors]
        seeds = sorted({one for table in tables for one in list_replicates(claim, table)})
        along = list_values_along(claim, pd.concat(tables))
        sides = tuple(build_side(claim, table, evidence.keys, seeds, along) for table in tables)
        setting = {key: value for key, (value,) in condition.items()}
        missing = note_missing_values(claim, tables)
        found.append(ConditionCells(sides, along, setting, confidence, missing))
    return found


def note_missing_values(claim: Claim, tables: Sequence[pd.DataFrame]) -> str:
    """Say which side has no cell, or cells without a value, and why; an empty string where both have values.

    Args:
        claim: the claim.
        tables: the cells of the treatment, and of the control where there is one, with their values.
    """
    for name, table in zip(("treatment", "control"), tables, strict=False):
        if table.empty:
            return f"there is no cell of the {name}"
        if (table["status"] == "failed").all():
            return f"every cell of the {name} failed"
        if not (table["value"].notna() | table["lost"]).any():
            return f"no cell of the {name} has a value of {claim.metric}"
    return ""


def list_values_along(claim: Claim, cells: pd.DataFrame) -> list[float | str]:
    """List the values of the claim's key ``along`` in the order of the axis; ``[""]`` if it has none."""
    if not claim.along:
        return [""]
    if claim.along not in cells:
        return []
    found = cells[claim.along].dropna().unique()
    if claim.places:
        present = set(map(str, found))
        return [name for name in sorted(claim.places, key=claim.places.__getitem__) if name in present]
    return sorted(float(one) for one in found if isinstance(one, int | float | np.number))


def judge_contrast(claim: Claim, cells: ConditionCells) -> ConditionResult:
    """Test treatment against control, each at the setting that its tuning seeds chose."""
    judged = [row for side in cells.sides if (row := side.choose(0, cells.tuning)) is not None]
    if len(judged) < 2:
        return cells.undecided(cells.missing)
    if claim.metric == "step_seconds":
        judged = drop_repeated_timings(judged)
    contrast = Contrast(claim, judged[0], judged[1], cells.confidence)
    pairs = zip(("treatment", "control"), judged, strict=True)
    chosen = tuple((name, row.setting) for name, row in pairs if row.setting)
    effect = contrast.effect
    return ConditionResult(
        cells.condition or {},
        decide_contrast(contrast),
        effect,
        (("", contrast),),
        chosen,
        cells.tuning,
        note_missing_interval(effect, cells.tuning, any(contrast.lost)),
    )


def combine_verdicts(claim: Claim, verdicts: Sequence[str]) -> str:
    """Combine the verdicts of all conditions: all must support a claim, or any if it says ``combine: any``."""
    for_it, against_it = (any, all) if claim.combine == "any" else (all, any)
    if for_it(one == SUPPORTED for one in verdicts):
        return SUPPORTED
    return CONTRADICTED if against_it(one == CONTRADICTED for one in verdicts) else UNDECIDED


def overall_effect(claim: Claim, results: Sequence[ConditionResult]) -> Interval:
    """Compute the effect over all conditions; ``NO_VALUES`` for a single condition or too few seeds."""
    strata = [contrast.differences for result in results for _, contrast in result.contrasts]
    few = min((int(np.isfinite(one).sum()) for one in strata), default=0) < MIN_SEEDS
    if claim.test != "contrast" or len(results) < 2 or few:
        return NO_VALUES
    return to_effect_scale(claim, stratified_interval(strata, lambda values: float(trim_mean(values, 0.25))))


TESTS: dict[str, Callable[[Claim, ConditionCells], ConditionResult]] = {
    "contrast": judge_contrast,
    "trend": judge_trend,
    "interior": judge_interior,
    "shift": judge_shift,
}

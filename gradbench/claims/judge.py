"""From a claim and tables to a verdict.

Intervals are corrected for the number of comparisons within a claim, which is one entry of an experiment's file
(Bonferroni: each covers 1 - .05 / comparisons of the time), so that all of a claim's hold together at 95 %. Comparisons
are its conditions; those with both ends of an ``interior``; and those of values and of shares where cells were lost.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import trim_mean

from gradbench.claims.contrasts import (
    ABSENT,
    CONTRADICTED,
    SUPPORTED,
    UNDECIDED,
    Contrast,
    decide,
    presented,
    unspread,
)
from gradbench.claims.findings import Finding, Part
from gradbench.claims.metrics import Evidence, conditions, measure, select
from gradbench.claims.samples import once, replicates_of, side_of
from gradbench.claims.schema import Claim
from gradbench.claims.trends import interior, shift, trend
from gradbench.stats import intervals as stats
from gradbench.stats.intervals import Interval

ENOUGH = 10
"""Seeds in each condition from which the stratified bootstrap covers."""


@dataclass(frozen=True)
class Judgement:
    """A claim and what became of it.

    Attributes:
        claim: the sentence.
        verdict: over all conditions.
        findings: per condition.
        overall: interquartile mean of the effect over all conditions and seeds, with the interval of the
            stratified bootstrap; absent where one condition is all there is, or seeds are too few for it.
    """

    claim: Claim
    verdict: str
    findings: tuple[Finding, ...]
    overall: Interval = ABSENT


def judge(claim: Claim, evidence: Evidence) -> Judgement:
    """Decide a claim."""
    findings = [TESTS[claim.test](claim, part) for part in parts(claim, evidence)]
    if not findings:
        findings = [Finding({}, UNDECIDED, notes=("no cell is what the claim is about",))]
    verdict = combined(claim, [finding.verdict for finding in findings])
    return Judgement(claim, verdict, tuple(findings), overall(claim, findings))


def parts(claim: Claim, evidence: Evidence) -> list[Part]:
    """Return the claim's cells, measured, under each of its conditions."""
    cells = select(evidence.cells, claim.among)
    groups = [(condition, select(cells, condition)) for condition in conditions(cells, claim.per)]
    confidence = 1 - (1 - stats.CONFIDENCE) / max(len(groups), 1)
    found = []
    for condition, group in groups:
        measured = measure(claim, group, evidence.curves)
        selectors = [selector for selector in (claim.treatment, claim.control) if selector]
        tables = [select(measured, selector) for selector in selectors]
        seeds = sorted({one for table in tables for one in replicates_of(claim, table)})
        along = values_along(claim, pd.concat(tables))
        sides = tuple(side_of(claim, table, evidence.keys, seeds, along) for table in tables)
        told = {key: value for key, (value,) in condition.items()}
        found.append(Part(sides, along, told, confidence))
    return found


def values_along(claim: Claim, cells: pd.DataFrame) -> list[float | str]:
    """Return the values of ``along`` in the order of their places; a single one where a claim goes along none."""
    if not claim.along:
        return [""]
    if claim.along not in cells:
        return []
    found = cells[claim.along].dropna().unique()
    if claim.places:
        present = set(map(str, found))
        return [name for name in sorted(claim.places, key=claim.places.__getitem__) if name in present]
    return sorted(float(one) for one in found if isinstance(one, int | float | np.number))


def against(claim: Claim, part: Part) -> Finding:
    """Compare treatment and control, each at the setting that its tuning seeds chose."""
    judged = []
    for name, side in zip(("treatment", "control"), part.sides, strict=True):
        row = side.choose(0, part.tuning)
        if row is None:
            return part.undecided(f"there is no cell of the {name}")
        judged.append(row)
    if claim.metric == "step_seconds":
        judged = once(judged)
    found = Contrast(claim, judged[0], judged[1], part.confidence)
    named = zip(("treatment", "control"), judged, strict=True)
    chosen = tuple((name, row.setting) for name, row in named if row.setting)
    effect = found.effect
    return Finding(
        part.condition or {}, decide(found), effect, (("", found),), chosen, part.tuning, unspread(effect)
    )


def combined(claim: Claim, verdicts: Sequence[str]) -> str:
    """Return the verdict over all conditions."""
    for_it, against_it = (any, all) if claim.combine == "any" else (all, any)
    if for_it(one == SUPPORTED for one in verdicts):
        return SUPPORTED
    return CONTRADICTED if against_it(one == CONTRADICTED for one in verdicts) else UNDECIDED


def overall(claim: Claim, findings: Sequence[Finding]) -> Interval:
    """Return the effect over all conditions, where there are several and seeds enough."""
    strata = [found.differences for finding in findings for _, found in finding.contrasts]
    few = min((int(np.isfinite(one).sum()) for one in strata), default=0) < ENOUGH
    if claim.test != "contrast" or len(findings) < 2 or few:
        return ABSENT
    return presented(claim, stats.stratified_interval(strata, lambda values: float(trim_mean(values, 0.25))))


TESTS: dict[str, Callable[[Claim, Part], Finding]] = {
    "contrast": against,
    "trend": trend,
    "interior": interior,
    "shift": shift,
}

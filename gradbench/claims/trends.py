"""Test a claim along a key: the slope of an effect, an interior best value, and the shift of the best value.

Shapes: X values of the key, S settings, R seeds, J of which judge.
"""

from collections.abc import Sequence

import numpy as np

from gradbench.claims.conditions import ConditionCells, ConditionResult
from gradbench.claims.contrasts import (
    CONTRADICTED,
    SUPPORTED,
    UNDECIDED,
    Contrast,
    decide_contrast,
    effect_per_seed,
    locate_interval,
    mean_effect,
    note_missing_interval,
)
from gradbench.claims.samples import SeedValues, drop_repeated_timings
from gradbench.claims.schema import Claim
from gradbench.stats.intervals import Floats, Interval
from gradbench.stats.selection import choose_setting, tuning_seed_count


def judge_trend(claim: Claim, cells: ConditionCells) -> ConditionResult:
    """Test the slope of the effect along a key, fitted per seed.

    A slope needs a value of every cell, so a lost cell counts as the worst of the others.
    """
    judged: list[SeedValues] = []
    known = []
    for place, value in enumerate(cells.along):
        pair = [row for side in cells.sides if (row := side.choose(place, cells.tuning)) is not None]
        if len(pair) == 2:
            judged += pair
            known.append(value)
    if len(known) < 2:
        return cells.undecided(f"{claim.along} has fewer than two values with both sides")
    if claim.metric == "step_seconds":
        judged = drop_repeated_timings(judged)
    filled = impute_lost(claim, judged)
    pairs = zip(filled[::2], filled[1::2], strict=True)
    effects = np.array([effect_per_seed(claim, treated, control) for treated, control in pairs])
    slopes = fit_slopes(axis_positions(claim, known), effects)
    effect = mean_effect(claim, slopes, cells.confidence)
    lost = sum(int(row.lost.sum()) for row in judged)
    worst = (f"{lost} lost cells count as the worst of the others",) if lost else ()
    notes = (*worst, *note_missing_interval(effect, cells.tuning))
    return ConditionResult(
        cells.condition or {}, decide_effect(claim, effect), effect, tuning=cells.tuning, notes=notes
    )


def impute_lost(claim: Claim, rows: Sequence[SeedValues]) -> list[Floats]:
    """Replace lost values by the worst value of all rows."""
    every = np.concatenate([row.values for row in rows])
    known = every[~np.isnan(every)]
    worst = np.nan if not len(known) else known.min() if claim.goal == "max" else known.max()
    return [np.where(row.lost, worst, row.values) for row in rows]


def judge_interior(claim: Claim, cells: ConditionCells) -> ConditionResult:
    """Test the best interior value of a key, chosen on the tuning seeds, against its least and greatest value.

    The claim is supported if both comparisons support it and contradicted if one contradicts it. Intervals are
    corrected for two comparisons.
    """
    if len(cells.along) < 3:
        return cells.undecided(f"{claim.along} has fewer than three values")
    side, tuning = cells.sides[0], min(tuning_seed_count(cells.seeds), cells.seeds)
    best = 1 + max(choose_setting(_lowest_scores(side.tuned[1:-1, :, :tuning])), 0)
    inside, least, greatest = (side.choose(place, tuning) for place in (best, 0, -1))
    if inside is None or least is None or greatest is None:
        return cells.undecided(f"there is no cell at the least or greatest {claim.along}")
    each = 1 - (1 - cells.confidence) / 2
    found = (
        ("against the least", Contrast(claim, inside, least, each)),
        ("against the greatest", Contrast(claim, inside, greatest, each)),
    )
    verdicts = {decide_contrast(one) for _, one in found}
    verdict = CONTRADICTED if CONTRADICTED in verdicts else UNDECIDED
    if verdicts == {SUPPORTED}:
        verdict = SUPPORTED
    weaker = min((one.effect for _, one in found), key=lambda effect: claim.sign * effect.estimate)
    chosen = (("best inside", {claim.along: cells.along[best], **inside.setting}),)
    notes = (*note_good_values(claim, cells), *note_missing_interval(weaker, tuning))
    return ConditionResult(cells.condition or {}, verdict, weaker, found, chosen, tuning, notes)


def _lowest_scores(scores: Floats) -> Floats:
    """Compute each seed's lowest score over settings, [X, S, R] -> [X, R]; nan if all are absent."""
    absent = np.isnan(scores)
    lowest = np.where(absent, np.inf, scores).min(axis=1)
    return np.where(absent.all(axis=1), np.nan, lowest)


def note_good_values(claim: Claim, cells: ConditionCells) -> tuple[str, ...]:
    """List the values whose mean over all seeds is within the smallest effect of the best, without a lost cell."""
    ratio, means = claim.effect == "ratio", {}
    for place, value in enumerate(cells.along):
        row = cells.sides[0].choose(place, 0)
        if row is not None and not row.lost.any() and np.isfinite(row.values).any():
            means[value] = float(np.nanmean(np.log(row.values) if ratio else row.values))
    if not means:
        return ("every value lost cells",)
    best = (max if claim.goal == "max" else min)(means.values())
    slack = abs(np.log(claim.smallest_effect)) if ratio else abs(claim.smallest_effect)
    good = [str(value) for value, mean in means.items() if abs(mean - best) <= slack]
    return (f"as good as the best, to within what matters: {', '.join(good)}",)


def judge_shift(claim: Claim, cells: ConditionCells) -> ConditionResult:
    """Test the slope of the best value's logarithm along the logarithm of a second key; each seed has its own best."""
    side, places = cells.sides[0], axis_positions(claim, cells.along)
    seconds = sorted({float(str(one[claim.versus])) for one in side.settings if claim.versus in one})
    if len(cells.along) < 2 or len(seconds) < 2:
        return cells.undecided(f"{claim.along} or {claim.versus} has fewer than two values")
    best = np.full((len(seconds), cells.seeds), np.nan)
    for index, second in enumerate(seconds):
        of_it = [float(str(one[claim.versus])) == second for one in side.settings]
        lowest = _lowest_scores(side.tuned[:, of_it])
        scores = np.where(np.isnan(lowest), np.inf, lowest)
        usable = np.isfinite(scores).any(axis=0)
        best[index, usable] = places[scores.argmin(axis=0)][usable]
    slopes = fit_slopes(np.log10(np.array(seconds)), best)
    effect = mean_effect(claim, slopes, cells.confidence)
    middles = [
        f"{10 ** float(np.nanmedian(row)):.3g} at {second:g}"
        for second, row in zip(seconds, best, strict=True)
        if np.isfinite(row).any()
    ]
    notes = (
        f"median of the best {claim.along}, by {claim.versus}: {', '.join(middles)}",
        *note_missing_interval(effect),
    )
    return ConditionResult(cells.condition or {}, decide_effect(claim, effect), effect, notes=notes)


def axis_positions(claim: Claim, values: Sequence[float | str]) -> Floats:
    """Compute positions [X] on the axis: log10 of the values (a slope is per tenfold), or values if one is <= 0."""
    places = np.array([claim.places[str(one)] if claim.places else one for one in values], dtype=np.float64)
    return np.log10(places) if (places > 0).all() else places


def fit_slopes(places: Floats, effects: Floats) -> Floats:
    """Fit the least-squares slope of each seed, [X], [X, J] -> [J]; nan if a value is absent."""
    centred = places - places.mean()
    rises = effects - effects[0]  # makes the slope of equal effects exactly 0 instead of 1e-15
    slopes: Floats = (centred[:, None] * rises).sum(axis=0) / (centred**2).sum()
    return slopes


def decide_effect(claim: Claim, effect: Interval) -> str:
    """Decide a claim by a single interval. Used for claims with ``test: trend`` and ``shift``."""
    return {1: SUPPORTED, -1: CONTRADICTED, 0: UNDECIDED}[locate_interval(claim, effect)]

"""Tests along a key: the trend of an effect, the best value inside, and how the best value shifts.

X places along the key, S settings, R seeds, J of which judge.
"""

from collections.abc import Sequence

import numpy as np

from gradbench.claims.contrasts import (
    CONTRADICTED,
    SUPPORTED,
    UNDECIDED,
    Contrast,
    beyond,
    decide,
    difference,
    mean_effect,
    unspread,
)
from gradbench.claims.findings import Finding, Part
from gradbench.claims.samples import Row, once
from gradbench.claims.schema import Claim
from gradbench.stats import selection
from gradbench.stats.intervals import Floats, Interval


def trend(claim: Claim, part: Part) -> Finding:
    """Find the slope of treatment against control along a key, one per seed.

    A slope needs a number from every cell, so one that is lost counts as the worst that was not.
    """
    judged: list[Row] = []
    known = []
    for place, value in enumerate(part.along):
        pair = [row for side in part.sides if (row := side.choose(place, part.tuning)) is not None]
        if len(pair) == 2:
            judged += pair
            known.append(value)
    if len(known) < 2:
        return part.undecided(f"{claim.along} has fewer than two values with both sides")
    if claim.metric == "step_seconds":
        judged = once(judged)
    filled = filled_in(claim, judged)
    pairs = zip(filled[::2], filled[1::2], strict=True)
    effects = np.array([difference(claim, treated, control) for treated, control in pairs])
    slopes = slopes_of(places_of(claim, known), effects)
    effect = mean_effect(claim, slopes, part.confidence)
    lost = sum(int(row.lost.sum()) for row in judged)
    worst = (f"{lost} lost cells count as the worst of the others",) if lost else ()
    notes = (*worst, *unspread(effect))
    return Finding(part.condition or {}, verdict_of(claim, effect), effect, tuning=part.tuning, notes=notes)


def filled_in(claim: Claim, rows: Sequence[Row]) -> list[Floats]:
    """Return values with the worst of all in place of what was lost."""
    every = np.concatenate([row.values for row in rows])
    known = every[~np.isnan(every)]
    worst = np.nan if not len(known) else known.min() if claim.goal == "max" else known.max()
    return [np.where(row.lost, worst, row.values) for row in rows]


def interior(claim: Claim, part: Part) -> Finding:
    """Compare the best value inside, chosen on the tuning seeds, with the least and with the greatest.

    Both must hold for the claim, and where one is contradicted, it is. Intervals are corrected for there being two.
    """
    if len(part.along) < 3:
        return part.undecided(f"{claim.along} has fewer than three values")
    side, tuning = part.sides[0], min(selection.tuning_seeds(part.seeds), part.seeds)
    best = 1 + max(selection.best_setting(_lowest(side.tuned[1:-1, :, :tuning])), 0)
    inside, least, greatest = (side.choose(place, tuning) for place in (best, 0, -1))
    if inside is None or least is None or greatest is None:
        return part.undecided(f"there is no cell at the least or greatest {claim.along}")
    each = 1 - (1 - part.confidence) / 2
    found = (
        ("against the least", Contrast(claim, inside, least, each)),
        ("against the greatest", Contrast(claim, inside, greatest, each)),
    )
    verdicts = {decide(one) for _, one in found}
    verdict = CONTRADICTED if CONTRADICTED in verdicts else UNDECIDED
    if verdicts == {SUPPORTED}:
        verdict = SUPPORTED
    weaker = min((one.effect for _, one in found), key=lambda effect: claim.sign * effect.estimate)
    chosen = (("best inside", {claim.along: part.along[best], **inside.setting}),)
    notes = (*good_values(claim, part), *unspread(weaker))
    return Finding(part.condition or {}, verdict, weaker, found, chosen, tuning, notes)


def _lowest(scores: Floats) -> Floats:
    """Return each seed's lowest score over settings, nan where all are absent. Shapes: [X, S, R] -> [X, R]."""
    absent = np.isnan(scores)
    lowest = np.where(absent, np.inf, scores).min(axis=1)
    return np.where(absent.all(axis=1), np.nan, lowest)


def good_values(claim: Claim, part: Part) -> tuple[str, ...]:
    """Say which values do as well as the best, all seeds together: no cell lost, and within what matters."""
    ratio, means = claim.effect == "ratio", {}
    for place, value in enumerate(part.along):
        row = part.sides[0].choose(place, 0)
        if row is not None and not row.lost.any() and np.isfinite(row.values).any():
            means[value] = float(np.nanmean(np.log(row.values) if ratio else row.values))
    if not means:
        return ("every value lost cells",)
    best = (max if claim.goal == "max" else min)(means.values())
    slack = abs(np.log(claim.least)) if ratio else abs(claim.least)
    good = [str(value) for value, mean in means.items() if abs(mean - best) <= slack]
    return (f"as good as the best, to within what matters: {', '.join(good)}",)


def shift(claim: Claim, part: Part) -> Finding:
    """Find the slope of the best value's logarithm along a second key, every seed choosing for itself."""
    side, places = part.sides[0], places_of(claim, part.along)
    seconds = sorted({float(str(one[claim.versus])) for one in side.settings if claim.versus in one})
    if len(part.along) < 2 or len(seconds) < 2:
        return part.undecided(f"{claim.along} or {claim.versus} has fewer than two values")
    best = np.full((len(seconds), part.seeds), np.nan)
    for index, second in enumerate(seconds):
        of_it = [float(str(one[claim.versus])) == second for one in side.settings]
        lowest = _lowest(side.tuned[:, of_it])
        scores = np.where(np.isnan(lowest), np.inf, lowest)
        usable = np.isfinite(scores).any(axis=0)
        best[index, usable] = places[scores.argmin(axis=0)][usable]
    slopes = slopes_of(np.log10(np.array(seconds)), best)
    effect = mean_effect(claim, slopes, part.confidence)
    middles = [
        f"{10 ** float(np.nanmedian(row)):.3g} at {second:g}"
        for second, row in zip(seconds, best, strict=True)
        if np.isfinite(row).any()
    ]
    notes = (f"median of the best {claim.along}, by {claim.versus}: {', '.join(middles)}", *unspread(effect))
    return Finding(part.condition or {}, verdict_of(claim, effect), effect, notes=notes)


def places_of(claim: Claim, values: Sequence[float | str]) -> Floats:
    """Return where values stand on the axis: their logarithms to base 10, so that a slope is per tenfold."""
    places = np.array([claim.places[str(one)] if claim.places else one for one in values], dtype=np.float64)
    return np.log10(places) if (places > 0).all() else places


def slopes_of(places: Floats, effects: Floats) -> Floats:
    """Return the least-squares slope of each seed. Shapes: [X], [X, J] -> [J]; nan where a value is absent."""
    centred = places - places.mean()
    rises = effects - effects[0]  # so that effects that are all alike have a slope of 0, not of 1e-15
    slopes: Floats = (centred[:, None] * rises).sum(axis=0) / (centred**2).sum()
    return slopes


def verdict_of(claim: Claim, effect: Interval) -> str:
    """Return the verdict that one interval gives."""
    return {1: SUPPORTED, -1: CONTRADICTED, 0: UNDECIDED}[beyond(claim, effect)]

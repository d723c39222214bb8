"""Claims, and experiments drawn at random whose truth is known."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gradbench.claims.conditions import ConditionCells
from gradbench.claims.contrasts import Contrast, decide_contrast
from gradbench.claims.samples import SeedValues, Side
from gradbench.claims.schema import Claim, parse_claims

CONTRAST = {
    "id": "1",
    "sentence": "clipping raises the accuracy",
    "metric": "test/accuracy",
    "goal": "max",
    "above": 0.0,
    "treatment": {"regularizer": "clip_norm"},
    "control": {"regularizer": "none"},
}
TREND = CONTRAST | {"test": "trend", "along": "data.length"}
INTERIOR = {
    **{key: CONTRAST[key] for key in ("id", "sentence", "metric", "goal", "above", "treatment")},
    "test": "interior",
    "along": "regularizer.threshold",
}
SHIFT = INTERIOR | {"test": "shift", "versus": "optimizer.lr"}


def claim(written: Mapping[str, Any], **changes: Any) -> Claim:
    keys = {key: value for key, value in {**written, **changes}.items() if value is not None}
    return parse_claims({"claims": [keys]}, "here")[0]


def experiment(
    rng: np.random.Generator,
    one: Claim,
    effect: Callable[[float, float], float] = lambda threshold, place: 0.0,
    lost: float = 0.0,
    *,
    seeds: int = 10,
    thresholds: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0),
    places: tuple[float, ...] = (10.0,),
    of_control: int = 1,
) -> ConditionCells:
    """Return a treatment at several strengths and a control: noise of the seed and of the cell, and an effect.

    The strengths are settings, or, where the claim goes along them, places; the second axis is the other one.
    """
    common = rng.normal(size=seeds)
    truth = np.array([[effect(threshold, place) for threshold in thresholds] for place in places])
    sides = []
    for means in (truth, np.zeros((len(places), of_control))):
        values = common + means[:, :, None] + rng.normal(size=(*means.shape, seeds))
        gone = rng.random(values.shape) < lost
        if one.metric == "diverged":
            values, gone = gone.astype(float), np.zeros_like(gone)
        scores = -values if one.goal == "max" else values
        sides.append(
            Side(np.where(gone, np.nan, values), gone, np.where(gone, np.inf, scores), ({},) * means.shape[1])
        )
    if one.test in ("contrast", "trend"):
        return ConditionCells(tuple(sides), places)
    side = sides[0]
    settings = tuple({"optimizer.lr": place} for place in places)
    turned = (np.swapaxes(array, 0, 1) for array in (side.values, side.lost, side.tuned))
    return ConditionCells((Side(*turned, settings),), thresholds)


def row(values: Sequence[float], lost: list[bool] | None = None) -> SeedValues:
    gone = np.array(lost or [False] * len(values))
    return SeedValues(np.where(gone, np.nan, np.array(values)), gone, {})


def decided(one: Claim, treated: SeedValues, control: SeedValues) -> str:
    return decide_contrast(Contrast(one, treated, control, 0.95))

"""Parse the ``claims:`` of an experiment's YAML, and check their keys."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from gradbench.errors import UsageError, check_length, nearest

Selector = Mapping[str, tuple[Any, ...]]
"""Column of the table of cells -> allowed values."""

STEP_RATIO = "cost/step_ratio"
"""The metric that reads the time of a step over that of ``none``: timed side by side after the sweep, in rounds."""

CHOICES = {
    "test": ("contrast", "trend", "interior", "shift"),
    "combine": ("each", "any"),
    "take": ("final", "mean", "steps_to", "equal_seconds", "distance"),
    "goal": ("min", "max"),
    "effect": ("difference", "ratio"),
    "tune": ("metric", "outcome"),
}


@dataclass(frozen=True)
class Claim:
    """A sentence and the rule that decides it. The effect is that of ``treatment`` against ``control``.

    Every key that varies among the cells of one side and is not named here (a threshold, a learning rate) is tuned:
    the first seeds choose it, for each side and condition, and the others judge.

    Attributes:
        id: number of the claim in the article, with a letter if several tests make one claim: ``4b``.
        sentence: the claim in words.
        metric: a column of the cells or of the curves; ``diverged`` is 1 for a diverged cell, otherwise 0;
            ``cost/step_ratio`` is the time of a step over that of ``none``, of each program that was timed, with
            the rounds of its timing in place of seeds.
        goal: direction in which the metric is better: ``min`` or ``max``.
        above: the claim says that the effect is above this bound (one of the three bounds is given).
        below: the claim says that the effect is below this bound.
        min_abs_effect: the claim says that a slope differs from no effect by more than this, in either direction;
            the YAML key is ``apart``.
        treatment: cells that the claim is about.
        control: cells to compare with; an ``interior`` and a ``shift`` have none.
        among: column values that treatment and control share.
        test: ``contrast``, treatment against control; ``trend``, the slope of that effect along a key;
            ``interior``, the best value of a key that is neither its least nor its greatest, against both;
            ``shift``, the slope of the logarithm of the best value of a key along a second one.
        combine: whether the claim must hold under ``each`` condition or under ``any``.
        take: ``final``, the value at the end; ``mean`` over all recorded steps; ``steps_to``, the first evaluated
            step at which the metric has reached ``level``; ``equal_seconds``, the value after the time in which
            the fastest regularizer finishes, by steps timed side by side where there are such; ``distance`` of the
            final value from ``level``.
        level: the value that ``take: steps_to`` and ``distance`` refer to.
        effect: ``difference``, or ``ratio`` (of positive values, averaged as logarithms).
        per: keys whose values are the conditions, one verdict each; intervals are corrected for their number, not
            for the number of claims.
        pool: keys whose values are replicates, like seeds.
        along: the key of a ``trend``, ``interior`` or ``shift``.
        versus: the second key of a ``shift``.
        places: value of ``along`` -> position on the axis, for values that are not numbers.
        tune: what tuned keys are chosen by: this ``metric``, or the model's own ``outcome``.
        figure: name of the report's figure to look at.
        why: reason for these settings, for readers of the file.
    """

    id: str
    sentence: str
    metric: str
    goal: str
    above: float | None = None
    below: float | None = None
    min_abs_effect: float | None = None
    treatment: Selector = field(default_factory=dict)
    control: Selector = field(default_factory=dict)
    among: Selector = field(default_factory=dict)
    test: str = "contrast"
    combine: str = "each"
    take: str = "final"
    level: float | None = None
    effect: str = "difference"
    per: tuple[str, ...] = ()
    pool: tuple[str, ...] = ()
    along: str = ""
    versus: str = ""
    places: Mapping[str, float] = field(default_factory=dict)
    tune: str = "metric"
    figure: str = "claims"
    why: str = ""

    @property
    def sign(self) -> int:
        """1 if the claim says that the effect is large, -1 if it says that it is small."""
        return -1 if self.below is not None else 1

    @property
    def smallest_effect(self) -> float:
        """Smallest effect that matters."""
        if self.min_abs_effect is not None:
            return self.no_effect + self.min_abs_effect
        return float(self.above if self.above is not None else self.below or 0.0)

    @property
    def no_effect(self) -> float:
        """Effect of a treatment that does nothing: 1 for a ratio, 0 for a difference."""
        return 1.0 if self.effect == "ratio" else 0.0

    @property
    def expects_improvement(self) -> bool:
        """Whether the claim says that the treatment does better than the control."""
        return (self.goal == "max") == (self.sign > 0)

    @property
    def reads_curves(self) -> bool:
        """Whether the value is read from the curves."""
        return self.take in ("mean", "steps_to", "equal_seconds")

    @property
    def reads_costs(self) -> bool:
        """Whether the value depends on steps that are timed after the sweep."""
        return self.metric == STEP_RATIO or self.take == "equal_seconds"

    @property
    def counts_diverged(self) -> bool:
        """Whether a diverged cell may have a value, and is then not lost."""
        return self.metric in ("diverged", "step_seconds", STEP_RATIO) or self.take == "mean"


KEYS = {"min_abs_effect": "apart"}
"""Attribute of a claim -> YAML key, where they differ."""

REQUIRED = {
    "contrast": {"treatment", "control"},
    "trend": {"treatment", "control", "along"},
    "interior": {"treatment", "along"},
    "shift": {"treatment", "along", "versus"},
}
"""Test -> the keys of treatment, control, along and versus that it requires; it refuses the others."""


def parse_claims(spec: Mapping[str, Any], where: str) -> list[Claim]:
    """Parse the claims of an experiment.

    Args:
        spec: content of the experiment's YAML.
        where: name of the file in error messages.

    Raises:
        UsageError: a claim lacks a key, has one too many, or has an invalid value.
    """
    written = spec.get("claims") or []
    if not isinstance(written, list) or not all(isinstance(one, Mapping) for one in written):
        raise UsageError(f"{where}: 'claims' must be a list of claims, each with id, sentence, metric, …")
    found = []
    for number, one in enumerate(written, 1):
        try:
            found.append(_parse_claim(one))
        except UsageError as error:
            raise UsageError(f"{where}, claim {one.get('id', number)}: {error}") from error
    names = [claim.id for claim in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{where}: the claim {twice[0]} stands there twice; give each an id of its own")
    return found


def _parse_claim(written: Mapping[str, Any]) -> Claim:
    """Parse one claim, refusing unknown and missing keys."""
    known = [KEYS.get(entry.name, entry.name) for entry in fields(Claim)]
    for key in written:
        if key not in known:
            raise UsageError(
                f"a claim has no key {key}{nearest(str(key), known)} (there are: {', '.join(known)})"
            )
    for key in ("id", "sentence", "metric", "goal"):
        if written.get(key) in (None, ""):
            raise UsageError(f"it needs a key '{key}'")
    attributes = {key: attribute for attribute, key in KEYS.items()}
    for key, value in written.items():
        check_length(str(value), f"the value of {key},")
    values = {str(key): _parse_value(str(key), value) for key, value in written.items()}
    claim = Claim(**{attributes.get(key, key): value for key, value in values.items()})
    _check_keys(claim)
    return claim


def _parse_value(key: str, value: Any) -> Any:
    """Parse the value of one key."""
    if key in ("treatment", "control", "among"):
        return _parse_selector(key, value)
    if key in ("per", "pool"):
        return tuple(map(str, value if isinstance(value, list) else [value]))
    if key == "places":
        if not isinstance(value, Mapping):
            raise UsageError(f"places must map values to numbers, like 'digits: 64', got {value}")
        return {str(name): _parse_number(f"places.{name}", place) for name, place in value.items()}
    if key in ("above", "below", "apart", "level"):
        return _parse_number(key, value)
    if isinstance(value, Mapping | list):
        raise UsageError(f"{key} must be a word or a sentence, got {value}")
    word = str(value)
    if key in CHOICES and word not in CHOICES[key]:
        choices = CHOICES[key]
        raise UsageError(f"{key} must be one of {', '.join(choices)}, got {word}{nearest(word, choices)}")
    return word


def _parse_selector(key: str, value: Any) -> Selector:
    if not isinstance(value, Mapping):
        raise UsageError(f"{key} must map columns to values, like 'regularizer: clip_norm', got {value}")
    return {
        str(column): tuple(wanted) if isinstance(wanted, list) else (wanted,)
        for column, wanted in value.items()
    }


def _parse_number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise UsageError(f"{key} must be a number, got {value}")
    return float(value)


def _check_keys(claim: Claim) -> None:
    """Refuse keys that cannot be combined."""
    bounds = [bound for bound in (claim.above, claim.below, claim.min_abs_effect) if bound is not None]
    if len(bounds) != 1:
        raise UsageError("it needs one of 'above', 'below' and 'apart': the smallest effect that matters")
    if claim.min_abs_effect is not None and (
        claim.test not in ("trend", "shift") or claim.min_abs_effect < 0
    ):
        raise UsageError("'apart' is of a slope, test: trend or test: shift, and is not below 0")
    for key in ("treatment", "control", "along", "versus"):
        given, needed = bool(getattr(claim, key)), key in REQUIRED[claim.test]
        if given != needed:
            raise UsageError(f"test: {claim.test} {'needs' if needed else 'takes no'} '{key}'")
    if (claim.level is None) == (claim.take in ("steps_to", "distance")):
        raise UsageError("'level' goes with take: steps_to and take: distance, and only with them")
    if claim.effect == "ratio" and claim.smallest_effect <= 0:
        raise UsageError(f"a ratio lies above 0, and 1 is no effect; got {claim.smallest_effect}")
    if claim.effect == "ratio" and claim.test == "shift":
        raise UsageError("a shift is a slope of logarithms already; leave out 'effect: ratio'")

"""What a claim is, as the ``claims:`` of an experiment's YAML write it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from gradbench.errors import UsageError, nearest

Selector = Mapping[str, tuple[Any, ...]]
"""Column of the cells table -> the values that it may have."""

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
    """A sentence and how it is decided. An effect is that of ``treatment`` against ``control``.

    Every key that varies among the cells of one side and is not named (a threshold, a learning rate) is tuned: the
    first seeds choose it, for each side and under each condition, and the others, all fresh, judge.

    Attributes:
        id: the number that the article gives it, and a letter where several tests make one claim: ``4b``.
        sentence: what is claimed.
        metric: a column of the cells or of the curves; ``diverged`` is 1 where a cell diverged, or else 0.
        goal: which way it is better: ``min`` or ``max``.
        above: the claim is that the effect lies above this: the smallest that matters ...
        below: ... or below this ...
        apart: ... or, of a slope, farther than this from that of no effect, on either side. One of the three is given.
        treatment: cells that the claim is about.
        control: cells to compare with; an ``interior`` and a ``shift`` have none.
        among: what both have in common.
        test: ``contrast``, treatment against control; ``trend``, the slope of that effect along a key;
            ``interior``, the best value of a key that is neither its least nor its greatest, against both;
            ``shift``, the slope of the logarithm of the best value of a key along a second one.
        combine: over conditions: the claim must hold under ``each``, or under ``any``.
        take: ``final``, its value at the end; ``mean`` over all recorded steps; ``steps_to``, the first
            evaluated step at which it has reached ``level``; ``equal_seconds``, its value once every
            regularizer has had as long as the one that ends first; ``distance`` of the final one from ``level``.
        level: see ``take``.
        effect: ``difference``, or ``ratio`` (of positive values, averaged as logarithms).
        per: keys whose values are the conditions: one verdict each, intervals corrected for their number (and not for
            that of a file's claims: each entry is one of its own).
        pool: keys whose values are replicates beside the seed, and neither conditions nor choices.
        along: the key of a ``trend``, ``interior`` or ``shift``.
        versus: the second key of a ``shift``.
        places: value of ``along`` -> its place on the axis, where it is not a number itself.
        tune: what tuned keys are chosen for: this ``metric``, or the model's own ``outcome``.
        figure: the report's figure to look at.
        why: the reason for these settings; for readers of the file.
    """

    id: str
    sentence: str
    metric: str
    goal: str
    above: float | None = None
    below: float | None = None
    apart: float | None = None
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
        """1 where the claim is that the effect is large, -1 where it is that it is small."""
        return -1 if self.below is not None else 1

    @property
    def least(self) -> float:
        """The smallest effect that matters."""
        if self.apart is not None:
            return self.neutral + self.apart
        return float(self.above if self.above is not None else self.below or 0.0)

    @property
    def neutral(self) -> float:
        """The effect of a treatment that does nothing."""
        return 1.0 if self.effect == "ratio" else 0.0

    @property
    def improves(self) -> bool:
        """Whether the claim is that the treatment does better than the control, rather than worse."""
        return (self.goal == "max") == (self.sign > 0)

    @property
    def reads_curves(self) -> bool:
        """Whether its value is read along the curves."""
        return self.take in ("mean", "steps_to", "equal_seconds")

    @property
    def keeps_losses(self) -> bool:
        """Whether a cell that diverged may have a value all the same, and is then not lost."""
        return self.metric in ("diverged", "step_seconds") or self.take == "mean"


NEEDS = {
    "contrast": {"treatment", "control"},
    "trend": {"treatment", "control", "along"},
    "interior": {"treatment", "along"},
    "shift": {"treatment", "along", "versus"},
}
"""Test -> the keys that it needs of those that not every claim has."""


def claims_of(spec: Mapping[str, Any], where: str) -> list[Claim]:
    """Return the claims of an experiment.

    Args:
        spec: the content of its YAML.
        where: what to call it in a message.

    Raises:
        UsageError: in one line, for a claim that says nothing, too much, or what there is not.
    """
    written = spec.get("claims") or []
    if not isinstance(written, list) or not all(isinstance(one, Mapping) for one in written):
        raise UsageError(f"{where}: 'claims' must be a list of claims, each with id, sentence, metric, …")
    found = []
    for number, one in enumerate(written, 1):
        try:
            found.append(_claim(one))
        except UsageError as error:
            raise UsageError(f"{where}, claim {one.get('id', number)}: {error}") from error
    names = [claim.id for claim in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{where}: the claim {twice[0]} stands there twice; give each an id of its own")
    return found


def _claim(written: Mapping[str, Any]) -> Claim:
    known = [entry.name for entry in fields(Claim)]
    for key in written:
        if key not in known:
            raise UsageError(
                f"a claim has no key {key}{nearest(str(key), known)} (there are: {', '.join(known)})"
            )
    for key in ("id", "sentence", "metric", "goal"):
        if written.get(key) in (None, ""):
            raise UsageError(f"it needs a key '{key}'")
    claim = Claim(**{str(key): _value(str(key), value) for key, value in written.items()})
    _check(claim)
    return claim


def _value(key: str, value: Any) -> Any:
    if key in ("treatment", "control", "among"):
        return _selector(key, value)
    if key in ("per", "pool"):
        return tuple(map(str, value if isinstance(value, list) else [value]))
    if key == "places":
        if not isinstance(value, Mapping):
            raise UsageError(f"places must map values to numbers, like 'digits: 64', got {value}")
        return {str(name): _number(f"places.{name}", place) for name, place in value.items()}
    if key in ("above", "below", "apart", "level"):
        return _number(key, value)
    if isinstance(value, Mapping | list):
        raise UsageError(f"{key} must be a word or a sentence, got {value}")
    word = str(value)
    if key in CHOICES and word not in CHOICES[key]:
        choices = CHOICES[key]
        raise UsageError(f"{key} must be one of {', '.join(choices)}, got {word}{nearest(word, choices)}")
    return word


def _selector(key: str, value: Any) -> Selector:
    if not isinstance(value, Mapping):
        raise UsageError(f"{key} must map columns to values, like 'regularizer: clip_norm', got {value}")
    return {
        str(column): tuple(wanted) if isinstance(wanted, list) else (wanted,)
        for column, wanted in value.items()
    }


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise UsageError(f"{key} must be a number, got {value}")
    return float(value)


def _check(claim: Claim) -> None:
    """Refuse keys that do not go together."""
    bounds = [bound for bound in (claim.above, claim.below, claim.apart) if bound is not None]
    if len(bounds) != 1:
        raise UsageError("it needs one of 'above', 'below' and 'apart': the smallest effect that matters")
    if claim.apart is not None and (claim.test not in ("trend", "shift") or claim.apart < 0):
        raise UsageError("'apart' is of a slope, test: trend or test: shift, and is not below 0")
    for key in ("treatment", "control", "along", "versus"):
        given, needed = bool(getattr(claim, key)), key in NEEDS[claim.test]
        if given != needed:
            raise UsageError(f"test: {claim.test} {'needs' if needed else 'takes no'} '{key}'")
    if (claim.level is None) == (claim.take in ("steps_to", "distance")):
        raise UsageError("'level' goes with take: steps_to and take: distance, and only with them")
    if claim.effect == "ratio" and claim.least <= 0:
        raise UsageError(f"a ratio lies above 0, and 1 is no effect; got {claim.least}")
    if claim.effect == "ratio" and claim.test == "shift":
        raise UsageError("a shift is a slope of logarithms already; leave out 'effect: ratio'")

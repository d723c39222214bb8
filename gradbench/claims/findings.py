"""What a test of a claim is given, and what it finds."""

from collections.abc import Sequence
from dataclasses import dataclass

from gradbench.claims.contrasts import ABSENT, UNDECIDED, Contrast
from gradbench.claims.samples import Setting, Side
from gradbench.stats import selection
from gradbench.stats.intervals import CONFIDENCE, Interval


@dataclass(frozen=True)
class Part:
    """The cells of one condition.

    Attributes:
        sides: treatment and control, or the treatment alone.
        along: the values along the claim's key, in order of their places.
        condition: what its cells have in common; empty where a claim has no conditions.
        confidence: of an interval, corrected for the number of conditions.
    """

    sides: tuple[Side, ...]
    along: Sequence[float | str] = ("",)
    condition: Setting | None = None
    confidence: float = CONFIDENCE

    @property
    def seeds(self) -> int:
        """How many seeds there are."""
        return int(self.sides[0].values.shape[2])

    @property
    def tuning(self) -> int:
        """How many of them choose: none where there is nothing to choose."""
        if not any(side.has_choice for side in self.sides):
            return 0
        return min(selection.tuning_seeds(self.seeds), self.seeds)

    def undecided(self, note: str) -> "Finding":
        """Return what is found where there is nothing to test."""
        return Finding(self.condition or {}, UNDECIDED, notes=(note,))


@dataclass(frozen=True)
class Finding:
    """What one condition says.

    Attributes:
        condition: key -> value; empty where a claim has no conditions.
        verdict: supported, contradicted or undecided.
        effect: what is compared with the claim's ``above`` or ``below``.
        contrasts: name -> the comparison behind it: one for a ``contrast``, two for an ``interior``.
        chosen: name of a side -> the setting that its tuning seeds chose.
        tuning: how many seeds chose, and did not judge.
        notes: what else there is to say.
    """

    condition: Setting
    verdict: str
    effect: Interval = ABSENT
    contrasts: tuple[tuple[str, Contrast], ...] = ()
    chosen: tuple[tuple[str, Setting], ...] = ()
    tuning: int = 0
    notes: tuple[str, ...] = ()

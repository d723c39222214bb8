"""Hold the input of a claim's test, the cells of one condition, and its result."""

from collections.abc import Sequence
from dataclasses import dataclass

from gradbench.claims.contrasts import UNDECIDED, Contrast
from gradbench.claims.samples import KeyValues, Side
from gradbench.stats.intervals import CONFIDENCE, NO_VALUES, Interval
from gradbench.stats.selection import tuning_seed_count


@dataclass(frozen=True)
class ConditionCells:
    """The cells of a claim under one condition.

    Attributes:
        sides: treatment and control, or the treatment alone.
        along: the X values of the claim's key ``along``, in the order of the axis.
        condition: key -> value that its cells share; ``None`` for a claim without conditions.
        confidence: coverage of an interval, corrected for the number of conditions.
        missing: why there is nothing to test; empty where there is.
    """

    sides: tuple[Side, ...]
    along: Sequence[float | str] = ("",)
    condition: KeyValues | None = None
    confidence: float = CONFIDENCE
    missing: str = ""

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return int(self.sides[0].values.shape[2])

    @property
    def tuning(self) -> int:
        """Number of seeds that choose a setting; 0 if there is nothing to choose."""
        if not any(side.has_choice for side in self.sides):
            return 0
        return min(tuning_seed_count(self.seeds), self.seeds)

    def undecided(self, note: str) -> "ConditionResult":
        """Return an undecided result with a note that says why."""
        return ConditionResult(self.condition or {}, UNDECIDED, notes=(note,))


@dataclass(frozen=True)
class ConditionResult:
    """The result of a claim's test under one condition.

    Attributes:
        condition: key -> value; empty for a claim without conditions.
        verdict: supported, contradicted or undecided.
        effect: the effect that is compared with the claim's ``above``, ``below`` or ``apart``.
        contrasts: names and comparisons behind the verdict: one for a ``contrast``, two for an ``interior``.
        chosen: names of the sides and the settings that their tuning seeds chose.
        tuning: number of seeds that chose and did not judge.
        notes: remarks to print beside the verdict.
    """

    condition: KeyValues
    verdict: str
    effect: Interval = NO_VALUES
    contrasts: tuple[tuple[str, Contrast], ...] = ()
    chosen: tuple[tuple[str, KeyValues], ...] = ()
    tuning: int = 0
    notes: tuple[str, ...] = ()

"""Compare treatment and control, by the values of their cells and by the share of cells lost.

Shapes: R seeds, paired.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gradbench.claims.samples import SeedValues
from gradbench.claims.schema import Claim
from gradbench.stats.decisions import paired_interval
from gradbench.stats.intervals import (
    NO_VALUES,
    Floats,
    Interval,
    interquartile_mean,
    probability_of_improvement,
    share_difference,
)

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"


@dataclass(frozen=True)
class Contrast:
    """A paired comparison of treatment and control on the judging seeds.

    If a cell was lost there are two intervals, of the values and of the share lost, each corrected for there being
    two (Bonferroni). Without the correction, a treatment without effect of which half the cells diverge is called
    better in 5.5 % of experiments, by one interval or the other.

    Attributes:
        claim: the claim that the comparison tests.
        treated: values of the treatment, [R].
        control: values of the control, [R].
        confidence: joint coverage of the two intervals.
    """

    claim: Claim
    treated: SeedValues
    control: SeedValues
    confidence: float

    @property
    def interval_confidence(self) -> float:
        """Coverage of each interval."""
        return 1 - (1 - self.confidence) / 2 if any(self.lost) else self.confidence

    @cached_property
    def differences(self) -> Floats:
        """Effect of each seed, [R]: a difference, or the logarithm of a ratio; nan where either cell is lost."""
        return effect_per_seed(self.claim, self.treated.values, self.control.values)

    @cached_property
    def effect(self) -> Interval:
        """Mean difference or ratio; for ``diverged`` the difference of shares with Newcombe's interval."""
        if self.claim.metric == "diverged":
            counts = [int(np.nansum(row.values)) for row in (self.treated, self.control)]
            n, control_n = self.present
            if not n or not control_n:
                return NO_VALUES
            return share_difference(counts[0], n, counts[1], control_n, confidence=self.interval_confidence)
        return mean_effect(self.claim, self.differences, self.interval_confidence)

    @property
    def interquartile_effect(self) -> Interval:
        """Interquartile mean of the effect."""
        return to_effect_scale(self.claim, interquartile_mean(self.differences, self.interval_confidence))

    @property
    def improvement(self) -> Interval:
        """Probability that a treated cell does better than a control's; lost cells do worst."""
        goal = self.claim.goal
        return probability_of_improvement(
            self.treated.scores(goal), self.control.scores(goal), self.interval_confidence
        )

    @property
    def lost(self) -> tuple[int, int]:
        """Number of lost cells of the treatment and of the control."""
        return int(self.treated.lost.sum()), int(self.control.lost.sum())

    @property
    def present(self) -> tuple[int, int]:
        """Number of cells of the treatment and of the control, lost ones included."""
        treated, control = (
            int((~np.isnan(row.values) | row.lost).sum()) for row in (self.treated, self.control)
        )
        return treated, control

    @property
    def lost_difference(self) -> Interval:
        """Share of lost cells, treatment minus control."""
        (lost, control_lost), (n, control_n) = self.lost, self.present
        if not n or not control_n:
            return NO_VALUES
        return share_difference(lost, n, control_lost, control_n, confidence=self.interval_confidence)


def effect_per_seed(claim: Claim, treated: Floats, control: Floats) -> Floats:
    """Compute each seed's effect [R]: treated minus control, or the logarithm of their ratio; nan if absent."""
    if claim.effect == "difference":
        return treated - control
    positive = (treated > 0) & (control > 0)
    ratio = np.where(positive, treated, 1.0) / np.where(positive, control, 1.0)
    return np.where(positive, np.log(ratio), np.nan)


def mean_effect(claim: Claim, values: Floats, confidence: float) -> Interval:
    """Compute the mean of an effect, one value per seed, with the interval of :func:`paired_interval`."""
    return to_effect_scale(claim, paired_interval(values, confidence))


def note_missing_interval(effect: Interval, tuning: int = 0, any_lost: bool = False) -> tuple[str, ...]:
    """Explain why there is no interval; an empty tuple if there is one, or if lost cells are why.

    Args:
        effect: the effect.
        tuning: number of seeds that chose the settings, and do not judge.
        any_lost: whether cells were lost.
    """
    if not np.isnan(effect.low) or (any_lost and effect.n < 2):
        return ()
    if effect.n < 2:
        beside = f" beside the {tuning} that chose the settings" if tuning else ""
        return (f"no interval: at least two seeds are needed{beside}",)
    return (f"no interval: {effect.n} values that all agree are too few to tell how they spread",)


def to_effect_scale(claim: Claim, interval: Interval) -> Interval:
    """Convert an interval of mean logarithms to one of ratios if the claim is about a ratio."""
    if claim.effect == "difference":
        return interval
    estimate, low, high = (float(np.exp(value)) for value in interval[:3])
    return Interval(estimate, low, high, interval.n)


def locate_interval(claim: Claim, effect: Interval) -> int:
    """Return 1 if the whole interval lies where the claim says, -1 if it falls short of that, 0 otherwise."""
    if claim.min_abs_effect is not None:
        low, high = effect.low - claim.no_effect, effect.high - claim.no_effect
        outside = low > claim.min_abs_effect or high < -claim.min_abs_effect
        return int(outside) - int(-claim.min_abs_effect < low and high < claim.min_abs_effect)
    ends = effect.low - claim.smallest_effect, effect.high - claim.smallest_effect
    low, high = ends if claim.sign > 0 else (-ends[1], -ends[0])
    return int(low > 0) - int(high < 0)


def decide_contrast(contrast: Contrast) -> str:
    """Decide a contrast: supported, contradicted or undecided.

    Used for claims with ``test: contrast`` and ``interior``.

    Losses come first: if the shares of lost cells differ by more than their interval, they decide, unless the
    values of the other cells clearly say the opposite. Otherwise the values decide: the whole interval lies beyond
    the smallest effect that matters (supported), falls short of it (contradicted), or contains it (undecided).
    Values contradict only if the losses do not favour the claim.
    """
    claim, effect = contrast.claim, contrast.effect
    towards = -1 if claim.expects_improvement else 1
    losses, values = 0, locate_interval(claim, effect)
    if any(contrast.lost):
        losses = towards * contrast.lost_difference.sign
    if losses > 0:
        opposite = effect.high < claim.no_effect if claim.sign > 0 else effect.low > claim.no_effect
        return UNDECIDED if opposite else SUPPORTED
    if losses < 0:
        return UNDECIDED if values > 0 else CONTRADICTED
    if values < 0 and towards * (contrast.lost[0] - contrast.lost[1]) > 0:
        return UNDECIDED
    return {1: SUPPORTED, -1: CONTRADICTED, 0: UNDECIDED}[values]

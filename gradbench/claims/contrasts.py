"""Two rows of numbers compared, on both of what may happen to a cell: it has a value, or it is lost.

R seeds, paired.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gradbench.claims.samples import Row
from gradbench.claims.schema import Claim
from gradbench.stats import intervals as stats
from gradbench.stats.intervals import Floats, Interval

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"

ABSENT = Interval(np.nan, np.nan, np.nan, 0)


@dataclass(frozen=True)
class Contrast:
    """Treatment against control, over seeds all of which judge.

    ``confidence`` is that of its two intervals together. Where a cell was lost there are two, of the values and of
    the share lost, and each is as wide as Bonferroni's correction for two asks. Without it, cells of which half
    diverge for no reason are called better in 5.5 % of experiments, by one interval or by the other.
    """

    claim: Claim
    treated: Row
    control: Row
    confidence: float

    @property
    def each(self) -> float:
        """Confidence of each interval."""
        return 1 - (1 - self.confidence) / 2 if any(self.lost) else self.confidence

    @cached_property
    def differences(self) -> Floats:
        """Those of the seeds at which neither is lost, nan elsewhere; logarithms of ratios. Shape: [R]."""
        return difference(self.claim, self.treated.values, self.control.values)

    @cached_property
    def effect(self) -> Interval:
        """Mean difference, or ratio; of shares with Newcombe's interval, which has a width where all agree."""
        if self.claim.metric == "diverged":
            counts = [int(np.nansum(row.values)) for row in (self.treated, self.control)]
            n, control_n = self.present
            if not n or not control_n:
                return ABSENT
            return stats.share_difference(counts[0], n, counts[1], control_n, confidence=self.each)
        return mean_effect(self.claim, self.differences, self.each)

    @property
    def middle(self) -> Interval:
        """The same, of the interquartile mean."""
        return presented(self.claim, stats.interquartile_mean(self.differences, self.each))

    @property
    def improvement(self) -> Interval:
        """Probability that a treated cell does better than a control's, a lost one doing worst."""
        goal = self.claim.goal
        return stats.probability_of_improvement(
            self.treated.scores(goal), self.control.scores(goal), self.each
        )

    @property
    def lost(self) -> tuple[int, int]:
        """How many cells were lost, of the treatment and of the control."""
        return int(self.treated.lost.sum()), int(self.control.lost.sum())

    @property
    def present(self) -> tuple[int, int]:
        """How many cells there were."""
        treated, control = (
            int((~np.isnan(row.values) | row.lost).sum()) for row in (self.treated, self.control)
        )
        return treated, control

    @property
    def losses(self) -> Interval:
        """Share of lost cells, treatment minus control."""
        (lost, control_lost), (n, control_n) = self.lost, self.present
        if not n or not control_n:
            return ABSENT
        return stats.share_difference(lost, n, control_lost, control_n, confidence=self.each)


def difference(claim: Claim, treated: Floats, control: Floats) -> Floats:
    """Return treated minus control, or the logarithm of treated over control; nan where either is absent."""
    if claim.effect == "difference":
        return treated - control
    positive = (treated > 0) & (control > 0)
    ratio = np.where(positive, treated, 1.0) / np.where(positive, control, 1.0)
    return np.where(positive, np.log(ratio), np.nan)


def mean_effect(claim: Claim, values: Floats, confidence: float) -> Interval:
    """Return the mean of an effect, one value per seed, with its t interval; nan values are absent.

    Where all n values agree, as counts of modes and choices among few values do, the t interval has no width,
    however few they are. It then has ends only where a sign test would be as sure, ``2^(1 - n) <= 1 - confidence``:
    six values at 95 %, seven or more where that is corrected. Without this, an effect that is one of two values at
    even odds is called larger than its mean in 24 % of experiments with n = 2, 12 % with 3 and 6 % with 4; with it
    in none of these, and in at most 5 % up to n = 16, but for 6 % at n = 7, where six may agree. It is no cure for
    what is rare: one seed in five that loses four times what the others gain is missed in 25 % of experiments
    with n = 6, in 7 % with 12 and in 14 % with 16.
    """
    effect = stats.mean_interval(values, confidence=confidence)
    known = values[~np.isnan(values)]
    agree = effect.n > 1 and np.allclose(known, known[0], rtol=1e-9, atol=1e-12)
    if agree and 2.0 ** (1 - effect.n) > 1 - confidence:
        effect = Interval(effect.estimate, np.nan, np.nan, effect.n)
    return presented(claim, effect)


def unspread(effect: Interval) -> tuple[str, ...]:
    """Say why several values have no interval."""
    if effect.n < 2 or not np.isnan(effect.low):
        return ()
    return (f"no interval: {effect.n} values that all agree are too few to tell how they spread",)


def presented(claim: Claim, interval: Interval) -> Interval:
    """Return an interval of mean logarithms as one of ratios; any other as it is."""
    if claim.effect == "difference":
        return interval
    estimate, low, high = (float(np.exp(value)) for value in interval[:3])
    return Interval(estimate, low, high, interval.n)


def beyond(claim: Claim, effect: Interval) -> int:
    """Return 1 where the whole interval is where the claim says, -1 where it falls short, 0 where it is neither."""
    if claim.apart is not None:
        low, high = effect.low - claim.neutral, effect.high - claim.neutral
        outside = low > claim.apart or high < -claim.apart
        return int(outside) - int(-claim.apart < low and high < claim.apart)
    ends = effect.low - claim.least, effect.high - claim.least
    low, high = ends if claim.sign > 0 else (-ends[1], -ends[0])
    return int(low > 0) - int(high < 0)


def decide(found: Contrast) -> str:
    """Return the verdict of a contrast.

    Losses come first: where the shares of lost cells differ by more than their interval, they decide, unless the
    values of those that were not lost say the opposite as clearly. Where they do not, the values decide: the
    whole interval lies beyond the smallest effect that matters (supported), or short of it (contradicted), or
    contains it (undecided). Values of survivors contradict only where losses do not point the claim's way.
    """
    claim, effect = found.claim, found.effect
    towards = -1 if claim.improves else 1
    losses, values = 0, beyond(claim, effect)
    if any(found.lost):
        losses = towards * found.losses.sign
    if losses > 0:
        opposite = effect.high < claim.neutral if claim.sign > 0 else effect.low > claim.neutral
        return UNDECIDED if opposite else SUPPORTED
    if losses < 0:
        return UNDECIDED if values > 0 else CONTRADICTED
    if values < 0 and towards * (found.lost[0] - found.lost[1]) > 0:
        return UNDECIDED
    return {1: SUPPORTED, -1: CONTRADICTED, 0: UNDECIDED}[values]

"""The scale on which scores of a metric are averaged and compared, and the way back to the metric's own units."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from gradbench.stats.intervals import Floats, Interval

SCALES = ("log", "logit", "linear")

EXAMPLES = 1000.0
"""Test examples behind a share, where nobody recorded their number."""


@dataclass(frozen=True)
class Scale:
    """A monotone scale of a metric. Means and intervals are taken on it and shown in the metric's units.

    Perplexities, losses and distances multiply (``log``): seeds spread by factors, and an interval cannot fall below
    zero. Shares (``logit``) spread less near 0 and 1, and no interval leaves [0, 1]; a share of ``examples`` is
    smoothed to ``(share examples + 1/2) / (examples + 1)`` first, so that 0 and 1 are values. Anything else is
    ``linear``.

    Attributes:
        name: ``log``, ``logit`` or ``linear``.
        examples: number of examples behind a share.
        least: smallest value that a metric on a ``log`` scale can have: 1 for a perplexity.
    """

    name: str = "linear"
    examples: float = EXAMPLES
    least: float = 0.0

    def forward(self, values: npt.ArrayLike) -> Floats:
        """Convert values of the metric to the scale; nan where they are none of it (a logarithm of 0)."""
        given = np.asarray(values, dtype=np.float64)
        if self.name == "linear":
            return given
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.name == "log":
                return np.where(given > 0, np.log(given), np.nan)
            share = (given * self.examples + 0.5) / (self.examples + 1)
            return np.where((given >= 0) & (given <= 1), special.logit(share), np.nan)

    def back(self, values: npt.ArrayLike) -> Floats:
        """Convert values of the scale to the metric; the inverse of :meth:`forward` within the metric's range."""
        given = np.asarray(values, dtype=np.float64)
        if self.name == "linear":
            return given
        if self.name == "log":
            with np.errstate(over="ignore"):
                return np.maximum(np.exp(given), self.least)
        share = (special.expit(given) * (self.examples + 1) - 0.5) / self.examples
        return np.asarray(np.clip(share, 0.0, 1.0))

    def interval(self, on_scale: Interval) -> Interval:
        """Convert an interval of a mean on the scale to the metric's units."""
        return on_scale.mapped(self.back)

    def change(self, difference: Interval, level: float) -> Interval:
        """Convert the difference of two means on the scale to a change that people read.

        Args:
            difference: second minus first, on the scale.
            level: the first, in the metric's units.

        Returns:
            On a ``log`` scale the relative change (−0.2: 20 % lower); otherwise the difference in the metric's units.
            From ``level`` it never leads out of the metric's range.
        """
        if self.name == "linear":
            return difference
        if self.name == "log":
            with np.errstate(over="ignore"):
                return difference.mapped(lambda moved: np.maximum(np.expm1(moved), self.least / level - 1))
        start = self.forward(level)
        return difference.mapped(lambda moved: self.back(start + moved) - self.back(start))

    def gains_within(self, margin: float, level: float, sign: int) -> tuple[float, float]:
        """Return the range of gains on the scale that stay within a margin, around 0; nan for a level of nan.

        It has no end where the metric has none beyond the margin: from a share of 0.995 no gain exceeds 0.01.

        Args:
            margin: change in each direction, above 0: relative on a ``log`` scale, in the metric's units otherwise.
            level: the metric before the change.
            sign: 1 if lower values are better, -1 if higher ones are.
        """
        step = level * margin if self.name == "log" else margin
        ends = np.array([level - step, level + step])
        moved = self.forward(ends)
        if self.name == "logit":
            moved = np.where(ends <= 0, -np.inf, np.where(ends >= 1, np.inf, moved))
        gains = -sign * (moved - self.forward(level))
        return float(gains.min()), float(gains.max())

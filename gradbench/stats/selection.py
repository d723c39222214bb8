"""Choose a setting on some seeds and judge it on others. Shapes: S settings, R seeds."""

import numpy as np
import numpy.typing as npt


def choose_setting(scores: npt.ArrayLike) -> int:
    """Choose the best row of ``scores`` [S, R] and return its index, or -1 if every score is absent.

    Lower scores are better; ``inf`` marks a diverged cell and nan an absent one. The row with the smallest share of
    diverged cells wins, then the one with the lowest mean of the others, then the first.
    """
    table = np.asarray(scores, dtype=np.float64)
    known, finite = (~np.isnan(table)).sum(axis=1), np.isfinite(table).sum(axis=1)
    if not known.any():
        return -1
    total = np.where(np.isfinite(table), table, 0.0).sum(axis=1)
    diverged = np.divide(known - finite, known, out=np.full(len(table), np.inf), where=known > 0)
    mean = np.divide(total, finite, out=np.full(len(table), np.inf), where=finite > 0)
    return int(np.lexsort((mean, diverged))[0])


def tuning_seed_count(n: int) -> int:
    """Compute how many of n seeds, the first ones, choose a setting; the others judge it.

    A quarter, at least two. Its level is exact, since the judging seeds are independent. Used by claims, which say
    beforehand what is compared. Simulated with 8 settings of which four help: share called better, for effects of 0,
    .8 and 1.6 standard deviations:

        n = 8     .02 .15 .52
        n = 12    .03 .24 .78
        n = 20    .03 .39 .92
    """
    return max(2, n // 4)

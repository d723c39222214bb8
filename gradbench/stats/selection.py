"""Choose a setting on some seeds and judge it on others. Shapes: S settings, R seeds."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gradbench.stats.intervals import Floats

Ints = npt.NDArray[np.int64]


def choose_setting(scores: npt.ArrayLike) -> int:
    """Choose the best row of ``scores`` [S, R] and return its index, or -1 if every score is absent.

    Lower scores are better; ``inf`` marks a diverged cell and nan an absent one. The row with the smallest share of
    diverged cells wins, then the one with the lowest mean of the others, then the first.
    """
    table = np.asarray(scores, dtype=np.float64)
    finite, known = np.isfinite(table), ~np.isnan(table)
    total = np.where(finite, table, 0.0).sum(axis=1)
    return int(_best_rows(known.sum(axis=1), finite.sum(axis=1), total)) if table.size else -1


def _best_rows(known: Ints, finite: Ints, total: Floats) -> Ints:
    """Choose a row of each column as :func:`choose_setting` does, or -1 where no score is known.

    Args:
        known: number of scores of each setting, [S, ...].
        finite: number of those that did not diverge, [S, ...].
        total: sum of the finite scores, [S, ...].

    """
    diverged = np.divide(known - finite, known, out=np.full(known.shape, np.inf), where=known > 0)
    mean = np.divide(total, finite, out=np.full(known.shape, np.inf), where=finite > 0)
    best: Ints = np.where((known > 0).any(axis=0), np.lexsort((mean, diverged), axis=0)[0], -1)
    return best


class CrossFit(NamedTuple):
    """For each seed, the setting chosen on the other seeds and its score on this one.

    The held-out scores are unbiased, but not independent: every seed also took part in the choices of the others.
    ``variance_factor`` corrects the variance of their mean for that: 1 if there was nothing to choose,
    otherwise ``1 + R / (R - 1)``, the correction of Nadeau and Bengio, "Inference for the generalization error"
    (2003), with one seed held out of R. Without it, settings that all do nothing are called different from
    ``none`` too often. Simulated with 12 such settings, in percent (plain | corrected):

        R     by the metric    by diverged shares, at the worst rate
        3      6 | 2            6 |  7
        5     10 | 3           17 |  6
        10    14 | 4           18 |  8
        20    22 | 6           28 | 12
    """

    chosen: npt.NDArray[np.int64]  # [R], index of the setting, -1 if none could be chosen
    held_out: Floats  # [R], scores; inf if the held-out cell diverged, nan if it is absent
    variance_factor: float  # at least 1


def cross_fit(scores: npt.ArrayLike) -> CrossFit:
    """Choose a setting on all seeds but one and score it on that one, for each seed in turn.

    The best of several settings looks good partly by luck. A held-out seed takes no part in the choice, so the mean
    of ``held_out`` can be compared with that of a setting that was not chosen. Used by the report's answer box and
    table of treatments.

    Args:
        scores: [S, R], lower is better, ``inf`` diverged, nan absent (see :func:`choose_setting`).

    """
    table = np.asarray(scores, dtype=np.float64)
    if not table.size:
        seeds = table.shape[1]
        return CrossFit(np.full(seeds, -1, dtype=np.int64), np.full(seeds, np.nan), 1.0)
    finite, known_cells = np.isfinite(table), ~np.isnan(table)
    chosen = _best_rows(*map(_sum_of_others, (known_cells, finite, np.where(finite, table, 0.0))))
    held_out = np.where(chosen < 0, np.nan, np.take_along_axis(table, chosen[None], axis=0)[0])
    known = int((~np.isnan(held_out)).sum())
    variance_factor = 1 + known / (known - 1) if len(table) > 1 and known > 1 else 1.0
    return CrossFit(chosen, held_out, variance_factor)


def _sum_of_others(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Sum each row without one column, for each column in turn, [S, R] -> [S, R].

    From the sums before and behind it: taking the column off the whole row's sum would leave nothing of small scores
    beside a huge one.
    """
    before, behind = np.cumsum(values, axis=1), np.cumsum(values[:, ::-1], axis=1)[:, ::-1]
    found = np.zeros_like(before)
    found[:, 1:] += before[:, :-1]
    found[:, :-1] += behind[:, 1:]
    return found


def tuning_seed_count(n: int) -> int:
    """Compute how many of n seeds, the first ones, choose a setting; the others judge it.

    A quarter, at least two. Compared with :func:`cross_fit`, which judges on every seed but needs the correction,
    this is as powerful and its level is exact, since the judging seeds are independent. Used by claims. Simulated
    with 8 settings of which four help (share called better | with :func:`cross_fit`), effects of 0, .8 and 1.6
    standard deviations:

        n = 8     .02 .15 .52 | .01 .12 .51
        n = 12    .03 .24 .78 | .02 .20 .75
        n = 20    .03 .39 .92 | .02 .38 .95
    """
    return max(2, n // 4)

"""Decide whether treated cells do better than others: the one rule of answers, comparisons of folders and claims.

Shapes: S settings (a treatment at a strength), R seeds that all share, A treatments ("arms") of several settings each.
Scores are on the metric's scale (:mod:`gradbench.stats.scales`), signed so that lower is better; ``inf`` marks a
diverged cell and nan an absent one. Gains are differences of scores, paired by seed; above zero the treatment is
better.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from gradbench.stats.intervals import (
    CONFIDENCE,
    NO_VALUES,
    Floats,
    Interval,
    mean_interval,
    share_difference,
)
from gradbench.stats.selection import choose_setting

BETTER, WORSE, EQUAL, UNDECIDED = "better", "worse", "equal", "undecided"
NO_BETTER = "no better"
"""Equal or worse: shown not to be better by more than the margin, and neither to be worse nor to be as good."""

LEAVE_ALONE = (EQUAL, NO_BETTER, WORSE)
"""Verdicts on all treatments at which the gradients are left alone."""

POWER = 0.8
"""Share of experiments in which the number of seeds that is proposed decides, if the estimates are the truth."""

DRAWS = 4000
MANY_SEEDS = 50
"""Seeds from which a t distribution is taken to be normal where a joint confidence is simulated."""
MAX_SIMULATED = 300
"""Comparisons whose joint confidence is simulated; for more, which would take long, it is Bonferroni's."""


def paired_interval(gains: npt.ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Compute the mean of paired differences with its Student t interval; nan values are absent.

    If all n values agree, as differences of counts and of choices among few values do, the t interval has no width,
    however small n is. It then has ends only if a sign test is significant, ``2^(1 - n) <= 1 - confidence``: six values
    at 95 %, seven or more at a corrected level. Without this rule, a difference that takes one of two values at even
    odds is called larger than its mean in 24 % of experiments with n = 2, 12 % with 3 and 6 % with 4; with it in none
    of these, and in at most 5 % up to n = 16, except for 6 % at n = 7, where six may agree. Rare losses stay hard: one
    seed in five that loses four times what the others gain is missed in 25 % of experiments with n = 6, in 7 % with 12
    and in 14 % with 16.
    """
    found = mean_interval(gains, confidence=confidence)
    values = np.asarray(gains, dtype=np.float64)
    known = values[~np.isnan(values)]
    agree = found.n > 1 and np.allclose(known, known[0], rtol=1e-9, atol=1e-12)
    if agree and 2.0 ** (1 - found.n) > 1 - confidence:
        return Interval(found.estimate, np.nan, np.nan, found.n)
    return found


@dataclass(frozen=True)
class Comparison:
    """One setting against a control, by the metric of the cells that completed and by the share of cells lost.

    Attributes:
        gain: mean gain over the seeds at which both completed; its interval holds jointly with those of the other
            settings and with that of ``lost_gain``.
        ceiling: upper bound of 95 % of the mean gain, one-sided, of this setting alone.
        floor: lower bound of 95 %, one-sided, that holds jointly with those of the other settings.
        lost: cells that diverged, of the treatment and of the control.
        present: cells, diverged ones included, of the treatment and of the control.
        lost_gain: how much smaller the share of diverged cells is, with Newcombe's interval.
    """

    gain: Interval
    ceiling: float
    floor: float
    lost: tuple[int, int]
    present: tuple[int, int]
    lost_gain: Interval

    @property
    def sign(self) -> int:
        """1 if better, -1 if worse, 0 if neither, or if metric and share of lost cells contradict each other."""
        total = self.gain.sign + self.lost_gain.sign
        return (total > 0) - (total < 0)


def compare_settings(
    scores: npt.ArrayLike, control: npt.ArrayLike, confidence: float = CONFIDENCE
) -> list[Comparison]:
    """Compare each setting with the control, with intervals that hold jointly for all of them.

    The settings may then be looked at together, and the best chosen, without luck counting as evidence. If a cell was
    lost anywhere, the metric and the share of lost cells are two questions, and each gets half of the error.

    Args:
        scores: [S, R].
        control: [R], or [S, R] if each setting has its own.
        confidence: joint coverage of all intervals.
    """
    treated = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    base = np.broadcast_to(np.asarray(control, dtype=np.float64), treated.shape)
    lost, base_lost = np.isposinf(treated), np.isposinf(base)
    error = 1 - confidence
    questions = 2 if lost.any() or base_lost.any() else 1
    with np.errstate(invalid="ignore"):
        gains = np.where(lost | base_lost, np.nan, base - treated)
    one_sided = 1 - 2 * error / questions
    joint, joint_one_sided = joint_confidences(gains, [1 - error / questions, one_sided])
    share_confidence = 1 - error / questions / max(len(treated), 1)
    found = []
    counted = [array.sum(axis=1).tolist() for array in (lost, base_lost, ~np.isnan(treated), ~np.isnan(base))]
    for own, *counts in zip(gains, *counted, strict=True):
        gone, base_gone, n, base_n = counts
        lost_gain = NO_VALUES
        if n and base_n:
            lost_gain = share_difference(base_gone, base_n, gone, n, confidence=share_confidence)
        ceiling, floor = paired_interval(own, one_sided).high, paired_interval(own, joint_one_sided).low
        gain = paired_interval(own, joint)
        found.append(Comparison(gain, ceiling, floor, (gone, base_gone), (n, base_n), lost_gain))
    return found


def joint_confidence(differences: npt.ArrayLike, confidence: float = CONFIDENCE) -> float:
    """Compute the confidence each of S intervals of a mean needs for all of them to hold jointly.

    See :func:`joint_confidences`.
    """
    (found,) = joint_confidences(differences, [confidence])
    return found


def joint_confidences(differences: npt.ArrayLike, confidences: Sequence[float]) -> list[float]:
    """Compute for some joint confidences the one that each of S intervals of a mean needs, by one simulation.

    Between ``1 - (1 - confidence) / S`` (Bonferroni), right for independent differences, and ``confidence``, right
    for differences that always agree. Settings that share their seeds and their control lie in between. The largest
    |t| of S correlated means is simulated, as in Dunnett, "A multiple comparison procedure for comparing several
    treatments with a control" (1955), with the sample's correlations; few seeds know these badly, so they are pulled
    towards independence by ``1 / (R - 1)``. The same differences always give the same number.

    Args:
        differences: [S, R]; nan values are absent.
        confidences: joint coverages.
    """
    table = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    known = ~np.isnan(table)
    use = known.sum(axis=1) > 1
    count = int(use.sum())
    if count < 2:
        return list(confidences)
    if count > MAX_SIMULATED:
        return [1 - (1 - confidence) / count for confidence in confidences]
    known, n = known[use], known[use].sum(axis=1)  # [S, R], [S]
    centered = np.where(known, table[use], 0.0)
    centered = np.where(known, centered - (centered.sum(axis=1) / n)[:, None], 0.0)
    size = np.sqrt((centered**2).sum(axis=1))
    unit = np.divide(centered, size[:, None], out=np.zeros_like(centered), where=size[:, None] > 0)
    pull = 1 / (table.shape[1] - 1)
    correlation = (1 - pull) * unit @ unit.T + pull * np.eye(count)
    values, vectors = np.linalg.eigh(correlation)
    factor = vectors * np.sqrt(np.maximum(values, 0.0))  # [S, S]
    rng = np.random.default_rng(0)
    if table.shape[1] > MANY_SEEDS:
        smallest = 2 * special.ndtr(-np.abs(rng.standard_normal((DRAWS, count)) @ factor.T)).min(axis=1)
    else:
        smallest = np.concatenate([_smallest_p(rng, factor, known.T, n, 200) for _ in range(DRAWS // 200)])
    return [float(1 - np.quantile(smallest, 1 - confidence)) for confidence in confidences]


def _smallest_p(
    rng: np.random.Generator,
    factor: Floats,
    known: npt.NDArray[np.bool_],
    n: npt.NDArray[np.int64],
    draws: int,
) -> Floats:
    """Draw experiments of correlated normal differences, and return the least p of the t tests of each, [draws].

    Args:
        rng: source of random numbers.
        factor: its product with its transpose is the correlation of the settings, [S, S].
        known: which differences there are, [R, S].
        n: number of differences of each setting, [S].
        draws: number of experiments.
    """
    drawn = np.where(known, rng.standard_normal((draws, *known.shape)) @ factor.T, 0.0)  # [draws, R, S]
    total, squares = drawn.sum(axis=1), (drawn**2).sum(axis=1)
    spread = np.sqrt(np.maximum(squares - total**2 / n, 1e-300) / (n - 1))
    return np.asarray((2 * special.stdtr(n - 1, -np.abs(total) / np.sqrt(n) / spread)).min(axis=1))


Margins = tuple[float, float]
"""Range of gains that are too small to matter, around 0."""


@dataclass(frozen=True)
class Contender:
    """One arm (a treatment with all its settings) in a ranking.

    Attributes:
        arm: index of the arm.
        setting: index of its best setting: the least share of diverged cells, then the lowest mean score.
        verdict: against the control: better, worse, equal, no better or undecided; empty for the control itself, and
            without one.
        against_control: its best setting against the control's best; None without a control.
        behind_first: gain of the first arm's best setting over this arm's, with an interval that holds jointly for all
            settings; ``NO_VALUES`` for the first.
        probability_best: share of resampled experiments in which this arm comes first.
    """

    arm: int
    setting: int
    verdict: str
    against_control: Comparison | None
    behind_first: Interval
    probability_best: float


@dataclass(frozen=True)
class Ranking:
    """Arms in order, the best first.

    Attributes:
        contenders: the arms that have a score.
        verdict: ``better``: some arm beats the control. ``equal``: none is better by more than the margin, and one is
            as good. ``no better``: none is better by more than the margin. ``worse``: every arm is worse. ``undecided``
            otherwise, and without a control.
        as_good: settings of the first arm that lost no larger share of cells than its best and are not shown to be
            worse; its best is among them.
        compared: setting -> its comparison with the control's best setting; empty without a control.
    """

    contenders: tuple[Contender, ...]
    verdict: str
    as_good: tuple[int, ...]
    compared: Mapping[int, Comparison]


def rank_arms(
    scores: npt.ArrayLike,
    arms: Sequence[int],
    control: int | None = None,
    margins: Margins | None = None,
    confidence: float = CONFIDENCE,
) -> Ranking:
    """Rank arms by their best settings, and judge each against the control arm.

    An arm is better if one of its settings is, against every setting of the control, jointly corrected, and is not
    shown to be better by less than the margin. It is equal if none of its settings is better than the control by more
    than the margin (each tested alone at 5 %, since all must pass: two one-sided tests, Schuirmann, 1987) and one is
    shown not to be worse by more than it. It is worse if all its settings are. It is no better if none of its settings
    is better by more than the margin, and it is neither of these.

    Args:
        scores: [S, R].
        arms: the arm of each setting, [S].
        control: the arm that the others are compared with, if any.
        margins: gains within these are too small to matter; None where nobody said.
        confidence: joint coverage of all intervals.
    """
    table, of = np.asarray(scores, dtype=np.float64), np.asarray(arms)
    known = [arm for arm in dict.fromkeys(arms) if not np.isnan(table[of == arm]).all()]
    if not known:
        return Ranking((), UNDECIDED, (), {})
    best = {arm: int(np.flatnonzero(of == arm)[choose_setting(table[of == arm])]) for arm in known}
    order = sorted(known, key=lambda arm: _standing(table[best[arm]]))
    behind = _gains_over(table, best[order[0]], confidence)
    chances = probability_best(table, arms)
    verdicts: dict[int, str] = {}
    compared: dict[int, Comparison] = {}
    if control in best:
        others = [arm for arm in order if arm != control]
        verdicts, compared = _judge_arms(table, of, others, best[control], control, margins, confidence)
    contenders = tuple(
        Contender(
            arm=arm,
            setting=best[arm],
            verdict=verdicts.get(arm, ""),
            against_control=compared.get(best[arm]),
            behind_first=NO_VALUES if arm == order[0] else behind[best[arm]],
            probability_best=chances[arm],
        )
        for arm in order
    )
    first = best[order[0]]
    lost = _standing(table[first])[0]
    as_good = tuple(
        s for s in map(int, np.flatnonzero(of == order[0]))
        if s == first or (_is_open(behind[s]) and _standing(table[s])[0] <= lost)
    )  # fmt: skip
    return Ranking(contenders, _combine(list(verdicts.values())), as_good, compared)


def _standing(scores: Floats) -> tuple[float, float]:
    """Return what arms are ordered by: the share of diverged cells, then the mean score of the others."""
    known, finite = scores[~np.isnan(scores)], scores[np.isfinite(scores)]
    return float(np.isinf(known).mean()), float(finite.mean()) if len(finite) else math.inf


def _is_open(gain: Interval) -> bool:
    """Return whether a gain is not shown to be above zero."""
    return not gain.low > 0


def _gains_over(table: Floats, first: int, confidence: float) -> list[Interval]:
    """Compute the gain of the first setting over each, [S], with intervals that hold jointly.

    An interval above zero shows that the setting is not the best of all. It need not be corrected for which one came
    first: Hsu, "Simultaneous confidence intervals for all distances from the best" (1981).
    """
    finite = np.where(np.isfinite(table), table, np.nan)
    gains = finite - finite[first]
    joint = joint_confidence(np.delete(gains, first, axis=0), confidence) if len(table) > 1 else confidence
    return [paired_interval(row, joint) for row in gains]


def _judge_arms(
    table: Floats,
    of: npt.NDArray[np.int64],
    others: Sequence[int],
    best_control: int,
    control: int,
    margins: Margins | None,
    confidence: float,
) -> tuple[dict[int, str], dict[int, Comparison]]:
    """Judge each arm against the control: arm -> verdict, and setting -> comparison with the control's best."""
    controls, treated = np.flatnonzero(of == control), np.flatnonzero(np.isin(of, others))
    pairs = [(int(setting), int(base)) for setting in treated for base in controls]
    rows, bases = (np.array([pair[side] for pair in pairs], dtype=int) for side in (0, 1))
    found = dict(zip(pairs, compare_settings(table[rows], table[bases], confidence), strict=True))
    compared = {setting: found[setting, base] for setting, base in pairs if base == best_control}
    verdicts = {}
    for arm in others:
        own = [int(setting) for setting in treated if of[setting] == arm]
        against = [[found[setting, int(base)] for base in controls] for setting in own]
        verdicts[arm] = judge_arm(against, [compared[setting] for setting in own], margins)
    return verdicts, compared


def judge_arm(
    against: Sequence[Sequence[Comparison]], with_best: Sequence[Comparison], margins: Margins | None
) -> str:
    """Judge an arm by its settings: better, worse, equal, no better or undecided.

    Args:
        against: for each of its settings, the comparison with each setting of the control.
        with_best: for each of its settings, the comparison with the control's best setting.
        margins: gains within these are too small to matter.
    """
    no_better = margins and all(_is_no_better(one, margins) for one in with_best)
    if no_better and margins and any(_is_as_good(one, margins) for one in with_best):
        return EQUAL
    matters = [not margins or not _is_no_better(one, margins) for one in with_best]
    if any(all(one.sign > 0 for one in row) for row, large in zip(against, matters, strict=True) if large):
        return BETTER
    if all(one.sign < 0 for one in with_best):
        return WORSE
    return NO_BETTER if no_better else UNDECIDED


def _is_no_better(one: Comparison, margins: Margins) -> bool:
    """Return whether a setting is shown not to be better by more than the margin; no cell of the control was lost."""
    return one.lost[1] == 0 and (one.ceiling < margins[1] or one.lost_gain.sign < 0)


def _is_as_good(one: Comparison, margins: Margins) -> bool:
    """Return whether a setting is shown not to be worse by more than the margin, and lost no cell."""
    return one.lost[0] == 0 and one.floor > margins[0]


def _combine(verdicts: Sequence[str]) -> str:
    """Combine the verdicts of all arms."""
    if BETTER in verdicts:
        return BETTER
    if not verdicts or UNDECIDED in verdicts:
        return UNDECIDED
    return next(verdict for verdict in LEAVE_ALONE if verdict in verdicts)


def probability_best(scores: npt.ArrayLike, arms: Sequence[int], draws: int = 2000) -> dict[int, float]:
    """Estimate for each arm the probability that its best setting is the best of all; ties are shared.

    The Bayesian bootstrap of Rubin (1981): seeds get random weights, and each time the best is chosen anew, as
    :func:`rank_arms` does. Weights come from a Dirichlet distribution with parameter ``(R - 2) / R``, so that a mean
    varies by ``s / √R``, as it does between samples. The same scores always give the same numbers.

    Args:
        scores: [S, R].
        arms: the arm of each setting, [S].
        draws: number of resampled experiments.
    """
    table, of = np.asarray(scores, dtype=np.float64), np.asarray(arms)
    seeds, names = table.shape[1], list(dict.fromkeys(arms))
    weights = np.random.default_rng(0).dirichlet(
        np.full(seeds, max((seeds - 2) / seeds, 0.1)), draws
    )  # [D, R]
    known, finite = ~np.isnan(table), np.isfinite(table)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = weights @ finite.T  # [D, S]
        lost = 1 - kept / (weights @ known.T)
        mean = weights @ np.where(finite, table, 0.0).T / kept
    lost, mean = np.where(np.isnan(lost), np.inf, lost.round(9)), np.where(np.isnan(mean), np.inf, mean)
    least = lost.min(axis=1, keepdims=True)
    mean = np.where(lost == least, mean, np.inf)
    first = (lost == least) & (mean == mean.min(axis=1, keepdims=True))
    wins = np.stack([first[:, of == name].any(axis=1) for name in names], axis=1).astype(float)  # [D, A]
    share = (wins / wins.sum(axis=1, keepdims=True)).mean(axis=0)
    return dict(zip(names, map(float, share), strict=True))


def expected_best(scores: npt.ArrayLike, tries: int) -> float:
    """Compute the expected lowest score of ``tries`` different settings drawn at random, with equal chances.

    It compares arms that had different numbers of settings to choose from at an equal budget, as in Dodge et al.,
    "Show your work" (2019), here without replacement: the i-th lowest of n is the lowest of a draw with probability
    ``C(n - i, tries - 1) / C(n, tries)``.

    Args:
        scores: mean scores of the settings, [n]; inf for a setting that always diverges.
        tries: number of settings drawn, 1 to n.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    n = len(ordered)
    possible = n - tries + 1  # the others are never the lowest
    weights = np.array([math.comb(n - i - 1, tries - 1) for i in range(possible)]) / math.comb(n, tries)
    return float(ordered[:possible] @ weights)


def seeds_to_decide(
    scores: npt.ArrayLike, control: npt.ArrayLike, margins: Margins | None, confidence: float = CONFIDENCE
) -> int | None:
    """Compute how many seeds would decide with a power of 80 %, if the estimates are the truth; None over 10,000.

    The fewest of four ways: a setting is better by the metric, it is better by the share of diverged cells, no setting
    is better by more than the margin, or all are worse. All but the third are corrected for the number of settings
    (Bonferroni).

    Args:
        scores: [S, R].
        control: [R].
        margins: gains within these are too small to matter.
        confidence: joint coverage of all intervals.
    """
    table, base = np.asarray(scores, dtype=np.float64), np.asarray(control, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        gains = np.where(np.isfinite(table) & np.isfinite(base), base - table, np.nan)
    known = [row[~np.isnan(row)] for row in gains if (~np.isnan(row)).sum() > 1]
    corrected = 1 - (1 - confidence) / len(table)
    ways = [_count_seeds(row.mean(), row.std(ddof=1), corrected) for row in known]
    if len(known) == len(table):
        ways.append(max(_count_seeds(-row.mean(), row.std(ddof=1), corrected) for row in known))
    if margins and known:
        one_sided = 2 * confidence - 1
        ways.append(max(_count_seeds(margins[1] - row.mean(), row.std(ddof=1), one_sided) for row in known))
    lost = float(np.isposinf(base).sum() / max((~np.isnan(base)).sum(), 1))
    shares = np.isposinf(table).sum(axis=1) / np.maximum((~np.isnan(table)).sum(axis=1), 1)
    ways.append(_count_seeds_by_share(float(shares.min()), lost, corrected))
    count = min(ways)
    return int(count) if count <= SEED_COUNTS[-1] else None


SEED_COUNTS = (*range(3, 100), *(round(100 * 1.05**i) for i in range(95)))
"""Numbers of seeds that are tried, up to 10,000."""


def _count_seeds(size: float, spread: float, confidence: float) -> float:
    """Count the seeds at which a mean of ``size`` is told from 0: ``√n size / spread >= t + z``.

    Where all values agree, as many as :func:`paired_interval` asks for.
    """
    z = float(special.ndtri(POWER))
    fewest = 1 - math.log2(1 - confidence) if spread <= 1e-9 * size else 0
    for n in SEED_COUNTS if size > 0 else ():
        if n < fewest:
            continue
        if math.sqrt(n) * size >= (float(special.stdtrit(n - 1, (1 + confidence) / 2)) + z) * spread:
            return float(n)
    return math.inf


def _count_seeds_by_share(share: float, control_share: float, confidence: float) -> float:
    """Count the seeds at which a smaller share of diverged cells is told from the control's."""
    for n in SEED_COUNTS if share < control_share else ():
        if share_difference(round(control_share * n), n, round(share * n), n, confidence=confidence).low > 0:
            return float(n)
    return math.inf

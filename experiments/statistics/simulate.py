"""Simulate how often answers are right: levels without an effect, power with one, and how sure the first place is.

    python experiments/statistics/simulate.py --draws 1000

prints the tables of gradbench/stats/README.md. An experiment has four treatments at four strengths and a control, whose
scores are a seed's own level plus noise, so that a paired difference has a standard deviation of 1.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from gradbench.stats.decisions import BETTER, EQUAL, LEAVE_ALONE, WORSE, Margins, Ranking, rank_arms
from gradbench.stats.intervals import Floats, paired_difference, share_difference
from gradbench.stats.selection import choose_setting

ARMS, STRENGTHS = 4, 4
SEEDS = (3, 6, 8, 12)
OF = [0, *np.repeat(range(1, ARMS + 1), STRENGTHS)]  # the control, then every treatment's strengths
WHOLE, ALONE = (
    slice(1, 1 + STRENGTHS),
    slice(1, 2),
)  # settings with an effect: a treatment at all strengths, or at one


class Case(NamedTuple):
    """What an experiment is like."""

    name: str
    effect: float = 0.0  # in standard deviations of a paired difference
    where: slice = WHOLE
    diverged: float = 0.0  # probability of each cell
    lognormal: bool = False  # judged on the raw values, to show what the scale is worth


LEVELS = (Case("no effect"), Case("no effect, half of the cells diverge", diverged=0.5))
POWERS = (
    Case("1 SD, one treatment at all strengths", 1.0),
    Case("2 SD, one treatment at all strengths", 2.0),
    Case("1 SD, one strength of one treatment", 1.0, ALONE),
    Case("2 SD, one strength of one treatment", 2.0, ALONE),
    Case("2 SD, log-normal metric on a linear scale", 2.0, lognormal=True),
)
MARGIN = 1.0


def draw(case: Case, seeds: int, rng: np.random.Generator) -> Floats:
    """Draw the scores of an experiment, [1 + ARMS * STRENGTHS, seeds]; lower is better, inf diverged."""
    scores = rng.standard_normal(seeds) + rng.standard_normal((len(OF), seeds)) / np.sqrt(2)
    scores[case.where] -= case.effect
    if case.lognormal:
        scores = np.exp(scores)
    return np.where(rng.random(scores.shape) < case.diverged, np.inf, scores)


def held_out_verdict(scores: Floats) -> str:
    """Decide by the rule that came before: each seed judges the setting that the others chose."""
    control, table = scores[0], scores[1:]
    chosen = [choose_setting(np.delete(table, seed, axis=1)) for seed in range(len(control))]
    held_out = table[chosen, range(len(control))]
    factor = 1 + len(control) / (len(control) - 1)
    value = paired_difference(*(np.where(np.isfinite(s), s, np.nan) for s in (held_out, control)), factor)
    lost = [int(np.isinf(one).sum()) for one in (held_out, control)]
    share = share_difference(lost[0], len(control), lost[1], len(control), factor)
    total = value.sign + share.sign
    return BETTER if total < 0 else WORSE if total > 0 else ""


def rank(scores: Floats, margins: Margins | None = None) -> Ranking:
    """Rank the treatments of an experiment as answers do."""
    return rank_arms(scores, OF, 0, margins)


def experiments(case: Case, seeds: int, draws: int) -> Iterator[Floats]:
    """Draw many experiments, the same ones each time."""
    rng = np.random.default_rng(seeds)
    return (draw(case, seeds, rng) for _ in range(draws))


def share(found: Iterator[bool], draws: int) -> str:
    """Write a share in percent."""
    return f"{100 * sum(found) / draws:.1f}"


def print_table(title: str, cases: tuple[Case, ...], entry: Callable[[Case, int], str]) -> None:
    """Print a table with a row per case and a column per number of seeds."""
    print(f"\n| {title} | {' | '.join(f'n = {seeds}' for seeds in SEEDS)} |")
    print(f"|---|{'---|' * len(SEEDS)}")
    for case in cases:
        print(f"| {case.name} | {' | '.join(entry(case, seeds) for seeds in SEEDS)} |", flush=True)


def calibration(draws: int) -> Iterator[str]:
    """Yield a row per range of the probability that the first place is right, and how often it was."""
    rng, claimed, right = np.random.default_rng(0), [], []
    for _ in range(draws):
        case = Case("", effect=rng.choice([0.3, 0.6, 1.0, 1.5]))
        first = rank(draw(case, int(rng.choice(SEEDS)), rng)).contenders[0]
        claimed.append(first.probability_best)
        right.append(first.arm == 1)
    for low, high in ((0.0, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 0.97), (0.97, 1.01)):
        inside = (np.array(claimed) >= low) & (np.array(claimed) < high)
        yield f"| {low:.2f} to {min(high, 1.0):.2f} | {inside.sum()} | {100 * np.array(right)[inside].mean():.0f} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=1000, help="experiments per entry")
    draws = parser.parse_args().draws

    def levels(case: Case, seeds: int) -> str:
        found = [rank(scores) for scores in experiments(case, seeds, draws)]
        rows = [[one.verdict for one in ranking.contenders] for ranking in found]
        before = [held_out_verdict(scores) for scores in experiments(case, seeds, draws)]
        counts = (
            (verdict == BETTER for verdict in before),
            (verdict == WORSE for verdict in before),
            (BETTER in row for row in rows),
            (WORSE in row for row in rows),
        )
        return " ".join(share(one, draws) for one in counts)

    def powers(case: Case, seeds: int) -> str:
        before = (held_out_verdict(scores) == BETTER for scores in experiments(case, seeds, draws))
        after = (rank(scores).verdict == BETTER for scores in experiments(case, seeds, draws))
        return f"{share(before, draws)} → {share(after, draws)}"

    def equal(case: Case, seeds: int) -> str:
        found = [rank(scores, (-MARGIN, MARGIN)).verdict for scores in experiments(case, seeds, draws)]
        counts = ((verdict == EQUAL for verdict in found), (verdict in LEAVE_ALONE for verdict in found))
        return " ".join(share(one, draws) for one in counts)

    print_table("% better, worse before; some treatment better, some worse now", LEVELS, levels)
    print_table("% found, before → now", POWERS, powers)
    cases = (
        Case("no effect"),
        Case("every treatment is worse by half the margin", -MARGIN / 2, slice(1, None)),
        Case("one treatment is better by the margin", MARGIN),
        Case("one strength of one treatment is better by the margin", MARGIN, ALONE),
    )
    print_table(f"% equal within ±{MARGIN} SD, and equal, no better or worse", cases, equal)
    print("\n| said to be best with probability | experiments | were best, % |\n|---|---|---|")
    for row in calibration(4 * draws):
        print(row)


if __name__ == "__main__":
    main()

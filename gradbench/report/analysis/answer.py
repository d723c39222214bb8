"""The answer box: for each comparison, what to do to the gradients, with the numbers that say so."""

import math
from dataclasses import dataclass
from itertools import groupby

from gradbench.report.analysis.comparison import (
    BETTER,
    UNDECIDED,
    WORSE,
    Comparison,
    Judgement,
    comparisons,
    judge,
    step_ratio,
)
from gradbench.report.load.cells import NONE, Results
from gradbench.report.render import formatting as text

NOTICEABLE_COST = 1.1  # below this, step times of separate stacks differ by chance


@dataclass(frozen=True)
class Answer:
    """One line of the answer box.

    ``model`` is the comparison (the model, and what else sets its cells apart), ``treatment`` what to do
    (``none``: leave the gradients alone), ``value`` the metric there with its interval, ``sentence`` the
    evidence.
    """

    model: str
    treatment: str
    verdict: str
    value: str
    sentence: str


def answers(results: Results) -> list[Answer]:
    """Answer each comparison, in the order of their labels."""
    return [answer(comparison) for comparison in comparisons(results)]


def answer(comparison: Comparison) -> Answer:
    """Judge the best of all treatments against ``none`` and say what follows."""
    treatments = [name for name in comparison.treatments if name != NONE]
    judgement = judge(comparison, treatments)
    if (unjudged := _unjudged(comparison, judgement)) is not None:
        return Answer(comparison.label, UNDECIDED, UNDECIDED, *unjudged)
    value = f"{comparison.name} {text.interval(judgement.value)}" if judgement.value.n else ""
    if judgement.verdict == BETTER:
        return Answer(comparison.label, _chosen(judgement), BETTER, value, _evidence(judgement))
    if judgement.verdict == WORSE:
        control = f"{comparison.name} {text.interval(judgement.control)}" if judgement.control.n else ""
        best = " ".join(("the best treatment,", f"{_chosen(judgement)},", "does worse:", value)).strip()
        sentence = f"{best} {_evidence(judgement)}"
        return Answer(comparison.label, NONE, WORSE, control, sentence)
    sentence = (
        f"the best treatment ({_chosen(judgement)}) does not differ from none by more than its interval: "
        f"{_evidence(judgement)}"
    )
    return Answer(comparison.label, UNDECIDED, UNDECIDED, value, sentence)


def _unjudged(comparison: Comparison, judgement: Judgement) -> tuple[str, str] | None:
    """Return value and sentence where there is nothing to judge: no cells, one seed, no ``none``."""
    statuses = comparison.cells["status"]
    control = f"{comparison.name} {text.interval(judgement.control)}" if judgement.control.n else ""
    if (statuses == "failed").all():
        return "", f"every cell failed ({len(statuses)} of {len(statuses)}); see the audit"
    if (statuses == "diverged").all():
        return "", f"every cell diverged ({len(statuses)} of {len(statuses)})"
    if not judgement.treatments:
        return (
            control,
            "only none was run: add a treatment to compare it with, such as regularizer=none,clip_norm",
        )
    if judgement.control_n == 0:
        return "", "no cell of none finished to compare with: add regularizer=none"
    if judgement.n == 0:
        return (
            "",
            "too few seeds to choose on some and judge on others: add seeds, such as seed=range(5)",
        )
    return None


def _chosen(judgement: Judgement) -> str:
    """Name the settings that the folds chose, most often chosen first."""
    ordered = sorted(judgement.folds, key=lambda fold: fold.treatment)
    groups = [(name, list(folds)) for name, folds in groupby(ordered, key=lambda fold: fold.treatment)]
    groups.sort(key=lambda group: -len(group[1]))
    names = [text.setting(name, folds[0].quantity, (f.strength for f in folds)) for name, folds in groups]
    return text.listed(names, "or")


def _evidence(judgement: Judgement) -> str:
    """Say how ``none`` fared, by how much they differ, and what the treatment costs."""
    parts = [f"n = {judgement.n}"]
    if judgement.control.n:
        parts.append(f"against {text.interval(judgement.control)} for none")
    if judgement.control_diverged:
        parts.append(f"none diverged in {judgement.control_diverged} of {judgement.control_n} seeds")
    if judgement.diverged:
        parts.append(f"the treatment diverged in {judgement.diverged} of {judgement.n} seeds")
    if judgement.difference.n:
        parts.append(f"difference {text.interval(judgement.difference)}")
    ratio = max((step_ratio(judgement.comparison, fold) for fold in set(judgement.folds)), default=math.nan)
    if ratio > NOTICEABLE_COST:
        parts.append(f"{text.number(ratio, 2)}× the step")
    return " · ".join(parts)

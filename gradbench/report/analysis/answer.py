"""Answer, for each comparison, which treatment to use, with the numbers behind it."""

from dataclasses import dataclass
from itertools import groupby

from gradbench.report.analysis.comparison import (
    BETTER,
    UNDECIDED,
    WORSE,
    ComparisonGroup,
    TreatmentJudgement,
    judge_treatments,
)
from gradbench.report.analysis.cost import cost_of
from gradbench.report.load.cells import NONE
from gradbench.report.render.formatting import format_interval, format_number, format_setting, join_words

NOTICEABLE_COST = 1.1  # ratio of step times that is worth a word


@dataclass(frozen=True)
class Answer:
    """One line of the answer box.

    Attributes:
        model: label of the comparison: the model, and the config values that set its cells apart.
        treatment: the recommended treatment at its strength; ``none`` leaves the gradients alone.
        verdict: better, worse or undecided.
        value: the metric with its interval under that treatment.
        sentence: the evidence.
    """

    model: str
    treatment: str
    verdict: str
    value: str
    sentence: str


def answer_comparison(comparison: ComparisonGroup) -> Answer:
    """Judge the best of all treatments against ``none`` and write the answer."""
    treatments = [name for name in comparison.treatments if name != NONE]
    judgement = judge_treatments(comparison, treatments)
    if (unjudged := _answer_without_judgement(comparison, judgement)) is not None:
        return Answer(comparison.label, UNDECIDED, UNDECIDED, *unjudged)
    value = f"{comparison.metric_name} {format_interval(judgement.value)}" if judgement.value.n else ""
    if judgement.verdict == BETTER:
        return Answer(comparison.label, _name_chosen(judgement), BETTER, value, _format_evidence(judgement))
    if judgement.verdict == WORSE:
        control = (
            f"{comparison.metric_name} {format_interval(judgement.control)}" if judgement.control.n else ""
        )
        best = " ".join(("the best treatment,", f"{_name_chosen(judgement)},", "does worse:", value)).strip()
        sentence = f"{best} {_format_evidence(judgement)}"
        return Answer(comparison.label, NONE, WORSE, control, sentence)
    sentence = (
        f"the best treatment ({_name_chosen(judgement)}) does not differ from none by more than its interval: "
        f"{_format_evidence(judgement)}"
    )
    return Answer(comparison.label, UNDECIDED, UNDECIDED, value, sentence)


def _answer_without_judgement(
    comparison: ComparisonGroup, judgement: TreatmentJudgement
) -> tuple[str, str] | None:
    """Return value and sentence if there is nothing to judge (no cells, one seed, no ``none``), otherwise None."""
    statuses = comparison.cells["status"]
    control = f"{comparison.metric_name} {format_interval(judgement.control)}" if judgement.control.n else ""
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


def _name_chosen(judgement: TreatmentJudgement) -> str:
    """Name the settings that the folds chose, the most frequent first."""
    ordered = sorted(judgement.folds, key=lambda fold: fold.treatment)
    groups = [(name, list(folds)) for name, folds in groupby(ordered, key=lambda fold: fold.treatment)]
    groups.sort(key=lambda group: -len(group[1]))
    names = [format_setting(name, folds[0].quantity, (f.at for f in folds)) for name, folds in groups]
    return join_words(names, "or")


def _format_evidence(judgement: TreatmentJudgement) -> str:
    """Write the metric of ``none``, the diverged seeds, the difference and the cost of the treatment."""
    parts = [f"n = {judgement.n}"]
    if judgement.control.n:
        parts.append(f"against {format_interval(judgement.control)} for none")
    if judgement.control_diverged:
        parts.append(f"none diverged in {judgement.control_diverged} of {judgement.control_n} seeds")
    if judgement.diverged:
        parts.append(f"the treatment diverged in {judgement.diverged} of {judgement.n} seeds")
    if judgement.difference.n:
        parts.append(f"difference {format_interval(judgement.difference)}")
    treatments = {fold.treatment for fold in judgement.folds}
    ratios = [cost_of(judgement.comparison, treatment).estimate for treatment in treatments]
    if dear := [ratio for ratio in ratios if ratio > NOTICEABLE_COST]:
        parts.append(f"{format_number(max(dear), 2)}× the step")
    return " · ".join(parts)

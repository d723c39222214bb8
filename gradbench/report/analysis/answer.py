"""Answer, for each comparison, which treatment to use, with the numbers behind it and the command that goes on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from gradbench.report.analysis.action import action_of
from gradbench.report.analysis.commands import add_none, add_seeds, extend_strengths, run_seeds
from gradbench.report.analysis.comparison import CONTROL, ComparisonGroup, Setting
from gradbench.report.analysis.cost import cost_of
from gradbench.report.analysis.tables import OWN_METRIC
from gradbench.report.load.cells import NONE, LoadedResults
from gradbench.report.render.formatting import (
    ONE_SEED,
    format_change,
    format_interval,
    format_number,
    format_percent,
    format_setting,
    format_strength,
    format_value,
    join_words,
    pluralize,
)
from gradbench.stats.decisions import (
    BETTER,
    LEAVE_ALONE,
    NO_BETTER,
    UNDECIDED,
    WORSE,
    Contender,
    Margins,
    expected_best,
    rank_arms,
    seeds_to_decide,
)
from gradbench.stats.intervals import Interval
from gradbench.storage.sanitize import caution

ALONE = "Leave the gradients alone"
FEW_SEEDS = (
    5  # that a folder with one seed is asked for, and from which on a probability of being best is said
)
AT_THE_EDGE = "It is at the edge of the strengths that were tried: go on beyond them."
NOTICEABLE_COST = 1.05  # ratio of step times; smaller ones do not matter to a choice
SURE = 0.95  # probability of being best from which the next treatment is not named


@dataclass(frozen=True)
class Answer:
    """One line of the answer box.

    Attributes:
        group: label of the comparison: the model, and the config values that set its cells apart.
        verdict: of the treatments against ``none``: better, worse, equal, no better or undecided. Where nothing was run
            with ``none``, better is what beats the other settings.
        treatment: the recommended treatment at its strength; ``none`` leaves the gradients alone.
        value: the metric with its interval under that treatment, or under the best seen where nothing is decided.
        evidence: short sentences.
        command: what to type next; empty where nothing is open.
        context: what was trained: data, optimizer, learning rate and steps.
        advice: what to do, in plain English.
        numbers: columns of ``answers.csv``.
    """

    group: str
    verdict: str
    treatment: str
    value: str
    evidence: tuple[str, ...]
    command: str = ""
    context: str = ""
    advice: str = ""
    numbers: Mapping[str, object] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """The evidence as one text."""
        return " ".join(self.evidence)

    @property
    def caution(self) -> str:
        """Why the command is not to be pasted unread; empty if it may be."""
        return caution(self.command)

    @property
    def row(self) -> dict[str, object]:
        """The answer as a row of a table: its texts, then its numbers."""
        return {name: getattr(self, name) for name in TEXTS} | dict(self.numbers)


TEXTS = ("group", "context", "advice", "verdict", "treatment", "value", "sentence", "command")

NUMBERS = (
    *("question", "model", "metric", "goal", "regularizer", "quantity", "strength"),
    *("estimate", "estimate_low", "estimate_high", "none", "none_low", "none_high"),
    *("change", "change_low", "change_high", "n", "diverged", "none_diverged"),
    *("probability_best", "touched", "effective_lr", "cost", "cost_low", "cost_high"),
)
"""Columns of an answer that programs read; absent where there is nothing to say."""


def answer_table(answers: Sequence[Answer]) -> pd.DataFrame:
    """Make a table of answers, one row each, for programs to read."""
    return pd.DataFrame([answer.row for answer in answers], columns=[*TEXTS, *NUMBERS])


def answer_all(
    results: LoadedResults, comparisons: Sequence[ComparisonGroup], actions: pd.DataFrame | None = None
) -> list[Answer]:
    """Answer for each comparison; then, over their rates, for those that differ in nothing but the learning rate.

    Args:
        results: where the comparisons come from.
        comparisons: the comparisons.
        actions: how each cell's treatment acted (:attr:`gradbench.report.load.curves.Curves.action`), if it was read.
    """
    families: dict[str, list[ComparisonGroup]] = {}
    for one in comparisons:
        families.setdefault(str(one.cells["at_any_rate"].iloc[0]), []).append(one)
    found = [answer_comparison(results, one, actions) for one in comparisons]
    over = [answer_over_rates(name, own) for name, own in families.items() if len(own) > 1]
    return found + [answer for answer in over if answer]


def answer_comparison(
    results: LoadedResults, comparison: ComparisonGroup, actions: pd.DataFrame | None = None
) -> Answer:
    """Answer which treatment of a comparison is best, and at which strength."""
    missing = _missing(comparison)
    if missing:
        return _unanswerable(comparison, *missing)
    if NONE not in comparison.treatments:
        return _Writer(results, comparison, actions).best_setting()
    return _Writer(results, comparison, actions).against_none()


def _unanswerable(comparison: ComparisonGroup, advice: str, *evidence: str) -> Answer:
    """Make the answer of a comparison in which nothing can be ranked."""
    context = describe_context(comparison)
    value = _name_value(comparison, CONTROL)
    return Answer(
        comparison.label,
        UNDECIDED,
        UNDECIDED,
        value,
        evidence,
        context=context,
        advice=f"Undecided: {advice}",
    )


def _missing(comparison: ComparisonGroup) -> tuple[str, ...]:
    """Say what is missing where nothing can be ranked, and what to do; empty if nothing is."""
    statuses = comparison.cells["status"]
    if (statuses == "failed").all():
        return "every run failed", f"{len(statuses)} of {len(statuses)} stopped with an error; see the audit."
    if (statuses == "diverged").all():
        count = f"{len(statuses)} of {len(statuses)} diverged"
        name = comparison.metric.partition("/")[2]
        if f"{OWN_METRIC}{name}" in comparison.cells.columns:
            count += f", which a metric that is not finite counts as, too: look at model.metrics.{name}, or"
        else:
            count += ":"
        return "every run diverged", f"{count} try a lower learning rate, such as optimizer.lr=0.01."
    if comparison.treatments == [NONE]:
        return "only none was run", "Add a treatment to compare it with, such as regularizer=none,clip_norm."
    if NONE in comparison.treatments and comparison.cells_at(CONTROL)["score"].isna().all():
        return "no run of none finished to compare with", "Type the command again to run it."
    return ()


@dataclass(frozen=True)
class _Writer:
    """Writes the answer of one comparison."""

    results: LoadedResults
    comparison: ComparisonGroup
    actions: pd.DataFrame | None

    def against_none(self) -> Answer:
        """Answer whether a treatment is better than ``none``."""
        ranking = self.comparison.ranking
        treated = [one for one in ranking.contenders if one.verdict]
        if not treated:
            return _unanswerable(self.comparison, "no run of a treatment finished", "See the audit.")
        best = _leading(treated, ranking.verdict)
        unpaired = self._seeds_without_none(best)
        if unpaired:
            return unpaired
        if ranking.verdict == BETTER:
            further = extend_strengths(self.results, self.comparison, self._setting(best))
            parts = [*self._change(best), self._as_good(best), self._chances(best), self._action(best)]
            parts.append(self._cost(best))
            parts.append(AT_THE_EDGE if further else "")
            return self._answer(best, ranking.verdict, f"Use {self._name(best)}", parts, further)
        if ranking.verdict in LEAVE_ALONE:
            margins = self.comparison.margins(self.comparison.mean(CONTROL).estimate)
            reason = _say_why_alone(self.comparison, ranking.verdict, self._name(best))
            parts = [reason, *self._change(best)]
            if ranking.verdict != WORSE:
                parts += [self._action(best), _explain_interval(self.comparison, best, margins)]
            return self._answer(best, ranking.verdict, ALONE, parts)
        parts = [*self._change(best), self._chances(best), self._action(best)]
        if len(self.comparison.seeds) == 1:
            count: int | None = FEW_SEEDS
            parts.append(f"One seed does not show what is chance: run {FEW_SEEDS} or more.")
        else:
            count = self._seeds_needed()
            parts.append(
                f"About {count} seeds would decide." if count else "More than 10,000 seeds would be needed."
            )
        command = add_seeds(self.results, self.comparison, count) if count else ""
        if count and not command:
            first = min(self.comparison.seeds)
            parts.append(f"Run it again with seed=range({first},{first + count}).")
        seen = self._name(best)
        if not ranking.contenders[0].verdict:  # none comes first
            seen = f"none, then {seen}"
        return self._answer(best, UNDECIDED, f"Undecided: best seen {seen}", parts, command)

    def _seeds_without_none(self, best: Contender) -> Answer | None:
        """Answer what to run where a treatment and ``none`` have no seed in common, so that nothing can be paired."""
        seeds, control = (
            self.comparison.cells_at(setting)["seed"] for setting in (self._setting(best), CONTROL)
        )
        if seeds.isin(control).any():
            return None
        words = (
            f"No seed has both {self._setting(best).treatment} and none: they are compared at equal seeds."
        )
        command = run_seeds(self.results, self.comparison, CONTROL, sorted(set(seeds)))
        return self._answer(best, UNDECIDED, f"Undecided: best seen {self._name(best)}", [words], command)

    def best_setting(self) -> Answer:
        """Answer which setting is best where nothing was run with ``none``."""
        ranking = self.comparison.ranking
        best, *others = ranking.contenders
        settings = self.comparison.settings
        own = [place for place, one in enumerate(settings) if one.treatment == self._setting(best).treatment]
        beaten = all(one.behind_first.low > 0 for one in others) and (
            len(ranking.as_good) < len(own) or len(own) == 1
        )
        verdict = BETTER if beaten and len(settings) > 1 else UNDECIDED
        n = self.comparison.cells_at(self._setting(best))["seed"].nunique()
        parts = [
            f"It is the best of {pluralize(len(settings), 'setting')} in {pluralize(n, 'seed')}.",
            self._as_good(best),
        ]
        parts += [self._chances(best), self._action(best)]
        further = extend_strengths(self.results, self.comparison, self._setting(best))
        parts.append(AT_THE_EDGE if further else "")
        parts.append("Add regularizer=none to see what it is worth.")
        command = add_none(further, self.results, self.comparison, self._setting(best))
        advice = f"{'Use' if verdict == BETTER else 'Undecided: best seen'} {self._name(best)}"
        return self._answer(best, verdict, advice, parts, command)

    def _answer(
        self, one: Contender, verdict: str, advice: str, parts: Sequence[str], command: str = ""
    ) -> Answer:
        keeps = verdict in LEAVE_ALONE
        return Answer(
            self.comparison.label,
            verdict,
            UNDECIDED if verdict == UNDECIDED else NONE if keeps else self._name(one),
            _name_value(self.comparison, CONTROL if keeps else self._setting(one)),
            tuple(filter(None, parts)),
            command,
            describe_context(self.comparison),
            advice,
            describe(self.comparison, self._setting(one), one, self.actions),
        )

    def _setting(self, one: Contender) -> Setting:
        return self.comparison.settings[one.setting]

    def _name(self, one: Contender) -> str:
        return name_setting(self._setting(one))

    def _change(self, one: Contender) -> list[str]:
        """Say the change against ``none``, of the metric and of the number of diverged cells."""
        found = one.against_control
        if found is None:
            return []
        control = self.comparison.mean(CONTROL)
        parts = []
        if found.gain.n and (found.gain.sign or not found.lost_gain.sign):  # else the diverged runs decide
            change = self.comparison.change(found.gain, control.estimate)
            parts.append(_say_change(self.comparison, change, control, "", found.gain.n))
        if any(found.lost):
            counts = [f"{lost} of {n}" for lost, n in zip(found.lost, found.present, strict=True)]
            parts.append(f"It diverged in {counts[0]} seeds, none in {counts[1]}.")
        return parts

    def _as_good(self, one: Contender) -> str:
        """Say which strengths of the first treatment are not shown to be worse than its best."""
        good = [self.comparison.settings[place] for place in self.comparison.ranking.as_good]
        own = self._setting(one)
        if len(good) < 2 or own not in good:
            return ""
        return f"Not shown to be worse: {format_strength(own.quantity, [setting.at for setting in good])}."

    def _chances(self, one: Contender) -> str:
        """Say how sure the place among several treatments is."""
        contenders = self.comparison.ranking.contenders
        others = [other for other in contenders if other.arm != one.arm]
        if len(contenders) < 3 or len(self.comparison.seeds) < FEW_SEEDS:
            return ""
        words = f"It is the best of {len(contenders)} with probability {_say_chance(one.probability_best)}"
        if one.probability_best < SURE:
            words += f", {self._name(others[0])} with {_say_chance(others[0].probability_best)}"
        return f"{words}."

    def _action(self, one: Contender) -> str:
        return action_of(self.comparison, self._setting(one), self.actions).words

    def _cost(self, one: Contender) -> str:
        """Say what the treatment costs, if that is more than chance and worth a word."""
        cost = cost_of(self.comparison, self._setting(one).treatment)
        if not cost.low > NOTICEABLE_COST:
            return ""
        return f"Its step takes {format_interval(cost)} times as long as that of none."

    def _seeds_needed(self) -> int | None:
        """Count the seeds that would decide, more than there are; None if they are too many."""
        comparison = self.comparison
        treated = [setting for setting in comparison.settings if setting.treatment != NONE]
        (control,) = comparison.scores([CONTROL])
        margins = comparison.margins(comparison.mean(CONTROL).estimate)
        count = seeds_to_decide(comparison.scores(treated), control, margins)
        return max(count, len(comparison.seeds) + 1) if count else None


def _say_chance(probability: float) -> str:
    """Write a probability in two decimals; one that is estimated from seeds is never 0 or 1."""
    return f"{min(max(probability, 0.01), 0.99):.2f}"


def _leading(treated: Sequence[Contender], verdict: str) -> Contender:
    """Return the first treatment that is better where one is, otherwise the first."""
    return next((one for one in treated if one.verdict == verdict == BETTER), treated[0])


def _say_change(
    comparison: ComparisonGroup, change: Interval, control: Interval, where: str, seeds: int
) -> str:
    """Say a change against ``none``: ``21 % lower [16, 25] than none (perplexity 12.9 [12.1, 13.7]), 8 seeds.``."""
    how = format_change(change, relative=comparison.scale.name == "log")
    than = "that of" if how.endswith("×") else "than"
    value = f"{comparison.metric_name} {format_interval(control)}"
    words = f"{how} {than} none{where} ({value})".replace(ONE_SEED, "")
    return f"{words}, {pluralize(seeds, 'seed')}."


def _say_why_alone(comparison: ComparisonGroup, verdict: str, best: str) -> str:
    """Say why the gradients are left alone.

    Args:
        comparison: the comparison, or one of those that differ in the learning rate.
        verdict: of all treatments.
        best: name of the best treatment.
    """
    if verdict == WORSE:
        return f"Every treatment is worse than none, {best} the least."
    words = f"No treatment is more than {_say_margin(comparison)} better than none, each tested alone at 95 %"
    if verdict == NO_BETTER:
        words += "; whether one is as good is open"
    return f"{words}. The best of them is {best}."


def _explain_interval(comparison: ComparisonGroup, one: Contender, margins: Margins | None) -> str:
    """Explain an interval that reaches beyond the margin where no treatment is better by more; empty elsewhere."""
    found = one.against_control
    if not found or not margins or found.lost_gain.sign or not found.gain.high > margins[1]:
        return ""
    return (
        f"The interval reaches beyond {_say_margin(comparison)} because it is two-sided and holds for all "
        "treatments together."
    )


def _say_margin(comparison: ComparisonGroup) -> str:
    margin = comparison.margin or math.nan
    return format_percent(margin) if comparison.scale.name == "log" else format_number(margin)


def describe_context(comparison: ComparisonGroup, rates: int = 1) -> str:
    """Say what all cells of a comparison were trained on and how: ``digits, sgd at learning rate 0.5, 400 steps``.

    Args:
        comparison: the comparison.
        rates: number of learning rates among which each treatment has its best one.
    """
    first, cells = comparison.cells.iloc[0], comparison.cells
    parts = [str(first["data"])] if "data" in cells else []
    if {"optimizer", "optimizer.lr"} <= set(cells):
        rate = f"learning rate {format_value(first['optimizer.lr'])}"
        parts.append(
            f"{first['optimizer']} at {f'the best of {rates} learning rates' if rates > 1 else rate}"
        )
    if "steps" in cells:
        parts.append(f"{format_value(first['steps'])} steps")
    return ", ".join(parts)


def name_setting(setting: Setting) -> str:
    """Write a treatment with its strength."""
    return format_setting(setting.treatment, setting.quantity, [setting.at])


def _name_value(comparison: ComparisonGroup, setting: Setting) -> str:
    value = comparison.mean(setting)
    return f"{comparison.metric_name} {format_interval(value)}" if value.n else ""


def describe(
    comparison: ComparisonGroup, setting: Setting, one: Contender, actions: pd.DataFrame | None
) -> dict[str, object]:
    """Return the numbers of an answer, for :attr:`Answer.numbers`.

    Args:
        comparison: the comparison.
        setting: the one that is recommended, or the best of those that are not.
        one: its treatment in the ranking.
        actions: how cells' treatments acted.
    """
    action = action_of(comparison, setting, actions)
    found: dict[str, object] = {
        "question": "best treatment",
        "model": comparison.model,
        "metric": comparison.metric,
        "goal": comparison.goal,
        "regularizer": setting.treatment,
        "quantity": setting.quantity,
        "strength": ",".join(map(str, setting.strengths)) or setting.strength,
        **comparison.mean(setting).columns("estimate"),
        "n": comparison.cells_at(setting)["score"].notna().sum(),
        "probability_best": one.probability_best,
        "touched": action.touched,
        "effective_lr": action.learning_rate,
        **cost_of(comparison, setting.treatment).columns("cost"),
    }
    if one.against_control:
        control = comparison.mean(CONTROL)
        change = comparison.change(one.against_control.gain, control.estimate)
        lost, control_lost = one.against_control.lost
        found |= control.columns(NONE) | change.columns("change")
        found |= {"diverged": lost, "none_diverged": control_lost}
    return {name: found[name] for name in NUMBERS if name in found}


def answer_over_rates(name: str, groups: Sequence[ComparisonGroup]) -> Answer | None:
    """Answer which treatment is best if its learning rate is chosen too; None without ``none`` and a treatment.

    Args:
        name: label of the family: the model, and the config values that set it apart.
        groups: comparisons that differ in nothing but the learning rate.
    """
    treatments = list(dict.fromkeys(treatment for group in groups for treatment in group.treatments))
    if NONE not in treatments or len(treatments) < 2:
        return None
    seeds = sorted({seed for group in groups for seed in group.seeds})
    entries = [(group, setting) for group in groups for setting in group.settings]
    scores = np.concatenate([group.scores(group.settings, seeds) for group in groups])
    arms = [treatments.index(setting.treatment) for _, setting in entries]
    first = groups[0]
    control = min(
        (group.mean(CONTROL) for group in groups if NONE in group.treatments),
        key=lambda value: math.inf if math.isnan(value.estimate) else first.sign * value.estimate,
    )
    margins = first.margins(control.estimate)
    ranking = rank_arms(scores, arms, treatments.index(NONE), margins)
    treated = [one for one in ranking.contenders if one.verdict]
    if not treated:
        return None
    best = _leading(treated, ranking.verdict)
    group, setting = entries[best.setting]
    at = f"learning rate {format_value(group.cells['optimizer.lr'].iloc[0])}"
    words = f"{name_setting(setting)}, {at}"
    keeps = ranking.verdict in LEAVE_ALONE
    parts = [f"Each treatment at the best of its strengths and of {len(groups)} learning rates."]
    if keeps:
        parts.append(_say_why_alone(first, ranking.verdict, f"{name_setting(setting)} at {at}"))
    if best.against_control and best.against_control.gain.n:
        change = group.change(best.against_control.gain, control.estimate)
        parts.append(_say_change(group, change, control, " at its best rate", best.against_control.gain.n))
    if keeps and ranking.verdict != WORSE:
        parts.append(_explain_interval(first, best, margins))
    parts.append(_equal_budget(first, scores, arms, treatments))
    shown = UNDECIDED if ranking.verdict == UNDECIDED else NONE if keeps else words
    value = control if keeps else group.mean(setting)
    advice = "Use"
    if ranking.verdict == UNDECIDED:
        is_first = bool(ranking.contenders[0].verdict)  # or none is
        advice = f"Undecided: best seen{'' if is_first else ' none, then'}"
    return Answer(
        f"{name}, any learning rate",
        ranking.verdict,
        shown,
        f"{group.metric_name} {format_interval(value)}" if value.n else "",
        tuple(filter(None, parts)),
        context=describe_context(group, len(groups)),
        advice=ALONE if keeps else f"{advice} {name_setting(setting)} at {at}",
        numbers=describe(group, setting, best, None)
        | {"question": "best treatment at its best learning rate"},
    )


def _equal_budget(
    group: ComparisonGroup, scores: np.ndarray, arms: Sequence[int], treatments: Sequence[str]
) -> str:
    """Say what each treatment is expected to reach if as many of its settings are tried as the smallest has."""
    counts = [arms.count(arm) for arm in range(len(treatments))]
    tries = min(counts)
    if max(counts) == tries:
        return ""
    finite = np.isfinite(scores)
    lost = (~finite & ~np.isnan(scores)).any(axis=1)
    means = np.where(finite, scores, 0.0).sum(axis=1) / np.maximum(finite.sum(axis=1), 1)
    means = np.where(lost, np.inf, means)
    found = []
    for arm, treatment in enumerate(treatments):
        own = means[np.asarray(arms) == arm]
        expected = expected_best(own, tries)
        reached = group.scale.back(group.sign * expected) if np.isfinite(expected) else np.nan
        found.append(
            f"{treatment} {format_number(float(reached))}"
            if np.isfinite(reached)
            else f"{treatment} may diverge"
        )
    settings = "one setting" if tries == 1 else f"{tries} settings"
    return f"If only {settings} of each, drawn at random, had been tried: {join_words(found)}."

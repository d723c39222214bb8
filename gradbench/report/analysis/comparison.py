"""Group cells into comparisons, choose the strength of each treatment, and judge treatments against ``none``."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gradbench.config.composite import JOINT
from gradbench.report.load.cells import NONE, LoadedResults, split_strengths
from gradbench.report.render.formatting import Strength, pluralize
from gradbench.stats.intervals import (
    NO_VALUES,
    Floats,
    Interval,
    mean_interval,
    paired_difference,
    share_difference,
)
from gradbench.stats.selection import choose_setting, cross_fit

BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"


class Setting(NamedTuple):
    """A treatment at one strength, or a composition at one strength of each part."""

    treatment: str
    quantity: str
    strength: float | None  # None if the treatment has no strength, or several
    strengths: tuple[float, ...] = ()  # those of a composition

    @property
    def at(self) -> Strength:
        """What it is at: a number, several, or None."""
        return self.strengths or self.strength

    @property
    def numbers(self) -> tuple[float, ...]:
        """Its strengths: none, one or several."""
        return self.strengths or (() if self.strength is None else (self.strength,))

    @classmethod
    def of(cls, row: Mapping[Hashable, Any]) -> "Setting":
        """Return the setting of a row of the table of cells."""
        strength = float(row["strength"])
        number = None if np.isnan(strength) else strength
        return cls(str(row["treatment"]), str(row["quantity"]), number, split_strengths(row["strengths"]))


CONTROL = Setting(NONE, "", None)
"""The setting that treatments are compared with."""


class Line(NamedTuple):
    """The settings of a treatment along one strength; of a composition, along that of one part.

    Attributes:
        treatment: the treatment.
        part: the part of a composition, else an empty text.
        settings: strength -> setting. Of a composition all others are at their values in the chosen setting.
        is_alone: whether no other part has a strength of this kind.
        is_first: whether it is the first of its treatment's lines along strengths of this kind.
    """

    treatment: str
    part: str
    settings: dict[float, Setting]
    is_alone: bool
    is_first: bool

    @property
    def label(self) -> str:
        """What the line is called: the treatment, and the part where several have a strength of this kind."""
        return self.treatment if self.is_alone else f"{self.part} in {self.treatment}"


@dataclass(frozen=True)
class ComparisonGroup:
    """Cells that differ only in the regularizer and the seed.

    Attributes:
        label: the model, and the config values that set its cells apart.
        model: name of the model.
        metric: column of the primary metric.
        goal: direction in which the metric is better: ``min`` or ``max``.
        unit: the metric in words, for axes.
        cells: rows of the table of cells.
    """

    label: str
    model: str
    metric: str
    goal: str
    unit: str
    cells: pd.DataFrame

    @property
    def treatments(self) -> list[str]:
        """Treatments that have cells, ``none`` first."""
        return list(self.cells["treatment"].unique())

    @property
    def quantities(self) -> list[str]:
        """Kinds of strength, those of a composition's parts included, ``threshold`` first."""
        every = (key for quantity in self.cells["quantity"].unique() for key in quantity.split(JOINT))
        found = {kind_of(key) for key in every if key}
        return sorted(found, key=lambda quantity: (quantity != "threshold", quantity))

    @cached_property
    def _groups(self) -> dict[Setting, pd.DataFrame]:
        rows: dict[Setting, list[int]] = {}
        columns = ["treatment", "quantity", "strength", "strengths"]
        for place, row in enumerate(self.cells[columns].to_dict("records")):
            rows.setdefault(Setting.of(row), []).append(place)
        return {setting: _take_rows(self.cells, places) for setting, places in rows.items()}

    @property
    def settings(self) -> list[Setting]:
        """Every treatment and strength that has a cell, in the order of the table."""
        return list(self._groups)

    @cached_property
    def _by_treatment(self) -> dict[str, list[Setting]]:
        found: dict[str, list[Setting]] = {}
        for setting in self.settings:
            found.setdefault(setting.treatment, []).append(setting)
        return found

    @property
    def metric_name(self) -> str:
        """The metric in one word or two: ``perplexity`` of ``perplexity, test``."""
        return self.unit.split(",")[0].strip()

    @property
    def label_with_seeds(self) -> str:
        """The label with the number of seeds: ``mlp (n = 3 seeds)``."""
        return f"{self.label} (n = {pluralize(self.cells['seed'].nunique(), 'seed')})"

    def cells_at(self, setting: Setting) -> pd.DataFrame:
        """Select the cells of one setting, one per seed; an empty table if there are none."""
        found = self._groups.get(setting)
        return self.cells.iloc[:0] if found is None else found

    @cached_property
    def seeds(self) -> list[int]:
        """Seeds that have a cell, sorted."""
        return sorted(self.cells["seed"].unique())

    def scores(self, settings: Sequence[Setting]) -> Floats:
        """Collect the scores [S, R] of these settings at :attr:`seeds`; nan if there is no cell."""
        found = np.full((len(settings), len(self.seeds)), np.nan)
        for row, setting in enumerate(settings):
            cells = self.cells_at(setting)
            found[row, np.searchsorted(self.seeds, cells["seed"])] = cells["score"]
        return found

    @cached_property
    def control_seconds(self) -> float:
        """Median step time of ``none``, in seconds."""
        return float(self.cells_at(CONTROL)["step_seconds"].median())

    @cached_property
    def _chosen(self) -> dict[str, Setting]:
        found = {}
        for treatment, settings in self._by_treatment.items():
            found[treatment] = settings[max(choose_setting(self.scores(settings)), 0)]
        return found

    def chosen_setting(self, treatment: str) -> Setting:
        """Return a treatment's best setting over all seeds, for figures only: judging with it would be biased."""
        return self._chosen[treatment]

    def lines(self, quantity: str) -> list[Line]:
        """Return the settings along each strength of a kind: one line per treatment, or part of a composition."""
        found = []
        for treatment, own in self._by_treatment.items():
            keys = own[0].quantity.split(JOINT)
            chosen = own[0] if len(keys) == 1 else self.chosen_setting(treatment)
            places = [place for place, key in enumerate(keys) if key and kind_of(key) == quantity]
            for place in places:
                others = {*range(len(keys))} - {place}
                along = {
                    setting.numbers[place]: setting
                    for setting in own
                    if all(setting.numbers[other] == chosen.numbers[other] for other in others)
                }
                part = keys[place].rpartition(".")[0]
                found.append(
                    Line(treatment, part, dict(sorted(along.items())), len(places) == 1, place == places[0])
                )
        return found

    def to_metric(self, scores: Interval) -> Interval:
        """Convert an interval of scores, where lower is better, to one of the metric."""
        if self.goal != "max":
            return scores
        return Interval(-scores.estimate, -scores.high, -scores.low, scores.n)


@dataclass(frozen=True)
class TreatmentJudgement:
    """The result of treatments against ``none``, on seeds that took no part in choosing their strength."""

    comparison: ComparisonGroup
    treatments: tuple[str, ...]
    folds: tuple[Setting, ...]  # the chosen setting, one per judged seed
    value: Interval  # the metric over judged seeds that completed
    diverged: int
    n: int  # judged seeds, diverged ones included
    control: Interval
    control_diverged: int
    control_n: int
    difference: Interval  # metric, treatment minus none, over seeds at which both completed
    diverged_difference: Interval  # share of diverged seeds, treatment minus none
    verdict: str


def kind_of(key: str) -> str:
    """Return the kind of a strength: ``lambda`` of ``gp.lambda``."""
    return key.rpartition(".")[2]


def _take_rows(cells: pd.DataFrame, places: list[int]) -> pd.DataFrame:
    """Select rows by position; adjacent ones as a slice, which is many times faster."""
    first, last = places[0], places[-1]
    return cells.iloc[first : last + 1] if last - first + 1 == len(places) else cells.iloc[places]


def list_comparisons(results: LoadedResults) -> list[ComparisonGroup]:
    """List the comparisons of a results folder, in the order of its cells."""
    found = []
    for label, cells in results.cells.groupby("comparison", sort=False):
        first = cells.iloc[0]
        unit = first.get("model.unit")
        found.append(
            ComparisonGroup(
                label=str(label),
                model=str(first["model"]),
                metric=str(first["model.metric"]),
                goal=str(first["model.goal"]),
                unit=unit if isinstance(unit, str) and unit else str(first["model.metric"]),
                cells=cells,
            )
        )
    return found


def judge_treatments(comparison: ComparisonGroup, treatments: Sequence[str]) -> TreatmentJudgement:
    """Judge the best setting of these treatments against ``none``, chosen by cross-fitting.

    Used by the answer box (all treatments together) and the table of treatments (one at a time). A treatment is
    better if the interval of its paired difference of the metric, or Newcombe's interval of its difference in
    diverged shares, is on the better side of zero and the other is not on the worse side; worse likewise.
    """
    settings = [setting for setting in comparison.settings if setting.treatment in treatments]
    fit = cross_fit(comparison.scores(settings))
    (control,) = comparison.scores([CONTROL])
    known, control_known = ~np.isnan(fit.held_out), ~np.isnan(control)
    lost, control_lost = int(np.isposinf(fit.held_out).sum()), int(np.isposinf(control).sum())
    judged, baseline = _mask_infinite(fit.held_out), _mask_infinite(control)
    difference = paired_difference(judged, baseline, fit.variance_factor)
    diverged_difference = NO_VALUES
    if known.any() and control_known.any():
        counts = (lost, int(known.sum()), control_lost, int(control_known.sum()))
        diverged_difference = share_difference(*counts, variance_factor=fit.variance_factor)
    return TreatmentJudgement(
        comparison=comparison,
        treatments=tuple(treatments),
        folds=tuple(settings[index] for index, use in zip(fit.chosen, known, strict=True) if use),
        value=comparison.to_metric(mean_interval(judged, fit.variance_factor)),
        diverged=lost,
        n=int(known.sum()),
        control=comparison.to_metric(mean_interval(baseline)),
        control_diverged=control_lost,
        control_n=int(control_known.sum()),
        difference=comparison.to_metric(difference),
        diverged_difference=diverged_difference,
        verdict=_combine_signs(difference.sign, diverged_difference.sign),
    )


def step_ratio(comparison: ComparisonGroup, setting: Setting) -> float:
    """Compute the median step time of a setting over that of ``none``; nan if either is missing."""
    if "step_seconds" not in comparison.cells:
        return np.nan
    control = comparison.control_seconds
    return float(comparison.cells_at(setting)["step_seconds"].median() / control) if control > 0 else np.nan


def _combine_signs(metric: int, diverged_difference: int) -> str:
    """Combine the signs of two differences of scores, where negative is better; opposite signs cancel."""
    total = metric + diverged_difference
    return BETTER if total < 0 else WORSE if total > 0 else UNDECIDED


def _mask_infinite(scores: Floats) -> Floats:
    return np.where(np.isfinite(scores), scores, np.nan)

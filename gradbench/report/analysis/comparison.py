"""What was compared with what, and how it ended: settings, chosen strengths, judgements against ``none``."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from gradbench.report.load.cells import NONE, Results
from gradbench.report.render import formatting as text
from gradbench.stats import intervals as stats
from gradbench.stats import selection
from gradbench.stats.intervals import Interval

BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"


class Setting(NamedTuple):
    """A treatment at one strength."""

    treatment: str
    quantity: str
    strength: float | None  # None where the treatment has none


@dataclass(frozen=True)
class Comparison:
    """Cells that differ in nothing but the regularizer and the seed."""

    label: str
    model: str
    metric: str
    goal: str
    unit: str
    cells: pd.DataFrame

    @property
    def treatments(self) -> list[str]:
        """Treatments with cells here, ``none`` first."""
        return list(self.cells["treatment"].unique())

    @property
    def quantities(self) -> list[str]:
        """Kinds of strength that occur, thresholds first."""
        found = {quantity for quantity in self.cells["quantity"] if quantity}
        return sorted(found, key=lambda quantity: (quantity != "threshold", quantity))

    @cached_property
    def _groups(self) -> dict[Setting, pd.DataFrame]:
        columns = (self.cells["treatment"], self.cells["quantity"], self.cells["strength"].astype(float))
        rows: dict[Setting, list[int]] = {}
        for row, (treatment, quantity, strength) in enumerate(zip(*columns, strict=True)):
            setting = Setting(str(treatment), str(quantity), None if np.isnan(strength) else float(strength))
            rows.setdefault(setting, []).append(row)
        return {setting: _rows(self.cells, places) for setting, places in rows.items()}

    @property
    def settings(self) -> list[Setting]:
        """Every treatment and strength with a cell here, in the order of the table."""
        return list(self._groups)

    @property
    def name(self) -> str:
        """The metric in one word or two: ``perplexity`` of ``perplexity, test``."""
        return self.unit.split(",")[0].strip()

    @property
    def titled(self) -> str:
        """The label, and how many seeds a mean is over at most."""
        return f"{self.label} (n = {text.count(self.cells['seed'].nunique(), 'seed')})"

    def at(self, setting: Setting) -> pd.DataFrame:
        """Return the cells of one setting, one per seed."""
        found = self._groups.get(setting)
        return self.cells.iloc[:0] if found is None else found

    @cached_property
    def seeds(self) -> list[int]:
        """Every seed with a cell here, in order."""
        return sorted(self.cells["seed"].unique())

    def scores(self, settings: Sequence[Setting]) -> stats.Floats:
        """Return the scores [S, R] of these settings at :attr:`seeds`; nan where there is no cell."""
        found = np.full((len(settings), len(self.seeds)), np.nan)
        for row, setting in enumerate(settings):
            cells = self.at(setting)
            found[row, np.searchsorted(self.seeds, cells["seed"])] = cells["score"]
        return found

    @cached_property
    def control_seconds(self) -> float:
        """The median step time of ``none``."""
        return float(self.at(Setting(NONE, "", None))["step_seconds"].median())

    @cached_property
    def _chosen(self) -> dict[str, Setting]:
        found = {}
        for treatment in self.treatments:
            settings = [setting for setting in self.settings if setting.treatment == treatment]
            found[treatment] = settings[max(selection.best_setting(self.scores(settings)), 0)]
        return found

    def chosen(self, treatment: str) -> Setting:
        """Return a treatment's best setting on all its seeds: for showing, never for judging."""
        return self._chosen[treatment]

    def unsigned(self, scores: Interval) -> Interval:
        """Turn an interval of scores, where lower is better, back into the metric."""
        if self.goal != "max":
            return scores
        return Interval(-scores.estimate, -scores.high, -scores.low, scores.n)


@dataclass(frozen=True)
class Judgement:
    """Treatments judged against ``none``, on seeds that had no part in choosing their strength."""

    comparison: Comparison
    treatments: tuple[str, ...]
    folds: tuple[Setting, ...]  # what was chosen, once per seed that could judge
    value: Interval  # the metric over judged seeds that completed
    diverged: int
    n: int  # judged seeds, diverged ones included
    control: Interval
    control_diverged: int
    control_n: int
    difference: Interval  # metric, treated minus none, over the seeds where both completed
    finishing: Interval  # share of diverged seeds, treated minus none
    verdict: str


def _rows(cells: pd.DataFrame, places: list[int]) -> pd.DataFrame:
    """Return these rows; those that stand together, as a sorted table's do, as a view: many times faster."""
    first, last = places[0], places[-1]
    return cells.iloc[first : last + 1] if last - first + 1 == len(places) else cells.iloc[places]


def comparisons(results: Results) -> list[Comparison]:
    """Return the groups of the folder, in the order of its cells."""
    found = []
    for label, cells in results.cells.groupby("comparison", sort=False):
        first = cells.iloc[0]
        unit = first.get("model.unit")
        found.append(
            Comparison(
                label=str(label),
                model=str(first["model"]),
                metric=str(first["model.metric"]),
                goal=str(first["model.goal"]),
                unit=unit if isinstance(unit, str) and unit else str(first["model.metric"]),
                cells=cells,
            )
        )
    return found


def judge(comparison: Comparison, treatments: Sequence[str]) -> Judgement:
    """Judge the best setting of these treatments against ``none`` (several: also which treatment is chosen).

    A treatment is better where its metric is better by more than the interval of the paired difference, or
    where it diverges less by more than Newcombe's interval, and neither says the opposite; worse likewise.
    """
    settings = [setting for setting in comparison.settings if setting.treatment in treatments]
    fit = selection.cross_fit(comparison.scores(settings))
    (control,) = comparison.scores([Setting(NONE, "", None)])
    known, control_known = ~np.isnan(fit.judged), ~np.isnan(control)
    lost, control_lost = int(np.isposinf(fit.judged).sum()), int(np.isposinf(control).sum())
    judged, baseline = _finite(fit.judged), _finite(control)
    difference = stats.paired_difference(judged, baseline, fit.dependence)
    finishing = Interval(np.nan, np.nan, np.nan, 0)
    if known.any() and control_known.any():
        counts = (lost, int(known.sum()), control_lost, int(control_known.sum()))
        finishing = stats.share_difference(*counts, dependence=fit.dependence)
    return Judgement(
        comparison=comparison,
        treatments=tuple(treatments),
        folds=tuple(settings[index] for index, use in zip(fit.chosen, known, strict=True) if use),
        value=comparison.unsigned(stats.mean_interval(judged, fit.dependence)),
        diverged=lost,
        n=int(known.sum()),
        control=comparison.unsigned(stats.mean_interval(baseline)),
        control_diverged=control_lost,
        control_n=int(control_known.sum()),
        difference=comparison.unsigned(difference),
        finishing=finishing,
        verdict=_verdict(difference.sign, finishing.sign),
    )


def step_ratio(comparison: Comparison, setting: Setting) -> float:
    """Return the median step time of a setting over that of ``none``; nan where either is missing."""
    if "step_seconds" not in comparison.cells:
        return np.nan
    control = comparison.control_seconds
    return float(comparison.at(setting)["step_seconds"].median() / control) if control > 0 else np.nan


def _verdict(metric: int, finishing: int) -> str:
    """Both signs count a lower score as better; where they disagree nothing is decided."""
    total = metric + finishing
    return BETTER if total < 0 else WORSE if total > 0 else UNDECIDED


def _finite(scores: stats.Floats) -> stats.Floats:
    return np.where(np.isfinite(scores), scores, np.nan)

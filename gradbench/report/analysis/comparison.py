"""Group cells into comparisons, and rank the treatments of each by the scores of its settings."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradbench.config.composite import JOINT
from gradbench.config.metric import MARGINS, least_of, scale_of
from gradbench.report.load.cells import NONE, LoadedResults, split_strengths
from gradbench.report.render.formatting import Strength, pluralize
from gradbench.stats.decisions import Margins, Ranking, paired_interval, rank_arms
from gradbench.stats.intervals import Floats, Interval
from gradbench.stats.scales import EXAMPLES, SCALES, Scale


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

    @classmethod
    def of(cls, row: Mapping[Hashable, Any]) -> "Setting":
        """Return the setting of a row of the table of cells."""
        strength = float(row["strength"])
        number = None if np.isnan(strength) else strength
        return cls(str(row["treatment"]), str(row["quantity"]), number, split_strengths(row["strengths"]))


CONTROL = Setting(NONE, "", None)
"""The setting that treatments are compared with."""


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
        scale: on which the metric is averaged and compared.
        margin: change that is too small to matter, as :meth:`gradbench.stats.scales.Scale.change` gives it; None where
            nobody said.
    """

    label: str
    model: str
    metric: str
    goal: str
    unit: str
    cells: pd.DataFrame
    scale: Scale
    margin: float | None

    @property
    def treatments(self) -> list[str]:
        """Treatments that have cells, ``none`` first."""
        return list(self.cells["treatment"].unique())

    @property
    def quantities(self) -> list[str]:
        """Kinds of strength that are one number, ``threshold`` first."""
        found = {quantity for quantity in self.cells["quantity"] if quantity and JOINT not in quantity}
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

    def median_cell(self, treatment: str) -> pd.Series | None:
        """Pick the completed cell with the median metric at the chosen strength; None if no cell completed."""
        cells = self.cells_at(self.chosen_setting(treatment))
        done = cells[cells["value"].notna()].sort_values(["value", "seed"])
        return done.iloc[(len(done) - 1) // 2] if len(done) else None

    @cached_property
    def seeds(self) -> list[int]:
        """Seeds that have a cell, sorted."""
        return sorted(self.cells["seed"].unique())

    def scores(self, settings: Sequence[Setting], seeds: Sequence[int] | None = None) -> Floats:
        """Collect the scores [S, R] of these settings on the metric's scale; nan if there is no cell.

        Lower is better, inf diverged. Seeds are :attr:`seeds` unless others are given, sorted.
        """
        places = self.seeds if seeds is None else seeds
        found = np.full((len(settings), len(places)), np.nan)
        for row, setting in enumerate(settings):
            cells = self.cells_at(setting)
            lost = np.isposinf(cells["score"].to_numpy(dtype=float))
            values = self.sign * self.scale.forward(cells["value"])
            found[row, np.searchsorted(places, cells["seed"])] = np.where(lost, np.inf, values)
        return found

    @property
    def sign(self) -> int:
        """1 if lower values of the metric are better, -1 if higher ones are."""
        return -1 if self.goal == "max" else 1

    def mean(self, setting: Setting) -> Interval:
        """Compute the mean of a setting's completed cells, taken on the scale, in the metric's units."""
        return self.mean_of(self.cells_at(setting)["value"])

    def mean_of(self, values: npt.ArrayLike) -> Interval:
        """Compute the mean of some values of the metric, taken on the scale, in the metric's units."""
        return self.scale.interval(paired_interval(self.scale.forward(values)))

    def change(self, gain: Interval, level: float) -> Interval:
        """Convert a gain on the scale to a change of the metric from ``level``, as people read it."""
        flipped = Interval(-gain.estimate, -gain.high, -gain.low, gain.n)
        return self.scale.change(flipped if self.sign > 0 else gain, level)

    def margins(self, level: float) -> Margins | None:
        """Return the gains that are too small to matter at a level of the metric; None where nobody said."""
        return self.scale.gains_within(self.margin, level, self.sign) if self.margin else None

    @cached_property
    def ranking(self) -> Ranking:
        """The treatments in order, judged against ``none``; arms are places in :attr:`treatments`."""
        arms = [self.treatments.index(setting.treatment) for setting in self.settings]
        control = self.treatments.index(NONE) if NONE in self.treatments else None
        level = self.mean(CONTROL).estimate
        return rank_arms(self.scores(self.settings), arms, control, self.margins(level))

    def chosen_setting(self, treatment: str) -> Setting:
        """Return a treatment's best setting: the fewest diverged cells, then the best mean."""
        arm = self.treatments.index(treatment)
        ranked = (one.setting for one in self.ranking.contenders if one.arm == arm)
        own = [setting for setting in self.settings if setting.treatment == treatment]
        return next((self.settings[place] for place in ranked), own[0])


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
                scale=scale_of_cells(cells),
                margin=margin_of(cells),
            )
        )
    return found


def scale_of_cells(cells: pd.DataFrame, columns: Sequence[str] = ("value",)) -> Scale:
    """Return the scale of the compared metric: the one that the cells name, or the one of gradbench's metrics.

    It is linear where a value in these columns is none of that scale: a loss of 0 has no logarithm.
    """
    first = cells.iloc[0]
    name = first.get("model.scale")
    if name not in SCALES:
        name = scale_of(str(first["model.metric"]))
    values = pd.concat([cells[column].dropna() for column in columns])
    if not np.isfinite(Scale(name).forward(values)).all():
        name = "linear"
    metric = str(first["model.metric"])
    return Scale(name, _positive_number(first.get("test_examples")) or EXAMPLES, least_of(metric))


def margin_of(cells: pd.DataFrame) -> float | None:
    """Return the change of the metric that is too small to matter, as the first of some cells has it, or None.

    Cells of before margins have that of gradbench's metrics.
    """
    first = cells.iloc[0]
    if first.get("model.scale") not in SCALES:
        return MARGINS[scale_of(str(first["model.metric"]))]
    return _positive_number(first.get("model.margin"))


def _positive_number(value: object) -> float | None:
    """Return a value of the table of cells as a number; None if it is none, or not above 0, or infinite."""
    is_number = isinstance(value, int | float | np.number) and 0 < value < np.inf
    return float(value) if is_number else None  # type: ignore[arg-type]  # it is a number then

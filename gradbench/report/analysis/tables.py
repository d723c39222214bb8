"""Build the tables behind the figures, as they are written to ``tables/*.csv``."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from gradbench.report.analysis.action import action_of
from gradbench.report.analysis.comparison import CONTROL, ComparisonGroup, Setting
from gradbench.report.analysis.cost import cost_of, milliseconds_of
from gradbench.report.load.cells import NONE, LoadedResults, metric_columns, strength_columns
from gradbench.report.load.curves import ACTION
from gradbench.report.load.read import STATUSES
from gradbench.report.render.formatting import format_setting
from gradbench.stats.decisions import Contender
from gradbench.stats.intervals import (
    NO_VALUES,
    Interval,
    interquartile_mean,
    mean_interval,
    probability_of_improvement,
    share_interval,
)

OWN_METRIC = "model.metrics."
"""How the column begins that names the function of a metric of the user's own."""

RowOf = Callable[[ComparisonGroup, Setting], Mapping[str, object]]


def build_tables(
    results: LoadedResults, comparisons: Sequence[ComparisonGroup], actions: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Build the report's tables by file name; ``actions`` is :attr:`gradbench.report.load.curves.Curves.action`."""
    metrics = _metric_rows(comparisons)
    return {
        "cells.csv": results.cells,
        "strengths.csv": _per_setting(comparisons, _strength_row),
        "divergence.csv": _per_setting(comparisons, _divergence_row),
        "cost.csv": pd.DataFrame([_cost_row(c, t) for c in comparisons for t in c.treatments]),
        "action.csv": _per_setting(comparisons, lambda c, s: _action_row(actions, c, s)),
        "comparisons.csv": pd.DataFrame(
            [row for comparison in comparisons for row in _ranking_rows(comparison, actions)],
            columns=JUDGED_COLUMNS,
        ),
    } | ({"metrics.csv": pd.DataFrame(metrics)} if metrics else {})


def _per_setting(comparisons: Sequence[ComparisonGroup], row: RowOf) -> pd.DataFrame:
    """Build a table with one row per comparison and setting."""
    rows = []
    for comparison in comparisons:
        for setting in comparison.settings:
            where = {"comparison": comparison.label, **_describe_setting(setting)}
            rows.append({**where, **row(comparison, setting)})
    return pd.DataFrame(rows)


def _describe_setting(setting: Setting) -> Mapping[str, object]:
    """Describe a setting in columns: those of a composition's strengths have the names that they are typed with."""
    label = format_setting(setting.treatment, setting.quantity, [setting.at])
    own = dict(zip(strength_columns(setting.quantity), setting.strengths, strict=False))
    return {
        "treatment": setting.treatment,
        "quantity": setting.quantity,
        "strength": setting.strength,
        "setting": label,
        **own,
    }


def _strength_row(comparison: ComparisonGroup, setting: Setting) -> Mapping[str, object]:
    cells = comparison.cells_at(setting)
    statuses, values = cells["status"].tolist(), cells["value"].to_numpy()
    return {
        "metric": comparison.metric,
        "goal": comparison.goal,
        "cells": len(cells),
        **{status: statuses.count(status) for status in STATUSES},
        **comparison.mean(setting).columns("mean"),
        **comparison.scale.interval(interquartile_mean(comparison.scale.forward(values))).columns("iqm"),
        **_improvement_over_none(comparison, setting).columns("improvement"),
    }


def _metric_rows(comparisons: Sequence[ComparisonGroup]) -> list[Mapping[str, object]]:
    """Build a row per comparison, setting and metric of the user's own beside the compared one."""
    rows: list[Mapping[str, object]] = []
    for comparison in comparisons:
        own = own_metrics(comparison.cells)
        for setting in comparison.settings if own else ():
            cells = comparison.cells_at(setting)
            completed = cells[cells["status"] == "completed"]
            for metric in own:
                values = completed[metric].dropna().to_numpy(dtype=float)
                where = {"comparison": comparison.label, **_describe_setting(setting), "metric": metric}
                rows.append({**where, "completed": len(values), **mean_interval(values).columns("mean")})
    return rows


def own_metrics(cells: pd.DataFrame) -> list[str]:
    """List the columns of metrics of the user's own that cells report beside the compared one."""
    names = {
        column.removeprefix(OWN_METRIC)
        for column in cells.columns
        if column.startswith(OWN_METRIC) and cells[column].notna().any()
    }
    compared = set(cells["model.metric"])
    found = [one for one in metric_columns(cells) if one.partition("/")[2] in names and one not in compared]
    return [column for column in found if cells[column].notna().any()]


def _improvement_over_none(comparison: ComparisonGroup, setting: Setting) -> Interval:
    """Estimate the probability that a cell of the setting is better than one of ``none``."""
    if setting.treatment == NONE:
        return NO_VALUES
    control = comparison.cells_at(CONTROL)
    return probability_of_improvement(comparison.cells_at(setting)["score"], control["score"])


def _divergence_row(comparison: ComparisonGroup, setting: Setting) -> Mapping[str, object]:
    interval = diverged_share(comparison, setting)
    return {
        "n": interval.n,
        "diverged": round(interval.estimate * interval.n) if interval.n else 0,
        **interval.columns("share"),
    }


def diverged_share(comparison: ComparisonGroup, setting: Setting) -> Interval:
    """Compute the share of a setting's cells that diverged, leaving out failed ones."""
    statuses = comparison.cells_at(setting)["status"].tolist()
    return share_interval(statuses.count("diverged"), len(statuses) - statuses.count("failed"))


def _cost_row(comparison: ComparisonGroup, treatment: str) -> Mapping[str, object]:
    milliseconds = milliseconds_of(comparison, treatment)
    return {
        "comparison": comparison.label,
        "treatment": treatment,
        "rounds": milliseconds.n,
        **cost_of(comparison, treatment).columns("step_ratio"),
        **milliseconds.columns("milliseconds"),
    }


def _action_row(actions: pd.DataFrame, comparison: ComparisonGroup, setting: Setting) -> Mapping[str, object]:
    means = actions.reindex(comparison.cells_at(setting)["cell"]).to_numpy(dtype=float)  # [cells, ACTION]
    row: dict[str, object] = {"n": int((~np.isnan(means)).any(axis=1).sum())}
    for name, values in zip(ACTION, means.T, strict=True):
        row |= mean_interval(values).columns(name)
    return row


JUDGED_COLUMNS = (
    *("comparison", "rank", "treatment", "metric", "goal", "quantity", "chosen", "n", "diverged"),
    *("mean", "mean_low", "mean_high", "none_n", "none_diverged", "none", "none_low", "none_high"),
    *("pairs", "change", "change_low", "change_high", "relative"),
    *("fewer_diverged", "fewer_diverged_low", "fewer_diverged_high"),
    *("behind", "behind_low", "behind_high", "probability_best", "touched", "effective_lr"),
    *("step_ratio", "step_ratio_low", "step_ratio_high", "verdict"),
)


def _ranking_rows(comparison: ComparisonGroup, actions: pd.DataFrame) -> list[Mapping[str, object]]:
    """Write the ranking of a comparison's treatments as rows, the best first."""
    contenders = comparison.ranking.contenders
    return [_contender_row(comparison, rank, one, actions) for rank, one in enumerate(contenders, 1)]


def _contender_row(
    comparison: ComparisonGroup, rank: int, one: Contender, actions: pd.DataFrame
) -> Mapping[str, object]:
    setting = comparison.settings[one.setting]
    action = action_of(comparison, setting, actions)
    own = comparison.mean(setting)
    row: dict[str, object] = {
        "comparison": comparison.label,
        "rank": rank,
        "treatment": setting.treatment,
        "metric": comparison.metric,
        "goal": comparison.goal,
        "quantity": setting.quantity,
        "chosen": ",".join(map(str, setting.strengths)) or setting.strength,
        "n": int(comparison.cells_at(setting)["score"].notna().sum()),
        "diverged": int(np.isposinf(comparison.cells_at(setting)["score"]).sum()),
        **own.columns("mean"),
        "relative": comparison.scale.name == "log",
        **comparison.change(one.behind_first, own.estimate).columns("behind"),
        "probability_best": one.probability_best,
        "touched": action.touched,
        "effective_lr": action.learning_rate,
        **cost_of(comparison, setting.treatment).columns("step_ratio"),
        "verdict": one.verdict,
    }
    if one.against_control:
        control, found = comparison.mean(CONTROL), one.against_control
        row |= {"none_n": found.present[1], "none_diverged": found.lost[1], "pairs": found.gain.n}
        row |= control.columns(NONE) | comparison.change(found.gain, control.estimate).columns("change")
        row |= found.lost_gain.columns("fewer_diverged")
    return row

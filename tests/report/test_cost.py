"""What a report says a treatment costs: what was timed side by side, and never the stopwatch of the sweep."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from scipy.stats import quantile_test

from gradbench.report import answers, build, draw
from gradbench.report.analysis.comparison import list_comparisons
from gradbench.report.analysis.cost import cost_of, milliseconds_of
from gradbench.report.figures.style import RC
from gradbench.report.load.cells import load_results
from gradbench.stats.intervals import NO_VALUES
from gradbench.storage.costs import read_costs, write_costs

FEW = {"none": (), "clip_norm": (0.1, 1.0), "gp": (1.0,)}


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RC, "savefig.dpi", 50)


def one_comparison(folder: Path):
    (found,) = list_comparisons(load_results(folder))
    return found


def markdown(folder: Path) -> str:
    return build(folder).page.with_name("report.md").read_text(encoding="utf-8")


def test_the_cost_is_the_median_over_rounds_with_the_interval_that_scipy_gives(tmp_path: Path) -> None:
    synthetic.write(tmp_path, models=["mlp"], strengths=FEW)
    comparison, rounds = one_comparison(tmp_path), read_costs(tmp_path)[0]
    for name in ("clip_norm", "gp"):
        own = rounds.loc[rounds["regularizer"] == name]
        theirs = quantile_test(own["step_ratio"], q=1.0, p=0.5).confidence_interval(0.95)
        expected = (own["step_ratio"].median(), theirs.low, theirs.high, len(own))
        assert cost_of(comparison, name) == pytest.approx(expected)
        assert milliseconds_of(comparison, name).estimate == pytest.approx(1e3 * own["step_seconds"].median())
    assert cost_of(comparison, "none")[:3] == (1, 1, 1)
    assert cost_of(comparison, "gp_lp") == NO_VALUES


def test_the_stopwatch_of_the_sweep_is_no_cost(tmp_path: Path, drawn: Callable[..., None]) -> None:
    drawn("Cost")
    for name, slower in (("a", 1.0), ("b", 7.0)):
        cells = synthetic.write(tmp_path / name / "same", models=["wgan"], strengths=FEW)
        cells["step_seconds"] *= np.where(cells["regularizer"] == "clip_norm", slower, 1.0)
        cells.to_parquet(tmp_path / name / "same" / "cells" / "a.parquet", index=False)
        build(tmp_path / name / "same")
    first, second = (tmp_path / name / "same" / "report" for name in "ab")
    for kept in ("figures/cost.svg", "tables/cost.csv", "tables/comparisons.csv"):
        assert (first / kept).read_bytes() == (second / kept).read_bytes(), kept
    said = [answers(folder.parent)[0].sentence for folder in (first, second)]
    assert said[0] == said[1]


def test_without_timings_there_is_no_number_and_the_page_says_what_times_them(tmp_path: Path) -> None:
    synthetic.write(tmp_path, models=["wgan"], strengths=FEW, timed=False)
    assert cost_of(one_comparison(tmp_path), "gp") == NO_VALUES
    assert "the step" not in answers(tmp_path)[0].sentence
    said = markdown(tmp_path)
    assert "without --no-cost" in said
    assert "gradbench cost model=mlp" in said
    assert pd.read_csv(tmp_path / "report" / "tables" / "comparisons.csv")["step_ratio"].isna().all()
    assert "cost" not in draw(tmp_path)


def test_of_none_alone_no_cost_is_asked(tmp_path: Path) -> None:
    synthetic.write(tmp_path, models=["mlp"], strengths={"none": ()}, timed=False)
    assert "## Cost" not in markdown(tmp_path)


def test_the_page_says_that_clippings_share_the_pass_of_none(
    tmp_path: Path, drawn: Callable[..., None]
) -> None:
    drawn("Cost")
    synthetic.write(tmp_path, models=["wgan"], strengths=FEW)
    said = " ".join(markdown(tmp_path).split())
    assert "share its forward and backward pass, and so its time" in said
    assert "relative to none" in said


def test_without_none_milliseconds_are_shown_and_no_ratio(tmp_path: Path) -> None:
    synthetic.write(tmp_path, models=["mlp"], strengths={"clip_norm": (0.1,), "gp": (1.0,)})
    figure = draw(tmp_path, "cost")["cost"].figure
    assert figure.axes[0].get_xlabel() == "milliseconds per step and cell"
    assert all(text.get_text().endswith(" ms") for text in figure.axes[0].texts)
    assert cost_of(one_comparison(tmp_path), "gp") == NO_VALUES


def test_of_several_measurements_the_last_counts(tmp_path: Path) -> None:
    cells = synthetic.write(tmp_path, models=["mlp"], strengths=FEW)
    once = cells[cells["regularizer"].isin(["none", "gp"])]
    later = [
        {**row, "step_ratio": 5.0}
        for row in synthetic.costs(once, rounds=8, measured="2026-12-01T00:00:00+00:00")
    ]
    write_costs(tmp_path, later)
    comparison = one_comparison(tmp_path)
    assert cost_of(comparison, "gp") == (5, 5, 5, 8)
    assert cost_of(comparison, "clip_norm").n == 12


def test_a_cell_has_the_cost_of_the_device_that_it_was_trained_on(tmp_path: Path) -> None:
    cells = synthetic.write(tmp_path, models=["mlp"], strengths=FEW)
    write_costs(tmp_path, [{**row, "device": "cuda", "step_ratio": 9.0} for row in synthetic.costs(cells)])
    assert cost_of(one_comparison(tmp_path), "gp").estimate == pytest.approx(2.1, rel=0.02)


def test_a_damaged_part_is_in_the_audit_and_rows_that_are_none_cost_nothing(tmp_path: Path) -> None:
    cells = synthetic.write(tmp_path, models=["mlp"], strengths=FEW)
    rows = synthetic.costs(cells[cells["regularizer"] == "gp"])
    write_costs(tmp_path, [{**row, "step_seconds": -1.0, "measured": "2027"} for row in rows])
    (torn,) = [part for part in (tmp_path / "costs").iterdir() if len(pd.read_parquet(part)) > len(rows)]
    torn.write_bytes(torn.read_bytes()[:-9])
    assert cost_of(one_comparison(tmp_path), "gp") == NO_VALUES
    assert f"left out: {torn} is damaged" in " ".join(load_results(tmp_path).notes)

"""Results hold what the report shows, and come from any results folder."""

import html
import shutil
from pathlib import Path

import pandas as pd
import pytest
import synthetic
from matplotlib.figure import Figure
from small import in_suites

import gradbench
from gradbench import report
from gradbench.report import figures

ROOT = Path(__file__).parents[2] / "results"
QUICK = ROOT / "reference" / "quick"


def test_tables_are_those_of_the_folder():
    results = gradbench.load(QUICK)
    pd.testing.assert_frame_equal(
        results.cells.sort_values("cell", ignore_index=True),
        pd.read_parquet(QUICK / "cells").sort_values("cell", ignore_index=True),
    )
    key = ["cell", "step"]
    pd.testing.assert_frame_equal(
        results.curves.sort_values(key, ignore_index=True),
        pd.read_parquet(QUICK / "curves").sort_values(key, ignore_index=True),
    )


def test_answers_are_those_of_the_report_and_a_notebook_shows_them_with_the_counts():
    results = gradbench.load(str(QUICK))
    answers = results.answers()
    pd.testing.assert_frame_equal(answers, report.answer_table(report.answers(QUICK)))
    assert repr(results) == f"Results('{QUICK}'): 168 cells: 143 completed, 25 diverged"
    page = results._repr_html_()
    assert "168 cells: 143 completed, 25 diverged" in page
    assert all(model in page for model in answers["model"])


def test_printed_answers_are_the_texts_of_the_terminal_and_what_is_selected_of_them_is_a_table():
    answers = gradbench.load(QUICK).answers()
    told = report.answers(QUICK)
    printed, shown = str(answers), answers._repr_html_()
    for answer in told:
        assert f"\n  {answer.advice}\n" in printed
        assert answer.sentence in " ".join(printed.split())
        assert html.escape(answer.sentence) in shown
        assert f"next: {answer.command}" in printed
    assert max(map(len, printed.splitlines())) <= max(100, *(len(answer.command) + 8 for answer in told))
    assert str(answers[["n", "change"]]) == str(pd.DataFrame(answers)[["n", "change"]])


def test_claims_have_a_row_per_condition_and_none_where_nothing_is_claimed():
    claims = gradbench.load(ROOT / "article" / "thresholds").claims()
    assert {"claim", "verdict", "effect", "n"} <= set(claims)
    assert len(claims)
    assert gradbench.load(QUICK).claims().empty


@in_suites("name", [("strengths",)], [("penalty",), ("divergence",)])
def test_a_figure_is_drawn_by_its_name_in_the_report(name):
    figure = gradbench.load(QUICK).figure(name)
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("wrong", ["strength", "strengths2", None, 3], ids=str)
def test_a_figure_that_there_is_not_is_answered_with_those_that_there_are_each_drawn_once(
    wrong, tmp_path, monkeypatch
):
    synthetic.write(tmp_path, models=["mlp"], strengths={"none": (), "clip_norm": (1.0,)}, seeds=2, steps=20)
    drawn, draw = [], figures.draw
    monkeypatch.setattr(figures, "draw", lambda draws, context: drawn.extend(draws) or draw(draws, context))
    meant = r"strengths" if isinstance(wrong, str) else ""
    meant = r"did you mean 'strengths'" if isinstance(wrong, str) else ""
    listed = rf"has no figure {wrong!r}.*{meant}.*there are: strengths, profiles, learning"
    with pytest.raises(gradbench.UsageError, match=listed):
        gradbench.load(tmp_path).figure(wrong)
    assert len(drawn) == len(set(drawn))


@pytest.mark.parametrize("read", [lambda one: one.cells, lambda one: one.curves, lambda one: one.claims()])
def test_results_whose_folder_is_gone_are_not_empty_ones(tmp_path, read):
    shutil.copytree(QUICK, tmp_path / "quick")
    found = gradbench.load(tmp_path / "quick")
    shutil.rmtree(tmp_path / "quick")
    with pytest.raises(gradbench.UsageError, match=r"no results at .*quick"):
        read(found)


@pytest.mark.parametrize("folder", [None, 3])
def test_what_is_no_path_is_refused(folder):
    with pytest.raises(
        gradbench.UsageError, match=f"folder is a path, such as 'results/quick', got {folder}"
    ):
        gradbench.load(folder)


def test_a_folder_without_results_is_refused_in_one_line(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(gradbench.UsageError, match=f"no results at {folder}"):
            gradbench.load(folder)

"""A report of many cells: what grows with them grows in proportion, and the page stays small enough to be sent."""

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gradbench.report import build
from gradbench.report.analysis import tables
from gradbench.report.analysis.comparison import list_comparisons
from gradbench.report.figures.action import _select_settings
from gradbench.report.figures.panels import TICK_GAP, label_strength_axis, panels, width_of
from gradbench.report.load import curves
from gradbench.report.load.cells import load_results
from gradbench.report.render import cells, contents
from gradbench.report.render import html as page
from gradbench.report.render.blocks import Picture

MAKER = Path(__file__).parents[2] / "experiments" / "throughput" / "large_report.py"
LIMIT = 15_000_000  # bytes: what a mail takes


@pytest.fixture(scope="module")
def write() -> Callable[[Path, int, int], None]:
    spec = importlib.util.spec_from_file_location("large_report", MAKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Callable[[Path, int, int], None] = module.write
    return made


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, write: Callable[[Path, int, int], None]) -> Path:
    folder = tmp_path_factory.mktemp("large")
    write(folder, 1000, 100)
    return folder


def data_of(folder: Path) -> dict[str, Any]:
    html = (folder / "report" / "index.html").read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    data: dict[str, Any] = json.loads(found)
    return data


def test_what_a_page_holds_of_each_cell_fits_as_often_as_a_page_lists_cells(large: Path) -> None:
    results = load_results(large)
    most = cells.points_per_curve(cells.MAX_CELLS)
    sparklines = curves.scan_curves(large, results.cells, (), most).sparklines
    listing = cells.list_cells(results, sparklines)
    share = len(json.dumps(listing.data, separators=(",", ":"))) / listing.listed
    assert share * cells.MAX_CELLS + page.EMBEDDED * 4 / 3 < LIMIT


def test_pages_leave_out_what_is_too_much_and_say_where_it_is(
    large: Path, monkeypatch: pytest.MonkeyPatch, drawn: Callable[..., None]
) -> None:
    monkeypatch.setattr(cells, "MAX_CELLS", 300)
    monkeypatch.setattr(page, "EMBEDDED", 10_000)
    drawn("Strengths")
    report = build(large).page.parent
    html = (report / "index.html").read_text(encoding="utf-8")
    assert len(data_of(large)["rows"]) == 300
    assert "The first 300 of 1000 cells; tables/cells.csv" in html
    linked = re.findall(r'<img src="(figures/[^"]+)"', html)
    assert linked
    assert all((report / name).is_file() for name in linked)
    assert html.count("This figure is a file beside the page") == len(linked)
    assert (report / "tables" / "cells.csv").read_text(encoding="utf-8").count("\n") == 1001


def test_figures_show_some_groups_of_every_model_and_say_how_many_there_are(
    write: Callable[[Path, int, int], None], tmp_path: Path
) -> None:
    write(tmp_path, 3600, 3)
    groups = list_comparisons(load_results(tmp_path))
    shown = contents.choose_drawn(groups)
    assert (len(groups), len(shown)) == (9, 6)
    assert [group.model for group in shown] == ["lstm", "lstm", "mlp", "mlp", "wgan", "wgan"]
    for verdict, drawn in (("better", True), ("undecided", False)):
        for group in groups:
            said = verdict if group is groups[2] else "undecided"
            group.__dict__["ranking"] = SimpleNamespace(verdict=said)  # of the last of its model
        assert (groups[2] in contents.choose_drawn(groups)) == drawn
    pictures = {"Strengths": [Picture("a", "", "", "", "", b"", b"")]}
    tables = {name: pd.DataFrame() for name in ("comparisons.csv", "strengths.csv")}
    section, *_ = contents.build_sections(groups, shown, tables, (), pictures)
    assert "Figures show 6 of 9 comparisons" in str(section.blocks[0])


def calls(work: Callable[[], object]) -> int:
    """Count the calls of Python functions that something takes."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_the_work_grows_in_proportion_to_the_cells(
    write: Callable[[Path, int, int], None], tmp_path: Path
) -> None:
    counts = []
    for size in (200, 800):
        folder = tmp_path / str(size)
        write(folder, size, 5)

        def work(folder: Path = folder) -> None:
            results = load_results(folder)
            scanned = curves.scan_curves(folder, results.cells, (), 20)
            tables.build_tables(results, list_comparisons(results), scanned.action)
            cells.list_cells(results, scanned.sparklines)

        counts.append(calls(work))
    assert counts[1] < 4.5 * counts[0]


def test_a_cell_is_looked_up_once_however_many_are_wanted(large: Path) -> None:
    class Wanted:
        looked_up = 0

        def __contains__(self, cell: object) -> bool:
            self.looked_up += 1
            return True

    results, wanted = load_results(large), Wanted()
    scanned = curves.scan_curves(large, results.cells, wanted, 20, listed=7)
    assert wanted.looked_up == len(results.cells) == scanned.rows["cell"].nunique()
    assert set(scanned.sparklines) == set(results.cells["cell"].iloc[:7])


def test_figures_look_through_the_cells_once_per_treatment(
    write: Callable[[Path, int, int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    for strengths in (10, 40):
        monkeypatch.setitem(write.__globals__, "STRENGTHS", strengths)
        monkeypatch.setitem(write.__globals__, "GROUP", 10 * (1 + 3 * strengths))
        folder = tmp_path / str(strengths)
        write(folder, 10 * (1 + 3 * strengths), 3)
        results = load_results(folder)
        (group,) = list_comparisons(results)
        seen = curves.scan_curves(folder, results.cells, (), 0).action
        assert len(group.settings) == 1 + 3 * strengths
        counts.append(calls(partial(_select_settings, group, "threshold", seen, penalties=False)))
    assert counts[1] < 2 * counts[0]


def test_strengths_that_would_touch_have_no_mark_of_their_own() -> None:
    _, ((ax,),) = panels("", [""], 1)
    for count, fewest in ((13, 13), (3000, 30)):
        label_strength_axis(ax, "threshold", {1 + index / count: index / count for index in range(count)})
        assert fewest <= len(ax.get_xticks()) <= min(count, width_of(ax) / TICK_GAP)


def test_no_more_than_one_part_of_the_curves_is_held_at_a_time(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []
    whole = curves.clean_curves

    def watched(rows: Any, known: Any) -> Any:
        held.append(rows["cell"].nunique())
        return whole(rows, known)

    monkeypatch.setattr(curves, "clean_curves", watched)
    results = load_results(large)
    some = results.cells["cell"].iloc[:7]
    scanned = curves.scan_curves(large, results.cells, set(some), 0)
    assert max(held) == 100  # cells of a part
    assert len(held) == 10
    assert set(scanned.rows["cell"]) == set(some)
    assert len(scanned.action) == 1000
    assert np.isfinite(scanned.action["ratio"]).all()

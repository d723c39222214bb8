"""Two or more results folders side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic
from scipy import stats as scipy_stats

from gradbench.cli import main as cli
from gradbench.errors import UsageError
from gradbench.report import compare
from gradbench.report.diff.pairing import diff_folders, short_names
from gradbench.report.load.cells import load_results

FEW = {"none": (), "clip_norm": (0.1, 1.0)}


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two folders that differ in a learning rate, by which accuracy rises by a tenth, and in their seeds."""
    first, second = tmp_path / "first", tmp_path / "second"
    synthetic.write(first, models=["mlp"], strengths=FEW, seeds=5)
    cells = synthetic.write(second, models=["mlp"], strengths=FEW, seeds=6, leaves={"optimizer.lr": 0.2})
    cells["test/accuracy"] += 0.1
    cells.to_parquet(second / "cells" / "a.parquet")
    return [first, second]


def compared(folders: list[Path], out: Path) -> pd.DataFrame:
    compare(folders, out)
    return pd.read_csv(out / "tables" / "compared.csv")


def test_each_setting_is_paired_by_seed(folders: list[Path], tmp_path: Path) -> None:
    told = compared(folders, tmp_path / "out").set_index(["treatment", "strength"])
    a, b = (pd.read_parquet(folder / "cells").set_index("seed") for folder in folders)
    for strength in (0.1, 1.0):
        mine, yours = (cells[cells["regularizer.threshold"] == strength]["test/accuracy"] for cells in (a, b))
        difference = (yours - mine).dropna()
        theirs = scipy_stats.ttest_1samp(difference, 0).confidence_interval(0.95)
        row = told.loc[("clip_norm", strength)]
        assert (row["n"], row["pairs"]) == (5, 5)
        assert row["change"] == pytest.approx(difference.mean()), "above 1 an accuracy is no share"
        assert (row["change_low"], row["change_high"]) == pytest.approx((theirs.low, theirs.high))
        assert row["verdict"] == "better"


def test_the_page_says_what_was_changed_what_came_of_it_and_what_was_left_out(
    folders: list[Path], tmp_path: Path
) -> None:
    report = compare(folders, tmp_path / "out")
    (answer,) = report.answers
    assert (answer.group, answer.treatment, answer.verdict) == ("mlp: second", "second is better", "better")
    assert "n = 5" in answer.sentence
    for page in (report.page, report.page.with_name("report.md")):
        said = page.read_text(encoding="utf-8").replace("\\", "")
        assert "optimizer.lr 0.05 → 0.2" in said
        assert "3 cells of second without one of the same role in first" in said


def test_the_stopwatch_of_two_sweeps_is_named_as_one_and_answers_nothing(
    folders: list[Path], tmp_path: Path
) -> None:
    cells = pd.read_parquet(folders[1] / "cells")
    cells.assign(step_seconds=3 * cells["step_seconds"]).to_parquet(folders[1] / "cells" / "a.parquet")
    report = compare(folders, tmp_path / "out")
    assert "step" not in report.answers[0].sentence
    said = " ".join(report.page.with_name("report.md").read_text(encoding="utf-8").split())
    assert "it is not what a setting costs" in said
    assert pd.read_csv(tmp_path / "out" / "tables" / "compared.csv")["stopwatch_ratio"].median() > 2


def test_keys_that_came_later_are_no_change(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    synthetic.write(first, models=["mlp"], strengths=FEW, seeds=5)
    later = {"accumulate": 1, "schedule": "constant", "optimizer.decoupled": False}
    synthetic.write(second, models=["mlp"], strengths=FEW, seeds=5, leaves=later)
    said = compare([first, second], tmp_path / "out").page.read_text(encoding="utf-8")
    assert not any(key in said for key in ("accumulate", "decoupled", "absent"))


def test_a_folder_and_its_copy_are_the_same_and_nothing_was_changed(
    folders: list[Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    synthetic.write(copy, models=["mlp"], strengths=FEW, seeds=5)
    found = diff_folders(load_results(folders[0]), load_results(copy), ("first", "copy"))
    assert {pairing.verdict for pairing in found.pairings} == {"same"}
    assert found.changes == ()
    assert found.unmatched == (0, 0)


def test_networks_that_were_edited_between_two_runs_are_paired_by_their_names(tmp_path: Path) -> None:
    for folder, version in (("first", "1"), ("second", "2")):
        for name in ("my_pkg.A", "my_pkg.B"):
            own = {"model.network": name, "model.network._source_sha256": name + version}
            synthetic.write(tmp_path / folder, models=["mlp"], strengths=FEW, leaves=own, part=name)
    loaded = [load_results(tmp_path / folder) for folder in ("first", "second")]
    found = diff_folders(loaded[0], loaded[1], ("first", "second"))
    assert found.unmatched == (0, 0)
    assert {one.model for one in found.pairings} == {"mlp (network=my_pkg.A)", "mlp (network=my_pkg.B)"}
    assert "mlp: the source of model.network was edited" in found.changes


@pytest.mark.slow
def test_of_folders_that_differ_by_chance_one_in_twenty_at_most_is_called_better_or_worse(
    tmp_path: Path,
) -> None:
    synthetic.write(tmp_path / "a", models=["mlp"], strengths=FEW, seeds=8)
    loaded = load_results(tmp_path / "a")
    rng, called = np.random.default_rng(0), 0
    for _ in range(150):
        drawn = [rng.normal(size=len(loaded.cells)) for _ in range(2)]
        first, second = (replace(loaded, cells=loaded.cells.assign(value=v, score=-v)) for v in drawn)
        pairings = diff_folders(first, second, ("a", "b")).pairings
        called += any(pairing.corrected_verdict != "undecided" for pairing in pairings)
    assert called <= scipy_stats.binom.ppf(0.999, 150, 0.05)


@pytest.mark.parametrize(
    ("models", "strengths", "columns", "differing"),
    [
        (["wgan"], FEW, {}, "model mlp → wgan; data digits → gaussians8;"),
        (["mlp"], {"gp": (1.0,)}, {}, "treatment clip_norm, none → gp; strength 0.1 … 1 → 1;"),
        (["mlp"], FEW, {"seed": 7}, "seed 0 … 4 → 7;"),
        (["mlp"], FEW, {"optimizer.lr": [0.3, 0.6, 0.9]}, "mlp: optimizer.lr 0.1, 0.2, 0.4 → 0.3, 0.6, 0.9;"),
    ],
)
def test_folders_without_a_common_cell_are_refused_with_what_differs(
    tmp_path: Path,
    models: Sequence[str],
    strengths: Mapping[str, Sequence[float]],
    columns: Mapping[str, Any],
    differing: str,
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    cells = synthetic.write(first, models=["mlp"], strengths=FEW, seeds=5)
    cells.assign(**{"optimizer.lr": np.resize([0.1, 0.2, 0.4], 15)}).to_parquet(first / "cells" / "a.parquet")
    cells = synthetic.write(second, models=models, strengths=strengths, seeds=5)
    columns = {name: np.resize(values, len(cells)) for name, values in columns.items()}
    cells.assign(**columns).to_parquet(second / "cells" / "a.parquet")
    with pytest.raises(UsageError) as raised:
        compare([first, second], tmp_path / "out")
    assert str(raised.value).startswith("no cell of first has a partner in second: ")
    assert differing in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_what_is_undecided_is_not_called_no_difference_and_what_was_changed_is_printed(
    tmp_path: Path,
) -> None:
    for number, rate in enumerate((0.5, 0.2)):
        written = synthetic.write(
            tmp_path / str(number), models=["mlp"], strengths=FEW, seeds=5, leaves={"optimizer.lr": rate}
        )
        noise = np.random.default_rng(number).normal(size=len(written))
        written.assign(**{"test/accuracy": noise}).to_parquet(tmp_path / str(number) / "cells" / "a.parquet")
    report = compare([tmp_path / "0", tmp_path / "1"], tmp_path / "out")
    (answer,) = report.answers
    assert answer.advice.startswith("Undecided")
    assert "changed from 0 to 1: mlp: optimizer.lr 0.5 → 0.2" in report.remarks


def test_a_setting_that_diverges_in_one_folder_alone_is_worse_there(tmp_path: Path) -> None:
    for name, statuses in (("a", {}), ("b", {"clip_norm": "diverged"})):
        synthetic.write(tmp_path / name, models=["mlp"], strengths=FEW, seeds=5, statuses=statuses)
    told = compared([tmp_path / "a", tmp_path / "b"], tmp_path / "out").set_index("treatment")
    assert set(told.loc["clip_norm", "verdict"]) == {"worse"}
    assert list(told.loc["clip_norm", "second_diverged"]) == [5, 5]
    assert told.loc["none", "verdict"] == "same"


def test_three_folders_are_the_first_beside_each_other_one(folders: list[Path], tmp_path: Path) -> None:
    synthetic.write(tmp_path / "third", models=["wgan"], strengths=FEW, seeds=2)
    report = compare([*folders, tmp_path / "third"], tmp_path / "out")
    said = report.page.read_text(encoding="utf-8")
    assert "second beside first" in said
    assert "third beside first" in said
    nothing = "o cell of first has a partner in third: model mlp → wgan; "
    assert nothing in said
    assert any(nothing in remark for remark in report.remarks)
    tables = {table.name for table in (tmp_path / "out" / "tables").iterdir()}
    assert tables == {"compared-1.csv", "compared-2.csv"}


def test_folders_are_called_by_as_much_of_their_paths_as_tells_them_apart() -> None:
    assert short_names(["results/a", "results/b"]) == ["a", "b"]
    assert short_names(["old/quick", "new/quick"]) == ["old/quick", "new/quick"]


def test_what_cannot_be_compared_is_refused_in_one_line_that_says_what_to_type(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    for words, said in (
        (["first", "nowhere"], "no results at nowhere: make some with"),
        (["first", "first"], "first is given twice"),
        (["first", "second", "./first/"], "first is given twice"),
        (["first", "."], "did you mean first?"),
        (["first", "second", "--out", "second/report"], "choose another folder with --out DIR"),
        (["first", "second", "--out", "first"], "choose another folder with --out DIR"),
        (["first", "second", "--out", "file/x"], "choose a folder with --out DIR"),
        (["first", "--out", "x"], "--out is for a comparison"),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["report", *words])
        shown = capsys.readouterr().err
        assert stopped.value.code == 2, shown
        assert said in shown
        assert shown.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_comparison_is_not_laid_over_the_results_of_a_run(folders: list[Path], tmp_path: Path) -> None:
    synthetic.write(tmp_path / "third", models=["mlp"], strengths=FEW)
    with pytest.raises(UsageError, match="holds results of its own"):
        compare(folders, tmp_path / "third")


def test_whether_a_change_that_is_no_better_is_worse_stays_undecided(tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder, rate in zip(folders, (0.05, 0.2), strict=True):
        leaves = {"optimizer.lr": rate, "model.scale": "linear", "model.margin": 0.15}
        cells = synthetic.write(folder, models=["mlp"], strengths={"none": ()}, seeds=8, leaves=leaves)
        lost = np.array([-0.2, 0.4] * 4) if folder is folders[1] else 0.0
        cells.assign(**{"test/accuracy": 0.5 - lost}).to_parquet(folder / "cells" / "a.parquet")
    (row,) = compared(folders, tmp_path / "out").to_dict("records")
    assert row["change"] == pytest.approx(-0.1)
    assert row["verdict"] == "undecided"

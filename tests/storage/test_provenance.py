"""Every row says where it came from, and a person is told what came from elsewhere."""

import subprocess
from pathlib import Path

import pandas as pd
import pytest
import synthetic
from small import CPU, cells

import gradbench
from gradbench import report
from gradbench.cli.show import PROVENANCE
from gradbench.config import instantiate
from gradbench.data import Data
from gradbench.launchers.rows import curves_of, failed_rows, finished_rows
from gradbench.report.analysis.audit import VERSIONS, audit
from gradbench.report.analysis.comparison import list_comparisons
from gradbench.report.load.cells import config_columns, load_results
from gradbench.storage.provenance import WARNED_OF, git_state, now, provenance, provenance_warnings
from gradbench.storage.results import Results, describe
from gradbench.sweep import plan as sweep
from gradbench.sweep.execute import prepare_folder
from gradbench.training.loop import Outcome, train

DATA = Data({}, {})


@pytest.fixture(scope="module")
def stack():
    return cells("mlp", "none", seed=[0, 1], steps=4, eval_every=4)


@pytest.fixture(scope="module")
def outcome(stack) -> Outcome:
    from small import data_of

    return train(stack, data_of(stack[0]), CPU)


def stored(stack, **changed) -> pd.DataFrame:
    """Return what a run reads of rows as a finished run leaves them."""
    rows = [describe(cell) | provenance(CPU) | {"status": "completed"} | changed for cell in stack]
    return pd.DataFrame(rows)[WARNED_OF]


# ---- what a row says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_no_column_of_provenance_is_ever_empty(stack, outcome, status, tmp_path):
    results = Results(tmp_path / "x")
    results.create({})
    if status == "completed":
        results.write(finished_rows(stack, outcome, DATA, CPU, now()), curves_of(stack, outcome), {})
    else:
        results.write_failures(failed_rows(stack, "boom", CPU, now()))
    results.unify_schemas()
    table = pd.read_parquet(results.folder / "cells")
    assert set(table["status"]) == {status}
    known = git_state() != (None, None)
    expected = [name for name in PROVENANCE if known or not name.startswith("git_")]
    assert table[expected].notna().all(axis=None)
    assert table["command"].str.startswith("gradbench run ").all()


def test_the_commit_is_git_s_own_and_outside_a_checkout_there_is_none(tmp_path):
    def git(*words):
        return subprocess.run(
            ["git", "-C", tmp_path, *words], check=True, capture_output=True, text=True
        ).stdout

    assert git_state(tmp_path) == (None, None)
    git("init", "-q")
    (tmp_path / "a.py").write_text("a = 1\n")
    git("add", "a.py")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "a")
    git_state.cache_clear()
    assert git_state(tmp_path) == (git("rev-parse", "HEAD").strip(), False)
    git_state.cache_clear()
    (tmp_path / "a.py").write_text("a = 2\n")
    assert git_state(tmp_path)[1] is True


def test_what_is_provenance_is_no_part_of_what_a_cell_is(stack, outcome, tmp_path):
    results = Results(tmp_path / "x")
    results.create({})
    results.write(finished_rows(stack, outcome, DATA, CPU, now()), curves_of(stack, outcome), {})
    assert not set(config_columns(load_results(results.folder).cells)) & set(PROVENANCE)


# ---- what a run says before it starts --------------------------------------------------------------------------


def test_where_everything_is_the_same_nothing_is_said(stack):
    assert provenance_warnings(stored(stack), stack, CPU) == []
    assert provenance_warnings(stored(stack[:1]), stack, CPU) == []
    assert provenance_warnings(pd.DataFrame(), stack, CPU) == []


@pytest.mark.parametrize(
    ("column", "value"), [("torch", "2.6.0"), ("device", "cuda"), ("gradbench", "0.0.9")]
)
def test_finished_cells_made_elsewhere_are_named_and_kept(stack, column, value):
    (line,) = provenance_warnings(stored(stack, **{column: value}), stack, CPU)
    assert f"{column} was {value}" in line
    assert f"is {provenance(CPU)[column]} now: 2, kept" in line
    assert "--results DIR" in line
    assert provenance_warnings(stored(stack, status="failed", **{column: value}), stack, CPU) == [], (
        "those are trained again"
    )


def test_each_version_has_its_own_line(stack):
    mixed = pd.concat([stored(stack[:1], torch="2.6.0"), stored(stack[1:], torch="2.7.1", device="cuda")])
    lines = provenance_warnings(mixed, stack, CPU)
    assert [part for line in lines for part in ("2.6.0", "2.7.1", "cuda") if part in line] == [
        "2.6.0",
        "2.7.1",
        "cuda",
    ]


def test_cells_of_another_grid_are_counted_and_said_to_be_in_the_report(stack):
    others = cells("mlp", "none", seed=[2, 3, 4], steps=4, eval_every=4)
    (line,) = provenance_warnings(pd.concat([stored(stack), stored(others)]), stack, CPU)
    assert "another grid or config: 3, in the report, too" in line


def test_changed_data_makes_other_cells_and_a_run_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["model=lstm", "data=text", "data.path=my.txt", "data.vocabulary=null", "seed=0,1", "steps=4"]

    def planned(text: str) -> sweep.Plan:
        Path("my.txt").write_text(text)
        instantiate.load_once.cache_clear()
        return sweep.make_plan(None, words, Path("out"))

    first = planned("to be or not to be " * 400)
    results = Results(first.folder)
    results.create({})
    table = stored(first.cells)
    results.write(table.to_dict("records"), pd.DataFrame({"cell": table["cell"], "step": 1}), {})
    assert prepare_folder(planned("to be or not to be " * 400))[0].todo() == []
    plan, lines = prepare_folder(planned("to be or not to bee " * 400))
    assert len(plan.todo()[0]) == 2, "none of the rows is taken for one of these"
    assert lines == ["this folder also holds cells of other content of data=text: 2, in the report, too"]


# ---- what the report says afterwards ---------------------------------------------------------------------------


def test_versions_devices_and_commits_are_all_compared():
    assert set(VERSIONS) == {
        "gradbench",
        "torch",
        "python",
        "device",
        "device_name",
        "git_commit",
    }


@pytest.mark.parametrize("column", VERSIONS)
def test_the_audit_warns_of_every_column_in_which_compared_cells_differ(column, tmp_path):
    strengths = {"none": (), "clip_norm": (1.0,)}
    table = synthetic.write(tmp_path, models=["mlp"], strengths=strengths)
    same = table.assign(**{column: "one"})
    mixed = same.assign(**{column: ["one", "other"] * 3})
    for rows, differ in ((same, False), (mixed, True)):
        rows.to_parquet(tmp_path / "cells/a.parquet")
        results = load_results(tmp_path)
        warnings = [finding.text for finding in audit(results, list_comparisons(results)) if finding.warning]
        said = f"mlp mixes several values of {VERSIONS[column]}: one (3 cells) and other (3 cells)"
        assert warnings == ([said] if differ else [])


@pytest.mark.parametrize(
    ("widths", "exact", "said"),
    [([2, 2, 2, 3, 3, 3], False, True), ([2, 2, 2, 3, 3, 3], True, False), ([3] * 6, False, False)],
)
def test_a_report_says_that_compared_cells_were_trained_at_different_widths_where_that_matters(
    widths, exact, said, tmp_path
):
    table = synthetic.write(tmp_path, models=["mlp"], strengths={"none": (), "clip_norm": (1.0,)})
    table.assign(width=widths, exact=exact).to_parquet(tmp_path / "cells/a.parquet")
    built = report.build(tmp_path)
    texts = ["\n".join(built.remarks), (tmp_path / "report/report.md").read_text(), built.page.read_text()]
    assert [f"mlp: cells were trained in stacks of {min(widths)} to " in text for text in texts] == [said] * 3


def test_rows_over_other_data_are_another_comparison(tmp_path):
    synthetic.write(tmp_path, models=["mlp"], strengths={"none": ()})
    synthetic.write(
        tmp_path,
        models=["mlp"],
        strengths={"none": ()},
        change={"data_sha256": "0" * 64, "cell": None},
        part="b",
    )
    changed = pd.read_parquet(tmp_path / "cells/b.parquet")
    changed["cell"] = [f"{number:016x}" for number in range(len(changed))]
    changed.to_parquet(tmp_path / "cells/b.parquet")
    assert len(list_comparisons(load_results(tmp_path))) == 2


def test_the_version_is_the_package_s():
    assert provenance(CPU)["gradbench"] == gradbench.__version__

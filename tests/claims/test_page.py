"""The page on claims of one's own: its experiments run as they stand, and every claim gets a verdict."""

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from guide import CLAIMING, CLAIMS
from small import in_suites

from gradbench.claims.contrasts import CONTRADICTED, SUPPORTED, UNDECIDED
from gradbench.cli import main as cli
from gradbench.report.claims.verdicts import judge_folders


def test_there_are_three_examples_and_each_is_typed():
    assert len(CLAIMING) == 3
    assert re.findall(r"^gradbench run (\S+)$", CLAIMS, re.MULTILINE) == list(CLAIMING)


@in_suites("name", [(name,) for name in list(CLAIMING)[:1]], [(name,) for name in CLAIMING])
def test_each_example_trains_and_its_claim_gets_a_verdict_and_stood_before_the_runs(
    name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(CLAIMING[name])
    small = [
        "model.hidden=8",
        "steps=20",
        "eval_every=10",
        "seed=range(3)",
        "--results",
        "out",
        "--jobs",
        "1",
    ]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", name, *small])
    assert not stopped.value.code
    told = pd.read_csv("out/report/tables/claims.csv")
    (claim,) = yaml.safe_load(CLAIMING[name])["claims"]
    assert set(told["claim"]) == {claim["id"]}
    assert set(told["verdict"]) <= {SUPPORTED, CONTRADICTED, UNDECIDED}
    assert set(told["stated"]) == {"stood in the file before the runs"}


def test_a_claim_that_was_written_when_runs_had_ended_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = yaml.safe_load(CLAIMING["fast.yaml"])
    small = ["model.hidden=8", "steps=4", "eval_every=4", "seed=range(2)", "--results", "out", "--jobs", "1"]

    def stated(*more):
        Path("fast.yaml").write_text(yaml.safe_dump(spec | {"claims": [*spec["claims"], *more]}))
        with pytest.raises(SystemExit) as stopped:
            cli.main(["run", "fast.yaml", *small])
        assert not stopped.value.code
        return pd.read_csv("out/report/tables/claims.csv").set_index("claim")["stated"].to_dict()

    monkeypatch.setattr("gradbench.storage.grids.now", lambda: "2000-01-01T00:00:00+00:00")
    assert stated() == {"usable": "stood in the file before the runs"}
    monkeypatch.setattr("gradbench.storage.grids.now", lambda: "2999-01-01T00:00:00+00:00")
    late = spec["claims"][0] | {"id": "late"}
    assert stated(late) == {
        "usable": "stood in the file before the runs",
        "late": "was written after 6 of 6 runs had ended",
    }


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """Run an experiment by its path, and return a function that edits its claim."""
    monkeypatch.chdir(tmp_path)
    small = ["model.hidden=8", "steps=4", "eval_every=4", "seed=range(2)", "--results", "out", "--jobs", "1"]
    monkeypatch.setattr("gradbench.storage.grids.now", lambda: "2000-01-01T00:00:00+00:00")
    Path("mine/model").mkdir(parents=True)

    def edit(above, *run):
        Path("fast.yaml").write_text(CLAIMING["fast.yaml"].replace("above: 0.05", f"above: {above}"))
        if run:
            with pytest.raises(SystemExit) as stopped:
                cli.main(["run", "fast.yaml", *small, *run])
            assert not stopped.value.code

    return edit


def test_an_edited_claim_is_noticed_also_in_a_file_given_by_its_path(edited):
    edited(0.05, "--no-cost", "--config-dir", "mine")
    _, notes = judge_folders(Path("out"))
    assert notes == []
    edited(0.5)
    for config_dir in (None, Path("mine")):
        verdicts, (note,) = judge_folders(Path("out"), config_dir)
        assert note.startswith("fast.yaml has changed since out was made (claims): claims are judged as they")
        assert [verdict.claim.above for verdict in verdicts] == [0.05]


def test_a_run_with_an_edited_claim_keeps_the_rule_of_before_beside_the_new_one(edited, monkeypatch):
    edited(0.05, "--no-cost")
    monkeypatch.setattr("gradbench.storage.grids.now", lambda: "2999-01-01T00:00:00+00:00")
    for _ in range(2):
        edited(0.5, "--no-cost")
        table = pd.read_csv("out/report/tables/claims.csv")
        assert table.set_index("rule")["stated"].to_dict() == {
            "difference of test/accuracy: above 0.5": "was written after 6 of 6 runs had ended",
            "difference of test/accuracy: above 0.05": "stood in the file before the runs",
        }
    edited(0.05, "--no-cost")
    table = pd.read_csv("out/report/tables/claims.csv")
    assert len(table) == 2, "a rule that was taken back stays visible"

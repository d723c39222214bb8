"""Folders of several machines become one; what they contradict each other on is refused before anything is written."""

import itertools
import json
import math
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from stored import A, B, C, D, Killed, content, flip, kill_at, train

from gradbench import FORMAT
from gradbench.cli import main as cli
from gradbench.config.hashing import digest
from gradbench.errors import UsageError
from gradbench.storage.costs import read_costs, write_costs
from gradbench.storage.grids import STATED, list_grids, read_experiment
from gradbench.storage.merge import merge
from gradbench.storage.repair import find_damage
from gradbench.storage.results import Results

GRID = {"command": "gradbench run x", "cells": [A, B, C, D]}


@pytest.fixture
def make(tmp_path):
    """Make a results folder of stacks of cells, with further columns."""

    def make(name, *stacks, grid=GRID, **more):
        results = Results(tmp_path / name)
        results.create(grid)
        for cells in stacks:
            train(results.folder, cells, **more)
        results.unify_schemas()
        return results.folder

    return make


def fail(folder, cell, **more):
    Results(folder).write_failures([{"cell": cell, "status": "failed", "error": "boom"} | more])


def files(folder):
    """Return every file of a folder, but for that of locks, with its content."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".reservations"
    }


def test_cells_trained_on_several_machines_are_those_of_one(tmp_path, make):
    whole = make("whole", [A, B], [C, D])
    parts = [make("one", [A, B]), make("two", [C, D])]
    before = [files(part) for part in parts]
    merge(parts, tmp_path / "into")
    assert content(tmp_path / "into") == content(whole)
    assert find_damage(tmp_path / "into") == []
    assert read_experiment(tmp_path / "into") == read_experiment(whole)
    assert [files(part) for part in parts] == before
    assert not list(parts[0].glob(".reservations")), "nothing was written to a source"
    assert content(merge_into_first(parts)) == content(whole)


def merge_into_first(parts):
    merge(parts[1:], parts[0])
    return parts[0]


def test_merging_again_changes_no_file(tmp_path, make):
    parts = [make("one", [A, B]), make("two", [B, C])]
    merge(parts, tmp_path / "into")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "into").rglob("*") if path.is_file()}
    lines = merge([*parts, parts[0]], tmp_path / "into")
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert "3 cells, 3 that it had, 0 from" in lines[0]
    assert lines[1].startswith("1 of the cells that were asked for is not finished")


def test_of_a_stack_that_another_folder_has_in_part_the_rest_is_taken(tmp_path, make):
    merge([make("one", [A, B]), make("two", [B, C, D])], tmp_path / "into")
    assert content(tmp_path / "into") == content(make("whole", [A, B], [C, D]))


# ---- contradictions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}),
        ({"optimizer.nesterov": True}, {"optimizer.nesterov": False}),
        ({"data_sha256": "a"}, {"data_sha256": "b"}),
        ({"model.network": "a.B"}, {"model.network": "a.C"}),
        ({"status": "completed"}, {"status": "diverged"}),
    ],
)
def test_cells_of_one_id_that_differ_are_refused_before_anything_is_written(tmp_path, make, one, other):
    folders = [make("one", [A, B], **one), make("two", [C]), make("three", [B], [D], **other)]
    before = [files(folder) for folder in folders]
    for into in (tmp_path / "into", folders[1]):
        with pytest.raises(UsageError) as refused:
            merge(folders, into)
        text = str(refused.value)
        (name, value), (different,) = next(iter(one.items())), other.values()
        words = [B, str(folders[0]), str(folders[2]), str(value), str(different), f"{folders[2]}/cells/"]
        assert all(word in text for word in [*words, *([name] if name != "status" else [])])
        assert "\n" not in text
    assert [files(folder) for folder in folders] == before
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"data.path": "/home/one/x.npz"}, {"data.path": "/home/two/x.npz"}),
        ({"data._target_": "gradbench.data.a"}, {"data._target_": "gradbench.data.b"}),
        ({"model.weights": "a.pt"}, {"model.weights": "b.pt"}),
        ({"model.unit": "accuracy"}, {"model.unit": "accuracy, test"}),
        ({"device": "cpu", "command": "gradbench run a"}, {"device": "cuda", "command": "gradbench run b"}),
        ({"accumulate": None}, {"accumulate": 1}),
        ({"optimizer.lr": 1}, {"optimizer.lr": 1.0}),
        ({"regularizer.flag": True}, {"regularizer.flag": "true"}),
    ],
)
def test_what_does_not_change_what_a_cell_computes_may_differ(tmp_path, make, one, other):
    (line,) = merge([make("one", [A], [B], **one), make("two", [B], [C, D], **other)], tmp_path / "into")
    assert "4 cells, 2 from" in line
    row = Results(tmp_path / "into").cells().set_index("cell").loc[B]
    name, value = next(iter(one.items()))
    assert row[name] == value or value is None or str(row[name]) == str(value).lower()


def test_metric_values_that_differ_are_told_and_the_first_folder_named_is_kept(tmp_path, make):
    values = {"test/loss": 1.0, "test/flat": math.nan}
    one, two = (
        make(name, [A, B], [C], **values | {"test/loss": 1 + k * 1e-6}) for k, name in enumerate("ab")
    )
    for folders in ([one, two], [two, one]):
        into = tmp_path / f"into-{folders[0].name}"
        line = next(line for line in merge(folders, into) if "metric values" in line)
        assert line.startswith("3 cells have other metric values")
        assert "up to 1e-06" in line
        loss = Results(folders[0]).cells()["test/loss"].iloc[0]
        assert set(Results(into).cells()["test/loss"]) == {loss}
    assert not any("metric values" in line for line in merge([one], tmp_path / "into-a"))


def test_a_finished_cell_outranks_a_failed_one(tmp_path, make):
    one, two = make("one", [A]), make("two", [B])
    fail(one, B)
    fail(two, A)
    for folder in (one, two):
        fail(folder, C)
    for folders in ([one, two], [two, one]):
        into = tmp_path / folders[0].name / "into"
        lines = merge(folders, into)
        assert Results(into).statuses() == {A: "completed", B: "completed", C: "failed"}
        assert "2 of the cells that were asked for are not finished" in lines[1]
    merge([two], one)
    assert Results(one).statuses() == {A: "completed", B: "completed", C: "failed"}
    assert [path.name for path in (one / "cells").glob("failed-*")] == [f"failed-{C}.parquet"]


# ---- grids, timings, plans -------------------------------------------------------------------------------------


def test_grids_are_united_and_claims_keep_the_earliest_time_that_they_were_stated(
    tmp_path, make, monkeypatch
):
    claims = [{"id": "1a", "says": "x"}, {"id": "1b"}]
    late = {**GRID, "command": "gradbench run x --results here", "spec": {"claims": claims}}
    one, two = tmp_path / "one", make("two", [B], grid={"command": "gradbench run y", "cells": [B]})
    for folder, time in ((one, "2026-02"), (two, "2026-01")):
        monkeypatch.setattr("gradbench.storage.grids.now", lambda time=time: time)
        Results(folder).create(late)
    train(one, [A])
    older = {"command": "gradbench run z", "cells": [C], "spec": {"claims": [{"id": "2"}]}}
    three = make("three", [C], grid=older)
    text = (three / "experiment.yaml").read_text()
    (three / "experiment.yaml").write_text(text[: text.index(STATED)])
    merge([one, two, three], tmp_path / "into")
    grids = list_grids(read_experiment(tmp_path / "into"))
    assert [grid["command"][14:] for grid in grids] == ["x --results here", "y", "z"]
    assert grids[0]["spec"]["claims"] == claims
    assert grids[0][STATED] == {digest(claim): "2026-01" for claim in claims}
    assert STATED not in grids[2], "nobody knows when"
    merge([two, three], one)
    assert list_grids(read_experiment(one)) == grids


def test_folders_without_a_common_grid_are_merged_and_told(tmp_path, make):
    one = make("one", [A], grid={"command": "gradbench run a", "cells": [A]})
    two = make("two", [B], grid={"command": "gradbench run b", "cells": [B]})
    lines = merge([one, two], tmp_path / "into")
    assert lines[1] == f"{two} has no grid in common with what is named before it: both are kept"
    assert Results(tmp_path / "into").statuses().keys() == {A, B}


def test_timings_of_all_machines_and_plans_are_kept(tmp_path, make):
    folders = [make("one", [A]), make("two", [B])]
    for number, folder in enumerate(folders):
        row = {"device": "cpu", "step_program": "p", "device_name": folder.name, "measured": str(number)}
        write_costs(folder, [row])
        for name in ("both", folder.name):
            (folder / "plans" / f"{name}.parquet").write_text(name)
    for _ in range(2):
        merge(folders, tmp_path / "into")
        table, damaged = read_costs(tmp_path / "into")
        assert sorted(table["device_name"]) == ["one", "two"]
        assert not damaged
    assert sorted(path.read_text() for path in (tmp_path / "into/plans").iterdir()) == ["both", "one", "two"]


def test_a_checkpoint_stays_where_it_is(tmp_path, make):
    folders = [make("one", [A]), make("two", [B])]
    (folders[1] / "checkpoints").mkdir()
    for cells in ([C, D], [A]):
        header = {"fingerprint": json.dumps({"cells": cells})}
        (folders[1] / f"checkpoints/{cells[0]}.pt").write_text(json.dumps(header) + "\n")
    line = merge(folders, tmp_path / "into")[-1]
    assert line.startswith(f"checkpoints of 1 stack stay in {folders[1]}")
    assert not (tmp_path / "into/checkpoints").exists()


# ---- damage and kills ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["cells", "curves", "arrays"])
def test_what_one_folder_has_lost_is_taken_from_another_also_into_that_one(tmp_path, make, table):
    one, two = make("one", [A, B], [C]), make("two", [B, A, D])
    whole = content(make("whole", [A, B], [C], [D]))
    victim = one / table / (f"{A}.npz" if table == "arrays" else next((one / table).iterdir()).name)
    if table != "arrays":
        victim = next(path for path in (one / table).iterdir() if len(pd.read_parquet(path)) % 2 == 0)
    flip(victim)
    lines = merge([one, two], tmp_path / "into")
    assert any(line.startswith(f"left out: {victim} is damaged") for line in lines)
    assert content(tmp_path / "into") == whole
    assert find_damage(tmp_path / "into") == []
    merge([two], one)
    assert Results(one).statuses().keys() == {A, B, C, D}
    assert not any(damage.needed for damage in find_damage(one))


def test_a_row_whose_files_are_lost_everywhere_is_kept_and_the_next_run_notices(tmp_path, make):
    one = make("one", [A, B])
    flip(one / f"arrays/{A}.npz")
    merge([one], tmp_path / "into")
    assert Results(tmp_path / "into").statuses().keys() == {A, B}
    (found,) = find_damage(tmp_path / "into")
    assert found.needed.keys() == {A}


@pytest.mark.parametrize("into", ["into", "one"])
def test_merging_that_is_killed_at_any_instant_is_completed_by_the_same_command(
    tmp_path, make, monkeypatch, into
):
    make("one", [A, B])
    two = make("two", [B], [C, D])
    fail(two, A)
    fail(tmp_path / "one", C)
    write_costs(two, [{"device": "cpu", "step_program": "p"}])
    flip(tmp_path / "one/arrays" / f"{B}.npz")
    expected = content(make("whole", [A], [B], [C, D]))
    for number in itertools.count():
        place = tmp_path / str(number)
        for name in ("one", "two"):
            shutil.copytree(tmp_path / name, place / name)
        folders, died = [place / "one", place / "two"], False
        with monkeypatch.context() as patch:
            kill_at(patch, number)
            try:
                merge(folders, place / into)
            except Killed:
                died = True
        assert Results(place / "one").statuses()[A] == "completed"
        merge(folders, place / into)
        assert content(place / into) == expected, number
        assert find_damage(place / into) == []
        assert len(read_costs(place / into)[0]) == 1
        if not died:
            break
    assert number > 3


# ---- what is refused -------------------------------------------------------------------------------------------

RUN = """
import sys, time
from pathlib import Path
from gradbench.storage.locks import Reservations
with Reservations(Path(sys.argv[1])):
    print(flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("busy", ["one", "into"])
def test_folders_that_a_run_is_at_work_in_are_refused(tmp_path, make, busy):
    one, into = make("one", [A]), make("into", [B])
    process = subprocess.Popen([sys.executable, "-c", RUN, tmp_path / busy], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        with pytest.raises(UsageError, match=f"a run is at work in .*{busy}"):
            merge([one], into)
    finally:
        process.kill()
        process.communicate()
    merge([one], into)
    assert Results(into).statuses().keys() == {A, B}


@pytest.mark.parametrize(
    ("version", "said"), [(FORMAT - 1, "results format"), (FORMAT + 1, "newer gradbench")]
)
def test_folders_of_another_results_format_are_refused(tmp_path, make, version, said):
    with pytest.raises(UsageError, match=said):
        merge([make("one", [A]), make("two", [B], format=version)], tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_what_is_no_results_folder_or_leads_out_of_one_is_refused(tmp_path, make, capsys):
    one, two = make("one", [A]), make("two", [B])
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.tex").write_text("")
    (two / "plans").rmdir()
    (two / "plans").symlink_to("/etc")
    for words, said in (
        ([one, tmp_path / "absent", "--into", tmp_path / "into"], "is no results folder"),
        ([tmp_path / "thesis", "--into", tmp_path / "into"], "is no results folder"),
        ([one, "--into", tmp_path / "thesis"], "choose another with --into DIR"),
        ([one, "--into", one], "nothing to merge"),
        ([one, two, "--into", tmp_path / "into"], "out of its results folder"),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(["merge", *map(str, words)])
        assert end.value.code == 2
        assert said in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "into").exists()


def test_the_command_says_what_it_did_and_what_to_type_next(tmp_path, make, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["merge", str(make("one", [A, B, C, D])), "--into", str(tmp_path / "in to")])
    assert end.value.code == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/in to: 4 cells, 4 from {tmp_path}/one",
        f"next: gradbench report '{tmp_path}/in to'",
    ]

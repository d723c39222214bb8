"""Many small parts become few: no value changes, whenever it is killed, and what is lost later is noticed as before."""

import itertools
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from stored import A, B, C, D, Killed, content, kill_at, train

from gradbench.cli import main as cli
from gradbench.errors import UsageError
from gradbench.storage import compact as compacting
from gradbench.storage import repair
from gradbench.storage.compact import compact
from gradbench.storage.results import Results
from gradbench.storage.schema import part_paths, scan_parts

E, F = (letter * 16 for letter in "ef")


@pytest.fixture
def folder(tmp_path):
    """Four stacks, of which two have further columns, and a cell that failed."""
    results = Results(tmp_path / "results")
    results.create({"command": "gradbench run x", "cells": [A, B, C, D, E, F]})
    train(results.folder, [A, B], **{"test/loss": 0.1, "regularizer.threshold": 1})
    train(results.folder, [C], **{"test/loss": float("nan"), "diverged_at": 7})
    train(results.folder, [D], **{"regularizer.threshold": 0.5})
    train(results.folder, [E])
    results.write_failures([{"cell": F, "status": "failed", "error": "boom"}])
    results.unify_schemas()
    return results.folder


def tables(folder):
    """Return both tables, as gradbench reads them, in the order of their cells."""
    results = Results(folder)
    return [
        results.cells().sort_values("cell", ignore_index=True),
        results.curves().sort_values(["cell", "step"], ignore_index=True),
    ]


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        pd.testing.assert_frame_equal(one, other)


def names(folder, table="cells"):
    return [path.name for path in part_paths(folder / table)]


def test_no_value_changes_and_parts_are_few(folder):
    before, as_stranger, failure = tables(folder), content(folder), f"failed-{F}.parquet"
    assert compact(folder) == ["cells: 5 parts, now 2", "curves: 4 parts, now 1"]
    assert_equal(tables(folder), before)
    assert str(content(folder)) == str(as_stranger), "nan is not equal to itself"
    assert failure in names(folder)
    assert set(names(folder)) - {failure} == set(names(folder, "curves"))
    assert repair.find_damage(folder) == []
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    assert compact(folder) == ["cells: 2 parts, now 2", "curves: 1 parts, now 1"]
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


@pytest.mark.parametrize(
    ("bound", "value", "parts"), [("MAX_ROWS", 2, 3), ("MAX_ROWS", 4, 2), ("MAX_BYTES", 1, 4)]
)
def test_no_part_grows_too_large_and_large_ones_are_left_alone(folder, monkeypatch, bound, value, parts):
    before = tables(folder)
    monkeypatch.setattr(compacting, bound, value)
    compact(folder)
    assert len(names(folder, "curves")) == parts
    assert_equal(tables(folder), before)


def test_compacting_that_is_killed_at_any_instant_shows_each_row_once_and_is_completed_by_the_next(
    folder, monkeypatch
):
    expected, as_stranger = tables(folder), content(folder)
    for number in itertools.count():
        victim, died = folder.with_name(f"killed-{number}"), False
        shutil.copytree(folder, victim)
        with monkeypatch.context() as patch:
            kill_at(patch, number)
            try:
                compact(victim)
            except Killed:
                died = True
        assert_equal(tables(victim), expected)
        assert repair.find_damage(victim) == []
        compact(victim)
        assert_equal(tables(victim), expected)
        assert str(content(victim)) == str(as_stranger), number
        assert len(names(victim, "curves")) == 1
        if not died:
            break
    assert number > 8


@pytest.mark.parametrize("read", range(4))
def test_a_reader_that_is_overtaken_sees_every_row(folder, read):
    """It has read some parts of those that it found, when all of them are united and removed."""
    for table, cells in (("cells", {A, B, C, D, E, F}), ("curves", {A, B, C, D, E})):
        own = folder.with_name(f"{table}-{read}")
        shutil.copytree(folder, own)
        scan = scan_parts(own / table)
        parts = [next(scan) for _ in range(read)]
        compact(own)
        parts += scan
        assert {cell for part in parts for cell in part["cell"].to_pylist()} == cells


def tear(path):
    path.write_bytes(path.read_bytes()[:-9])


def finish(folder, cells):
    """Do what a run does: mend, train what is not finished, tidy."""
    lines = repair.mend(folder, repair.find_damage(folder), cells)
    left = [cell for cell in cells if cell not in Results(folder).statuses()]
    if left:
        train(folder, left)
    repair.remove_stale_curves(folder)
    Results(folder).unify_schemas()
    return lines, left


@pytest.mark.parametrize(
    ("table", "lost"), [("arrays", [B]), ("curves", [A, B, C, D, E]), ("cells", [A, B, C, D, E])]
)
@pytest.mark.parametrize("damage", [tear, lambda path: path.unlink()])
def test_what_is_lost_of_a_compacted_folder_is_noticed_and_made_again(tmp_path, table, lost, damage):
    folder = Results(tmp_path / "x").folder
    Results(folder).create({"command": "gradbench run x"})
    for cells in ([A, B], [C], [D, E]):
        train(folder, cells)
    before = content(folder)
    compact(folder)
    (name,) = names(folder)
    damage(folder / table / (f"{B}.npz" if table == "arrays" else name))
    _, again = finish(folder, [A, B, C, D, E])
    assert again == lost
    assert content(folder) == before
    assert repair.find_damage(folder) == []
    compact(folder)
    assert content(folder) == before
    assert len(names(folder)) == 1


def test_damaged_parts_and_those_of_a_person_are_left_as_they_are(folder):
    torn = next(path for path in part_paths(folder / "curves") if len(pd.read_parquet(path)) == 6)
    own = folder / "cells/mine.parquet"
    shutil.copyfile(folder / "cells" / torn.name, own)
    before = tables(folder)
    tear(torn)
    lines = compact(folder)
    assert lines[:2] == ["cells: 6 parts, now 4", "curves: 4 parts, now 2"]
    assert lines[2].startswith(f"{torn} is damaged or missing")
    assert torn.exists()
    assert own.exists()
    (found,) = repair.find_damage(folder)
    assert found.needed.keys() == {A, B}
    assert_equal(tables(folder)[:1], before[:1])


RUN = """
import sys, time
from pathlib import Path
from gradbench.storage.locks import Reservations
with Reservations(Path(sys.argv[1])):
    print(flush=True)
    time.sleep(600)
"""


def test_a_folder_that_a_run_is_at_work_in_is_refused(folder):
    before = names(folder)
    process = subprocess.Popen([sys.executable, "-c", RUN, folder], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        with pytest.raises(UsageError, match="a run is at work in"):
            compact(folder)
    finally:
        process.kill()
        process.communicate()
    assert names(folder) == before


def test_the_command_says_what_it_did(folder, tmp_path, capsys):
    for given, status in ((folder, 0), (tmp_path / "absent", 2)):
        with pytest.raises(SystemExit) as end:
            cli.main(["compact", str(given)])
        assert end.value.code == status
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"{folder}: cells: 5 parts, now 2",
        f"{folder}: curves: 4 parts, now 1",
    ]
    assert "is no results folder" in said.err

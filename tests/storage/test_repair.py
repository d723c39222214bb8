"""What a folder has lost is noticed; mending touches only that, and a kill in between is repaired by the next run."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from stored import A, B, C, D, Killed, content, flip, kill_at, train

from gradbench.storage import grids, repair
from gradbench.storage.parquet import read_table, write_table
from gradbench.storage.results import RECORDED, Results
from gradbench.storage.schema import part_name, part_paths

GRIDS = {"gradbench run first": [A, B, C, D], "gradbench run second": [A, C]}
TABLES = ("cells", "curves", "arrays")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two stacks, of cells A, B and of C, D: all finished, all with arrays but D."""
    results = Results(tmp_path / "x")
    for command, cells in GRIDS.items():
        results.create({"command": command, "cells": cells})
    for cells in ((A, B), (C, D)):
        train(results.folder, cells)
    return results.folder


def path_of(folder, table, cells=(A, B)):
    return folder / table / (f"{cells[0]}.npz" if table == "arrays" else part_name(cells))


def delete(path):
    path.unlink()


def mend(folder, cells=(A, B, C, D)):
    return repair.mend(folder, repair.find_damage(folder), cells)


def finish(folder, cells=(A, B, C, D)):
    """Do what a run does: mend, train what is not finished, tidy."""
    lines = mend(folder, cells)
    if left := [cell for cell in cells if cell not in Results(folder).statuses()]:
        train(folder, left)
    repair.remove_stale_curves(folder)
    Results(folder).unify_schemas()
    return lines


# ---- noticing --------------------------------------------------------------------------------------------------


def test_a_folder_that_nothing_happened_to_has_no_damage(folder):
    assert repair.find_damage(folder) == []


def test_a_row_records_its_arrays_and_curves(folder):
    rows = Results(folder).cells().set_index("cell")
    sizes = {cell: (folder / f"arrays/{cell}.npz").stat().st_size for cell in (A, B, C)}
    assert rows["arrays_bytes"].to_dict() == sizes | {D: 0}
    assert set(rows["curve_rows"]) == {3}


@pytest.mark.parametrize("table", ["curves", "arrays"])
@pytest.mark.parametrize("damage", [flip, delete])
def test_what_a_row_promises_and_is_not_there_is_noticed_and_made_again(folder, table, damage):
    before = content(folder)
    victim = path_of(folder, table)
    damage(victim)
    (found,) = repair.find_damage(folder)
    assert found.path == victim
    assert found.missing == (damage is delete)
    lost = {A} if table == "arrays" else {A, B}
    assert found.needed.keys() == lost
    (line,) = mend(folder)
    assert ("is missing" in line) == (damage is delete)
    assert ("kept as _" in line) == (damage is flip)
    assert line.endswith("its cell is trained again" if table == "arrays" else "its cells are trained again")
    assert Results(folder).statuses().keys() == {A, B, C, D} - lost
    finish(folder)
    assert content(folder) == before


def test_an_array_of_another_size_is_noticed(folder):
    shutil.copyfile(path_of(folder, "arrays"), path_of(folder, "arrays", (C, D)))
    assert repair.find_damage(folder) == []
    np.savez(path_of(folder, "arrays"), z=np.zeros(3))
    (found,) = repair.find_damage(folder)
    assert found.needed.keys() == {A}


def test_rows_of_before_this_was_recorded_promise_no_file_but_need_what_is_damaged(folder):
    for path in part_paths(folder / "cells"):
        write_table(path, read_table(path).drop_columns(RECORDED))
    delete(path_of(folder, "arrays"))
    delete(path_of(folder, "curves", (C, D)))
    assert repair.find_damage(folder) == []
    flip(path_of(folder, "arrays", (B,)))
    flip(path_of(folder, "curves"))
    assert {(*found.needed,) for found in repair.find_damage(folder)} == {(A, B), (B,)}
    mend(folder)
    assert Results(folder).statuses().keys() == {C, D}


# ---- mending ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("damage", "older"), [(flip, False), (delete, False), (flip, True)])
def test_mending_that_is_killed_at_any_instant_is_repaired_by_the_next_run(
    folder, table, damage, older, monkeypatch
):
    if older:
        for path in part_paths(folder / "cells"):
            write_table(path, read_table(path).drop_columns(RECORDED))
    before = content(folder)
    damage(path_of(folder, table))
    for number in itertools.count():
        victim = folder.with_name(f"killed-{number}")
        shutil.copytree(folder, victim)
        with monkeypatch.context() as patch:
            kill_at(patch, number)
            try:
                finish(victim)
                died = False
            except Killed:
                died = True
        finish(victim)
        (cells, curves), arrays = content(victim)
        if older:
            cells = {name: values for name, values in cells.items() if name not in RECORDED}
        assert ([cells, curves], arrays) == before, number
        assert repair.find_damage(victim) == []
        if not died:
            break
    assert number > 2, "something was there to be killed"


@pytest.mark.parametrize("table", TABLES)
def test_mending_keeps_the_damaged_file_and_the_sound_cells_of_its_part(folder, table):
    victim = path_of(folder, table)
    flip(victim)
    torn = victim.read_bytes()
    (line,) = mend(folder)
    kept = victim.with_name(f"_{victim.name}.damaged-1")
    assert f"kept as {kept.name}" in line
    assert kept.read_bytes() == torn
    assert Results(folder).statuses().keys() == ({B, C, D} if table == "arrays" else {C, D})


def test_a_run_of_another_grid_leaves_damaged_cells_as_they_are_and_says_what_trains_them(folder):
    before = content(folder)
    for table, cells in (("arrays", (B,)), ("curves", (A, B))):
        flip(path_of(folder, table, cells))
    torn = path_of(folder, "curves").read_bytes()
    lines = mend(folder, [C, D])
    assert len(lines) == 2
    for line in lines:
        assert "trained again" not in line
        assert "it is left as it is" in line
        assert line.endswith("to train them again type gradbench run first")
    assert Results(folder).statuses().keys() == {A, B, C, D}
    assert path_of(folder, "curves").read_bytes() == torn
    (line, _) = mend(folder, [A, C])
    assert "1 of its 2 cells is trained again; for the others type gradbench run first" in line
    assert Results(folder).statuses().keys() == {B, C, D}
    finish(folder)
    assert content(folder) == before


def test_cells_of_no_grid_that_is_remembered_are_trained_again_by_their_own_commands(folder):
    (folder / "experiment.yaml").unlink()
    delete(path_of(folder, "curves"))
    (line,) = mend(folder, [C])
    assert f"gradbench run seed={A} --results {folder} and gradbench run seed={B} --results {folder}" in line


def test_a_damaged_part_of_the_table_names_its_cells_by_their_curves(folder):
    flip(path_of(folder, "cells"))
    (found,) = repair.find_damage(folder)
    assert found.cells == {A, B}
    (line,) = mend(folder, [C, D])
    assert "kept as _" in line
    assert line.endswith("to train them again type gradbench run first")
    assert pd.read_parquet(folder / "cells")["cell"].tolist() == [C, D]


def test_parts_and_grids_are_read_as_often_however_much_is_lost(folder, monkeypatch):
    reads = []
    for lost in ([A], [A, B, C]):
        calls, victim = [], folder.with_name(f"{len(lost)}-lost")
        shutil.copytree(folder, victim)
        for cell in lost:
            delete(victim / f"arrays/{cell}.npz")
        damages = repair.find_damage(victim)
        assert len(damages) == len(lost)
        with monkeypatch.context() as patch:
            for module, name in ((repair, "read_table"), (grids, "read_experiment")):
                real = getattr(module, name)
                spy = lambda *given, real=real, calls=calls: calls.append(real) or real(*given)  # noqa: E731
                patch.setattr(module, name, spy)
            repair.mend(victim, damages, {A, C})
        reads.append(len(calls))
    assert reads[0] == reads[1] > 0


# ---- tidying ---------------------------------------------------------------------------------------------------


def test_curves_of_a_stack_that_was_trained_in_other_stacks_go(folder):
    before = content(folder)
    (folder / "cells" / part_name((A, B))).unlink()  # as a kill between the two parts leaves it
    for cell in (A, B):
        train(folder, [cell])
    assert len(pd.read_parquet(folder / "curves")) == 18
    repair.remove_stale_curves(folder)
    assert content(folder) == before


def test_curves_of_unfinished_cells_and_files_that_a_person_put_there_stay(folder):
    (folder / "cells" / part_name((A, B))).unlink()
    own = folder / "curves/mine.parquet"
    shutil.copyfile(path_of(folder, "curves", (C, D)), own)
    names = sorted(path.name for path in (folder / "curves").iterdir())
    repair.remove_stale_curves(folder)
    assert sorted(path.name for path in (folder / "curves").iterdir()) == names
    assert len(pq.read_table(path_of(folder, "curves"))) == 6


def test_a_part_that_was_copied_is_mended_with_its_copy(folder):
    for table in ("cells", "curves"):
        shutil.copyfile(path_of(folder, table), folder / table / "a-copy.parquet")
    assert repair.find_damage(folder) == []
    assert len(Results(folder).cells()) == 4
    assert len(Results(folder).curves()) == 12
    flip(path_of(folder, "curves"))
    (found,) = repair.find_damage(folder)
    assert not found.needed, "the copy has them all"
    delete(path_of(folder, "arrays"))
    mend(folder)
    assert Results(folder).statuses().keys() == {B, C, D}

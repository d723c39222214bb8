"""A results folder remembers every grid that it was asked for."""

import pytest
import yaml

from gradbench.errors import DamagedError, UsageError
from gradbench.storage.grids import (
    cells_of,
    commands_by_cells,
    commands_of,
    commands_that_train,
    list_grids,
    read_experiment,
    remember_grid,
)

ONE, TWO, THREE = (letter * 16 for letter in "123")


def grid(command, *cells, **more):
    return {"command": f"gradbench run {command}", "cells": list(cells)} | more


def asked(folder, *grids):
    for one in grids:
        remember_grid(folder, one)
    return [one["command"].split()[-1] for one in list_grids(read_experiment(folder))]


@pytest.mark.parametrize(
    ("grids", "remembered"),
    [
        ([grid("a", ONE)], ["a"]),
        ([grid("a", ONE), grid("a", TWO)], ["a"]),
        ([grid("a", ONE, TWO), grid("part", ONE)], ["a", "part"]),
        ([grid("part", ONE), grid("a", ONE, TWO)], ["a", "part"]),
        ([grid("a", ONE), grid("b", TWO)], ["b", "a"]),
        ([grid("a", ONE), grid("b", TWO), grid("c", THREE), grid("a", ONE)], ["a", "c", "b"]),
        ([grid("a", ONE, TWO), grid("part", ONE), grid("b", THREE)], ["b", "a", "part"]),
    ],
)
def test_the_latest_grid_is_on_top_but_for_one_that_another_holds(tmp_path, grids, remembered):
    assert asked(tmp_path, *grids) == remembered
    stamp = (tmp_path / "experiment.yaml").stat().st_mtime_ns
    remember_grid(tmp_path, list_grids(read_experiment(tmp_path))[0])
    assert (tmp_path / "experiment.yaml").stat().st_mtime_ns == stamp, "nothing was new"


def test_what_made_a_folder_are_its_commands_without_those_that_add_nothing(tmp_path):
    asked(tmp_path, grid("a", ONE, TWO), grid("part", ONE), grid("b", THREE), grid("; rm -r x", "x"))
    assert commands_of(read_experiment(tmp_path)) == ["gradbench run b", "gradbench run a"]


def test_a_file_of_an_earlier_version_is_one_grid(tmp_path):
    earlier = {"experiment": "x", "command": "gradbench run x", "spec": {"grid": []}, "cells": [ONE]}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(earlier))
    assert list_grids(read_experiment(tmp_path)) == [earlier]
    assert asked(tmp_path, grid("b", TWO)) == ["b", "x"]


def test_a_file_that_is_no_yaml_is_set_aside_and_one_that_cannot_be_read_is_left(tmp_path):
    path = tmp_path / "experiment.yaml"
    path.write_text("a: [")
    with pytest.raises(DamagedError):
        read_experiment(tmp_path)
    assert asked(tmp_path, grid("a", ONE)) == ["a"]
    assert (tmp_path / "_experiment.yaml.damaged-1").read_text() == "a: ["
    path.unlink()
    path.mkdir()
    with pytest.raises(UsageError, match=r"cannot read .*experiment\.yaml \(Is a directory\)"):
        remember_grid(tmp_path, grid("b", ONE))
    assert path.is_dir()


def test_content_of_any_shape_is_listed(tmp_path):
    odd = "a: &a [x]\ncells: *a\nother_grids: [1, {cells: x}, {cells: [1, " + ONE + "]}]\ncommand: 5\n"
    (tmp_path / "experiment.yaml").write_text(odd)
    assert [cells_of(one) for one in list_grids(read_experiment(tmp_path))] == [set(), set(), set()]
    remember_grid(tmp_path, grid("a", ONE))
    assert commands_of(read_experiment(tmp_path)) == ["gradbench run a"]


def test_a_cell_is_trained_by_its_grid_or_by_itself(tmp_path):
    asked(tmp_path, grid("a", ONE))
    rows = {ONE: "gradbench run seed=1", TWO: "gradbench run seed=2", THREE: "rm -r x"}
    assert commands_that_train(tmp_path, rows, commands_by_cells(tmp_path)) == [
        "gradbench run a",
        f"gradbench run seed=2 --results {tmp_path}",
    ]


def test_a_command_that_names_code_is_not_offered_to_train_a_cell(tmp_path):
    asked(tmp_path, grid("--config-dir theirs", ONE))
    rows = {ONE: "gradbench run seed=1", TWO: "gradbench run model.network=their.net"}
    assert commands_that_train(tmp_path, rows, commands_by_cells(tmp_path)) == [
        f"gradbench run seed=1 --results {tmp_path}"
    ]


@pytest.mark.parametrize(("bound", "value"), [("MAX_STORED", 30), ("MAX_EXPERIMENT", 300)])
def test_the_oldest_grids_are_forgotten_before_the_file_is_too_large_to_be_read(
    tmp_path, bound, value, monkeypatch
):
    monkeypatch.setattr(f"gradbench.storage.grids.{bound}", value)
    many = [grid(str(number), f"{number:016x}") for number in range(20)]
    remembered = asked(tmp_path, *many)
    assert 1 < len(remembered) < 10
    assert remembered == [str(number) for number in range(19, 19 - len(remembered), -1)]
    assert not list(tmp_path.glob("_*")), "it never grew larger than what is read"

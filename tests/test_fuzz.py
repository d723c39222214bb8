"""Whatever is handed to the command line ends in success or in one line and status 2, and changes nothing.

Every case goes through ``gradbench.cli.main.main`` in this process. To make thousands of them cheap, composed configs
are kept from case to case, the King James text is a short one, pictures have few pixels, networks of any size are
planned on the meta device, which has no memory to fill, and there is no network to download from.
"""

import contextlib
import io
import shutil
import signal
from collections import Counter
from pathlib import Path

import fuzz
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from gradbench.cli import main as cli
from gradbench.config.compose import Configs
from gradbench.data import corpora, images
from gradbench.errors import UsageError
from gradbench.sweep import plan as sweep

OVERRIDES, EXPERIMENTS, TABLES, FILES = 600, 450, 450, 550
"""Cases of each kind: 2,050 in all, of which the default and the slow suite try a share."""

in_part_and_whole = pytest.mark.parametrize(
    "share",
    [0.05, pytest.param(0.25, marks=pytest.mark.slow), pytest.param(1.0, marks=pytest.mark.exhaustive)],
)

PATIENCE = 20
"""Seconds of this process's own time, however busy the machine, after which a case counts as hanging."""

SMALL = ["model=mlp", "model.hidden=4", "model.depth=1", "steps=4", "regularizer=none,clip_norm", "seed=0,1"]
FOLDER = "results/quick"
COMMANDS = fuzz.mixed(
    {
        st.just(("show", "")): 8,
        st.just(("show", "{cell}")): 16,
        st.just(("run", "--dry-run", *SMALL, "--results", FOLDER)): 16,
        st.just(("report", FOLDER)): 1,
    }
)


class Hangs(BaseException):
    """No ``except Exception`` swallows it."""


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Return the content of every file below a folder but of a report; of a folder, ``None``."""
    paths = [path for path in sorted(folder.rglob("*")) if "report" not in path.relative_to(folder).parts]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def gradbench(*words: str) -> int:
    """Run the command line; hold it to a clear end, and return its exit status."""

    def hang(*_):
        raise Hangs(words)

    # as a terminal's streams: what cannot be encoded fails on the first, and is escaped on the second
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    before = signal.signal(signal.SIGPROF, hang)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            torch.device("meta"),
            pytest.raises(SystemExit) as stop,
        ):
            cli.main(list(words))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    out.flush()
    err.seek(0)
    said = err.read()
    status = int(stop.value.code)
    assert status in (0, 2), said
    assert "Traceback" not in said
    if status == 2:
        assert said.startswith("error: ")
        assert said.endswith("\n")
        assert said[:-1].isprintable(), ascii(said)  # one line, and nothing that a terminal would obey
    return status


def fuzzed(cases: int, *strategies):
    """Return a decorator: the property holds for so many draws."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    hold = settings(max_examples=cases, deadline=None, suppress_health_check=checks)
    return lambda test: hold(given(*strategies)(test))


def no_network(*_, **__):
    raise UsageError("there is no network in a test")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A working directory that holds results and a text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "Configs", lambda folder: Configs(folder) if folder else fuzz.CONFIGS)
    monkeypatch.setattr(corpora, "fetch", no_network)
    monkeypatch.setattr(corpora, "read_wikitext2", no_network)
    monkeypatch.setattr(images, "_torchvision_split", no_network)
    monkeypatch.setattr(corpora, "read_bible", lambda: "In the beginning. " * 500)
    (tmp_path / "text.txt").write_text("some words and some more words\n" * 99)
    fuzz.write_results(tmp_path / FOLDER, [cell.id for cell in sweep.make_plan(None, SMALL).cells])
    return tmp_path


@in_part_and_whole
def test_any_words_of_a_command_line_end_in_a_plan_or_in_one_line(home, share):
    before, ends = snapshot(home), Counter()

    @fuzzed(
        int(share * OVERRIDES), fuzz.words, st.sampled_from([*[()] * 20, ("--results", FOLDER), ("quick",)])
    )
    def check(words, further):
        ends[gradbench("run", "--dry-run", *further, *words)] += 1
        assert snapshot(home) == before

    check()
    assert ends.total() >= int(share * OVERRIDES)
    assert share < 0.25 or min(ends[0], ends[2]) > share * OVERRIDES / 100, (
        "words that are all wrong, or all right, try little"
    )


@in_part_and_whole
def test_an_experiment_of_any_content_ends_in_a_plan_or_in_one_line(home, share):
    before, ends = snapshot(home), Counter()

    @fuzzed(int(share * EXPERIMENTS), fuzz.experiments)
    def check(content):
        (home / "mine.yaml").write_bytes(content)
        ends[gradbench("run", "--dry-run", "mine.yaml")] += 1
        assert snapshot(home) == before | {"mine.yaml": content}

    check()
    assert ends.total() >= int(share * EXPERIMENTS)
    assert share < 0.25 or min(ends[0], ends[2]) > share * EXPERIMENTS / 100


WRONG_TAGS = [
    *(
        "!!set {a}",
        "!!set {grid}",
        "!!omap [grid: 1]",
        "!!map [grid]",
        "grid: !!map [seed]",
        "grid: {seed: !!set {0}}",
    ),
    *(
        "grid: !!bool maybe",
        "grid: {seed: !!int ''}",
        "grid: {seed: !!float ''}",
        "grid: {seed: !!timestamp x}",
    ),
]


@pytest.mark.parametrize("content", WRONG_TAGS)
def test_yaml_whose_tags_do_not_suit_its_values_is_refused_in_one_line(home, content):
    (home / "mine.yaml").write_text(content)
    assert gradbench("run", "--dry-run", "mine.yaml") == 2
    (home / FOLDER / "experiment.yaml").write_text(content)
    assert gradbench("report", FOLDER) in (0, 2)


@in_part_and_whole
def test_tables_of_any_content_are_read_or_refused_in_one_line(home, share):
    whole = {name: pq.read_table(home / FOLDER / name / "a.parquet") for name in ("cells", "curves")}
    changes = st.sampled_from(["cells", "cells", "curves"]).flatmap(
        lambda name: st.tuples(st.just(name), fuzz.tables(whole[name]))
    )
    parts = st.sampled_from(["a.parquet", "b.parquet"])  # in place of the part that is there, or beside it

    @fuzzed(int(share * TABLES), changes, parts, COMMANDS)
    def check(change, part, command):
        name, table = change
        content = io.BytesIO()
        try:
            pq.write_table(table, content)
        except pa.ArrowException:
            reject()  # no such file can be
        read(home, f"{name}/{part}", content.getvalue(), command)

    check()


@in_part_and_whole
def test_files_of_any_content_in_a_results_folder_are_read_or_refused_in_one_line(home, share):
    folder = home / FOLDER
    files = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    changes = st.sampled_from(sorted(files)).flatmap(
        lambda path: st.tuples(st.just(path.relative_to(folder)), fuzz.torn(files[path]))
    )

    @fuzzed(int(share * FILES), changes, COMMANDS)
    def check(change, command):
        read(home, *change, command)

    check()


ROW = {"cell": ["0" * 16], "status": ["completed"], "model": ["mlp"], "regularizer.family": ["none"]}
NOT_UTF8 = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\x8d"))


@pytest.mark.parametrize(
    ("name", "table", "command"),
    [
        ("curves/a.parquet", {"step": [1], "loss": [1.0]}, ("show", "{cell}")),
        ("curves/b.parquet", {"cell": ["a"], "step": [1], "loss": [2**62 + 1]}, ("show", "{cell}")),
        ("cells/a.parquet", {"cell": NOT_UTF8, "status": ["completed"]}, ("show", "")),
        (
            "cells/a.parquet",
            ROW | {"step_seconds": ["fast"]},
            ("run", "--dry-run", *SMALL, "--results", FOLDER),
        ),
    ],
    ids=["curves of no cell", "whole numbers beyond 2^53 among fractions", "no UTF-8", "seconds in words"],
)
def test_a_table_that_no_run_writes_is_read_or_refused_in_one_line(home, name, table, command):
    content = io.BytesIO()
    pq.write_table(pa.table(table), content)
    read(home, name, content.getvalue(), command)


def read(home: Path, name: str | Path, content: bytes, command: tuple[str, ...]) -> None:
    """Run a command over a results folder in which one file has been exchanged, and put it back."""
    path = home / FOLDER / name
    before = path.read_bytes() if path.exists() else None
    cell = next((home / FOLDER / "arrays").iterdir()).stem
    path.write_bytes(content)
    changed = snapshot(home)
    try:
        gradbench(*(word.format(cell=cell) for word in command))
        assert snapshot(home) == changed
    finally:
        path.unlink() if before is None else path.write_bytes(before)
        shutil.rmtree(home / FOLDER / "report", ignore_errors=True)

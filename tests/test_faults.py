"""Disks that are full or read-only, files that are damaged or too new, clocks that jump: nothing finished is lost."""

import contextlib
import errno
import multiprocessing
import os
import random
import shutil
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import CPU, cells

import gradbench.launchers.worker
from gradbench import FORMAT
from gradbench.api.progress import LineDisplay
from gradbench.atomic import set_aside
from gradbench.cli import main as cli
from gradbench.errors import DamagedError
from gradbench.launchers.forkserver import Worker
from gradbench.launchers.worker import receive, send, train_and_store
from gradbench.report import build
from gradbench.report.load.cells import load_results
from gradbench.report.render import contents
from gradbench.storage.grids import commands_of, read_experiment
from gradbench.storage.parquet import check_arrays, read_arrays, read_table, write_arrays, write_table
from gradbench.storage.repair import find_damage
from gradbench.storage.results import Results, curve_rows, describe
from gradbench.sweep import plan as sweep
from gradbench.sweep.execute import prepare_folder
from gradbench.training.checkpoint import Checkpoint

WORDS = ["model=mlp", "model.hidden=4", "steps=2", "regularizer=none,gp", "seed=0,1"]
TIMING = {"step_seconds", "seconds", "started", "finished"}


def gradbench_run(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", *words])
    return int(stopped.value.code)


# ---- disks -----------------------------------------------------------------------------------------------------


class Mounted:
    """A file system of one megabyte in memory: what the kernel says, it says to root too."""

    def __init__(self, folder):
        self.folder, self.ballast, self.covered = folder, folder / ".ballast", False
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True, capture_output=True
        )

    def fill(self):
        with contextlib.suppress(OSError), self.ballast.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    def protect(self):
        """Lay a view of it over it that cannot be written: also while files in it are open."""
        for words in (["--bind", self.folder], ["-o", "remount,bind,ro"]):
            subprocess.run(["mount", *words, self.folder], check=True)
        self.covered = True

    def heal(self):
        if self.covered:
            subprocess.run(["umount", self.folder], check=True)
        self.covered = False
        self.ballast.unlink(missing_ok=True)

    def close(self):
        self.heal()
        subprocess.run(["umount", "-l", self.folder], check=True)


class Simulated:
    """An ordinary folder of which no file can be made durable."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.monkeypatch, self.fsync = folder, monkeypatch, os.fsync

    def fail(self, number):
        def failing(_descriptor):
            raise OSError(number, os.strerror(number))

        self.monkeypatch.setattr(os, "fsync", failing)

    def fill(self):
        self.fail(errno.ENOSPC)

    def protect(self):
        self.fail(errno.EROFS)

    def heal(self):
        self.monkeypatch.setattr(os, "fsync", self.fsync)

    def close(self):
        self.heal()


# the simulated disk is had by every user; a mounted one tries the same in the slow suite
@pytest.fixture(params=[pytest.param(Mounted, marks=pytest.mark.slow), Simulated])
def disk(request, tmp_path, monkeypatch):
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param is Mounted:
        try:
            made = Mounted(folder)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"this user may not mount: {error} (the simulated disk is tested all the same)")
    else:
        made = Simulated(folder, monkeypatch)
    yield made
    made.close()


FAULTS = {"fill": "No space left on device", "protect": "Read-only file system"}


# ---- a stack on a disk that fails ------------------------------------------------------------------------------


class Parent:
    """The other end of a worker's pipe; ``on`` is called with each step that a stack has reached."""

    def __init__(self, on=lambda _step: None):
        self.on, self.said = on, []

    def poll(self):
        return False

    def send(self, message):
        if message[0] == "progress":
            self.on(message[1])
        else:
            self.said.append(message[1])


def small(seed, **values):
    sizes = {"steps": 30, "eval_every": 5, "precision": "float32", "model__hidden": 4}
    return cells("mlp", "none", seed=seed, **(sizes | values))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The tables of the stacks of seeds 0, 1 and of 2, 3, as nothing disturbed them."""
    results = Results(tmp_path_factory.mktemp("undisturbed") / "x")
    results.create({})
    for seeds in ([0, 1], [2, 3]):
        assert train_and_store(small(seeds), results.folder, CPU, Parent())[0] == "done"
    return results


def assert_same_tables(one, other):
    for read, keys in ((Results.cells, ["cell"]), (Results.curves, ["cell", "step"])):
        mine, theirs = (read(results).sort_values(keys, ignore_index=True) for results in (one, other))
        kept = [column for column in mine if column not in TIMING]
        pd.testing.assert_frame_equal(mine[kept], theirs[kept])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_that_fails_while_a_stack_is_written_costs_nothing_that_was_finished(disk, fault, undisturbed):
    results = Results(disk.folder / "x")
    results.create({})
    train_and_store(small([0, 1]), results.folder, CPU, Parent())
    before = results.statuses()
    stack = small([2, 3])
    breaks = Parent(lambda step: step == 30 and getattr(disk, fault)())
    what, reason = train_and_store(stack, results.folder, CPU, breaks)
    assert what == "no room"
    assert FAULTS[fault] in reason
    assert "type the same command again" in reason
    assert len(reason.splitlines()) == 1
    assert results.statuses() == before
    assert find_damage(results.folder) == []
    disk.heal()
    assert train_and_store(stack, results.folder, CPU, Parent())[0] == "done"
    assert_same_tables(results, undisturbed)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_checkpoint_that_cannot_be_written_ends_no_training_and_is_told_once(disk, fault, undisturbed):
    results = Results(disk.folder / "x")
    results.create({})
    train_and_store(small([2, 3]), results.folder, CPU, Parent())
    parent = Parent(lambda step: {10: getattr(disk, fault), 30: disk.heal}.get(step, int)())
    what, *_ = train_and_store(small([0, 1], checkpoint_seconds=0.0), results.folder, CPU, parent)
    assert what == "done"
    (line,) = parent.said
    assert FAULTS[fault] in line
    assert "Training goes on" in line
    assert_same_tables(results, undisturbed)


class InThreads:
    """Starts workers that share this process, so that both see the same disk."""

    def start(self, folder, device):
        ours, theirs = multiprocessing.Pipe()

        def work():
            while (stack := receive(theirs)) is not None:
                send(theirs, *train_and_store(stack, folder, torch.device(device), theirs))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return Worker(thread, ours, device)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_sweep_whose_disk_fails_stops_in_one_line_and_goes_on_later(disk, fault, monkeypatch, capsys):
    monkeypatch.setattr("gradbench.launchers.local.WorkerStarter", InThreads)
    finished = LineDisplay.finished

    def break_then(lines, *told):
        finished(lines, *told)
        getattr(disk, fault)()

    words = [*WORDS, "--results", str(disk.folder / "x"), "--no-report", "--no-cost", "--jobs", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(LineDisplay, "finished", break_then)
        assert gradbench_run(*words) == 1
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if not line.startswith("[1/2]")]
    assert line.startswith("failed mlp")
    assert FAULTS[fault] in line
    assert "4 cells: 2 completed, 2 failed" in out
    disk.heal()
    assert gradbench_run(*words) == 0
    assert "4 cells: 2 completed, 2 finished before" in capsys.readouterr().out


def test_where_nothing_can_be_written_nothing_starts_and_the_status_is_2(disk, capsys):
    disk.fill()
    assert gradbench_run("model=mlp", "steps=4", "--results", str(disk.folder / "x")) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: cannot write")
    assert "choose another folder with --results DIR" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_a_report_that_cannot_be_written_is_one_line_and_leaves_the_old_one(disk, fault, capsys):
    synthetic.write(disk.folder / "x", models=["mlp"], strengths={"none": (), "clip_norm": (1.0,)}, steps=5)
    before = build(disk.folder / "x").page.read_bytes()
    synthetic.write(disk.folder / "x", models=["mlp"], strengths={"none": (), "gp": (1.0,)}, steps=5)
    getattr(disk, fault)()
    with pytest.raises(SystemExit) as stopped:
        cli.main(["report", str(disk.folder / "x")])
    assert stopped.value.code == 1
    err = capsys.readouterr().err
    assert FAULTS[fault] in err
    assert len(err.splitlines()) == 1
    disk.heal()
    written = disk.folder / "x/report/index.html"
    assert written.read_bytes() == before
    assert build(disk.folder / "x").page.read_bytes() != before
    assert not list(disk.folder.rglob("*.tmp"))


# ---- damaged files ---------------------------------------------------------------------------------------------


def flipped(content, byte, bit=0):
    changed = bytearray(content)
    changed[byte] ^= 1 << bit
    return bytes(changed)


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    path = tmp_path_factory.mktemp("part") / "x.parquet"
    table = pa.table({"cell": ["a", "b"], "loss": [0.5, 1.5], "step": [1, 2]})
    write_table(path, table)
    return path, path.read_bytes(), table


def test_a_sealed_part_is_parquet_to_everybody_else(part):
    path, _, table = part
    assert pq.read_table(path).equals(table)
    pd.testing.assert_frame_equal(pd.read_parquet(path), table.to_pandas())
    assert read_table(path).equals(table)


def test_no_flipped_bit_of_a_part_is_taken_for_a_result(part):
    """Anywhere: data, page headers, footer. Only in the name of the seal can one be missed, and it changes no value."""
    path, content, table = part
    missed = 0
    for byte in range(len(content)):
        path.write_bytes(flipped(content, byte, byte % 8))
        try:
            missed += 1
            assert read_table(path).equals(table), f"byte {byte} was taken for a result"
        except DamagedError:
            missed -= 1
    path.write_bytes(content)
    assert missed <= len(b"gradbench.sha256") + 2


@given(st.data())
def test_a_truncated_part_is_never_read(part, data):
    path, content, _ = part
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(DamagedError, match=r"x\.parquet is damaged \(.*type the command that made it again"):
        read_table(path)
    path.write_bytes(content)


def test_no_flipped_bit_of_an_array_is_taken_for_a_result(tmp_path):
    path, arrays = tmp_path / "x.npz", {"a": np.arange(6.0), "b/c": np.ones((2, 2), np.int64)}
    write_arrays(path, arrays)
    content = path.read_bytes()
    for byte in range(len(content)):
        path.write_bytes(flipped(content, byte, byte % 8))
        with contextlib.suppress(DamagedError):
            found = read_arrays(path)
            for name in arrays.keys() & found.keys():
                np.testing.assert_array_equal(found[name], arrays[name], err_msg=f"byte {byte}")
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        for check in (read_arrays, check_arrays):
            with pytest.raises(DamagedError):
                check(path)


def test_no_flipped_bit_of_a_checkpoint_is_gone_on_from(tmp_path):
    path = tmp_path / "x.pt"
    checkpoint = Checkpoint(path, {"cells": ["a"]}, 0.0)
    checkpoint.save({"a": torch.arange(5)})
    content = path.read_bytes()
    for byte in range(len(content)):
        path.write_bytes(flipped(content, byte, byte % 8))
        assert checkpoint.load(CPU) is None, f"byte {byte}"
        kept = path if path.exists() else tmp_path / "_x.pt.damaged-1"
        kept.unlink()


def test_a_damaged_checkpoint_is_told_of_and_its_stack_starts_anew(tmp_path, undisturbed):
    results = Results(tmp_path / "x")
    results.create({})
    stack = small([0, 1], checkpoint_seconds=0.0)
    dies = Parent(lambda step: step == 20 and 1 / 0)
    assert train_and_store(stack, results.folder, CPU, dies)[0] == "failed"
    (path,) = (results.folder / "checkpoints").glob("*.pt")
    content = flipped(path.read_bytes(), -40)
    path.write_bytes(content)
    parent = Parent()
    assert train_and_store(stack, results.folder, CPU, parent)[0] == "done"
    (line,) = parent.said
    assert "is damaged" in line
    assert f"kept as _{path.name}.damaged-1" in line
    assert path.with_name(f"_{path.name}.damaged-1").read_bytes() == content
    train_and_store(small([2, 3]), results.folder, CPU, Parent())
    assert_same_tables(results, undisturbed)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_finished_sweep_on_a_disk_that_takes_nothing_still_prints_its_answer(disk, fault, capsys):
    words = [*WORDS, "--results", str(disk.folder / "x")]
    assert gradbench_run(*words) == 0
    answer = capsys.readouterr().out.split("Answer")[1]
    getattr(disk, fault)()
    for again in (words, [*words[:-3], "seed=0", *words[-2:]]):
        assert gradbench_run(*again) == 0
        out, err = capsys.readouterr()
        assert out.split("Answer")[1] == answer
        assert "finished before" in out
        (line,) = [line for line in err.splitlines() if "grid" not in line]
        assert line.startswith("the report is not written anew: cannot write")
        assert FAULTS[fault] in line


# ---- a folder with a damaged file ------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A plan whose two stacks are all done, by rows that nobody trained."""
    monkeypatch.chdir(tmp_path)
    plan = sweep.make_plan(None, WORDS, tmp_path / "x")
    results = Results(plan.folder)
    results.create({"command": "gradbench run"})
    for stack in plan.stacks:
        rows = [describe(cell) | {"status": "completed", "test/loss": 1.0} for cell in stack.cells]
        curves = [curve_rows(cell.id, {"loss": np.ones((2, 1))}, {}, 0, 2, 1) for cell in stack.cells]
        results.write(rows, pd.concat(curves), {cell.id: {"a": np.arange(50)} for cell in stack.cells})
    return results


def again():
    return sweep.make_plan(None, WORDS, Path("x"))


@pytest.mark.parametrize("table", ["cells", "curves", "arrays"])
@pytest.mark.parametrize("damage", [lambda c: flipped(c, len(c) // 2), lambda c: c[:-9], lambda _: b""])
def test_a_run_sets_a_damaged_file_aside_and_trains_its_cells_again(finished, table, damage):
    victim = sorted((finished.folder / table).iterdir())[0]
    content = damage(victim.read_bytes())
    victim.write_bytes(content)
    plan, lines = prepare_folder(again())
    (line,) = lines
    kept = victim.with_name(f"_{victim.name}.damaged-1")
    assert line.startswith(str(victim.relative_to(Path.cwd())))
    assert f"kept as {kept.name}" in line
    assert kept.read_bytes() == content
    assert not victim.exists()
    (stack,) = plan.todo()
    lost = 1 if table == "arrays" else 2
    assert len(stack) == lost
    assert len(pd.read_parquet(finished.folder / "cells")) == 4 - lost, "sound cells stay"
    assert prepare_folder(again())[1] == []


def test_a_dry_run_touches_nothing_that_is_damaged(finished, capsys):
    victim = sorted((finished.folder / "cells").iterdir())[0]
    victim.write_bytes(b"torn")
    assert gradbench_run(*WORDS, "--results", "x", "--dry-run") == 0
    assert "2 cells done, 2 to run" in capsys.readouterr().out
    assert victim.read_bytes() == b"torn"


OTHER_WORDS = ["model=mlp", "model.hidden=4", "steps=2", "regularizer=gp", "seed=0"]


def test_a_run_of_another_grid_leaves_damaged_cells_to_the_command_that_made_them(finished, capsys):
    plan, command = again(), f"gradbench run {' '.join(WORDS)} --results x"
    (finished.folder / "experiment.yaml").unlink()
    finished.create({"command": command, "cells": [cell.id for cell in plan.cells]})
    victim = next(
        finished.folder / f"arrays/{cell.id}.npz"
        for cell in plan.cells
        if cell.choices["regularizer"] == "none"
    )
    victim.write_bytes(flipped(victim.read_bytes(), len(victim.read_bytes()) // 2))
    before = finished.statuses()
    assert gradbench_run(*OTHER_WORDS, "--results", "x", "--no-report") == 0
    out, err = capsys.readouterr()
    assert "1 cell: 1 finished before" in out
    (line,) = [line for line in err.splitlines() if "is damaged" in line]
    assert "trained again" not in line
    assert line.endswith(f"to train them again type {command}")
    assert finished.statuses() == before
    assert read_experiment(finished.folder)["command"] == command
    assert commands_of(read_experiment(finished.folder)) == [command]
    capsys.readouterr()
    assert gradbench_run(*WORDS, "--results", "x", "--no-report") == 0
    out, err = capsys.readouterr()
    assert "4 cells: 1 completed, 3 finished before" in out
    assert "its cell is trained again" in err
    assert finished.statuses() == before
    assert find_damage(finished.folder) == []


def test_the_report_names_every_command_that_made_a_folder(finished):
    made = [f"gradbench run {word}" for word in ("one", "two")]
    for command, cell in zip(made, "ab", strict=True):
        finished.create({"command": command, "cells": [cell * 16]})
    assert load_results(finished.folder).commands == (*made[::-1], "gradbench run")
    page = build(finished.folder).page
    for command in made:
        assert f"<code>{command}</code>" in page.read_text()
        assert f"`{command}`" in page.with_name("report.md").read_text()


def test_a_report_names_arrays_that_are_gone(finished):
    victim = sorted((finished.folder / "arrays").iterdir())[0]
    victim.unlink()
    assert any(f"{victim} is damaged (it is missing)" in note for note in load_results(finished.folder).notes)


# ---- files that cannot be read ---------------------------------------------------------------------------------


@pytest.fixture
def unreadable(monkeypatch):
    """Return a function after which a file or a folder cannot be read: what the kernel would not tell root."""

    def forbid(path, number=errno.EACCES):
        def refusing(real):
            def read(given, *more, **named):
                if Path(given) == path:
                    raise OSError(number, os.strerror(number), str(path))
                return real(given, *more, **named)

            return read

        monkeypatch.setattr(os, "open", refusing(os.open))
        monkeypatch.setattr(os, "listdir", refusing(os.listdir))

    return forbid


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
@pytest.mark.parametrize(
    "what", ["cells", "curves", "arrays", "cells/", "curves/", "arrays/", "experiment.yaml"]
)
def test_what_cannot_be_read_is_not_damaged_and_stops_a_run_in_one_line(
    finished, unreadable, what, number, capsys
):
    before = [path for path in finished.folder.rglob("*") if path.is_file()]
    victim = Path("x") / what
    if what in ("cells", "curves", "arrays"):
        victim = sorted(victim.iterdir())[0]
    unreadable(victim, number)
    for words in (["run", *WORDS, "--results", "x"], ["report", "x"], ["show", "0", "--results", "x"]):
        if (what, words[0]) == ("experiment.yaml", "show"):
            continue  # which does not read it
        with pytest.raises(SystemExit) as stopped:
            cli.main(words)
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: cannot read {victim} ({os.strerror(number)})")
    assert all(path.is_file() for path in before), "nothing was renamed"


@pytest.mark.parametrize("what", ["cells", "cells/", "experiment.yaml"])
def test_a_shortage_while_reading_is_told_as_such(finished, unreadable, what, capsys):
    victim = Path("x") / what
    unreadable(sorted(victim.iterdir())[0] if what == "cells" else victim, errno.EMFILE)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["report", "x"])
    assert stopped.value.code == 1
    assert "ulimit -n" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_read_is_left_and_its_stack_starts_anew(tmp_path, unreadable):
    checkpoint = Checkpoint(tmp_path / "x.pt", {"cells": ["a"]}, 0.0, warn=(said := []).append)
    checkpoint.save({"a": torch.arange(5)})
    unreadable(tmp_path / "x.pt")
    assert checkpoint.load(CPU) is None
    assert said == [
        f"the checkpoint {tmp_path / 'x.pt'} cannot be read (Permission denied): its stack starts anew"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


# ---- what a person did to a folder -----------------------------------------------------------------------------


def test_a_part_that_was_copied_by_hand_doubles_nothing(finished):
    tables = {}
    for copied in (False, True):
        if copied:
            for table in ("cells", "curves"):
                part = sorted((finished.folder / table).iterdir())[0]
                shutil.copyfile(part, part.with_name("zz-copy.parquet"))
        folder = build(finished.folder).page.parent / "tables"
        tables[copied] = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert len(finished.cells()) == 4
        assert not finished.curves().duplicated(["cell", "step"]).any()
    assert tables[True] == tables[False]


def test_show_and_report_name_a_damaged_part_and_go_on(finished, capsys, monkeypatch):
    parts = sorted((finished.folder / "cells").iterdir())
    ids = [pq.read_table(part)["cell"][0].as_py() for part in parts]
    parts[0].write_bytes(b"torn")
    monkeypatch.setenv("COLUMNS", "300")
    for cell, status in ((ids[1], 0), (ids[0], 2)):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["show", cell, "--results", "x"])
        assert stopped.value.code == status
        said = "".join(capsys.readouterr())
        assert parts[0].name in said
    results = load_results(finished.folder)
    assert len(results.cells) == 2
    assert any(f"{parts[0]} is damaged" in note for note in results.notes)


def test_set_aside_files_pile_up_and_replace_nothing(tmp_path):
    for content in ("one", "two"):
        (tmp_path / "x").write_text(content)
        set_aside(tmp_path / "x")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "_x.damaged-1": "one",
        "_x.damaged-2": "two",
    }


# ---- a newer format --------------------------------------------------------------------------------------------


def test_a_part_of_a_newer_format_is_refused_everywhere_and_left_alone(finished, capsys):
    part = sorted((finished.folder / "cells").iterdir())[0]
    table = pd.read_parquet(part).assign(format=FORMAT + 1, cell="0123456789abcdef")
    newer = part.with_name("newer.parquet")
    table.to_parquet(newer)
    content = newer.read_bytes()
    for words in (["run", *WORDS, "--results", "x"], ["report", "x"], ["show", "0123", "--results", "x"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(words)
        assert stopped.value.code == 2
        err = capsys.readouterr().err
        assert f"newer.parquet is of results format {FORMAT + 1}" in err
        assert "pip install -U gradbench" in err
        assert len(err.splitlines()) == 1
    assert newer.read_bytes() == content


# ---- an older format -------------------------------------------------------------------------------------------


@pytest.fixture
def older(finished):
    """A folder as format 1 left it."""
    for path in (finished.folder / "cells").iterdir():
        pd.read_parquet(path).assign(format=1, gradbench="0.0.9").to_parquet(path)
    return finished


@pytest.mark.parametrize("options", [["--dry-run"], ["--no-report"], ["seed=7"]])
def test_a_run_into_a_folder_of_an_older_format_says_what_to_do_and_trains_nothing(older, capsys, options):
    before = {path: path.read_bytes() for path in older.folder.rglob("*") if path.is_file()}
    words = [word for word in WORDS if options != ["seed=7"] or not word.startswith("seed")]
    assert gradbench_run(*words, "--results", "x", *options) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "x holds cells of results format 1, made by gradbench 0.0.9" in said
    assert f"ids differ since format {FORMAT}" in said
    assert "--results DIR" in said
    assert "gradbench report x still reads it" in said
    assert {path: path.read_bytes() for path in older.folder.rglob("*") if path.is_file()} == before


def test_a_folder_that_is_partly_of_an_older_format_is_refused_as_well(older, capsys):
    (older.folder / "cells/newer.parquet").write_bytes(b"")
    table = older.cells().head(1).assign(format=FORMAT, cell="0123456789abcdef")
    table.to_parquet(older.folder / "cells/newer.parquet")
    assert gradbench_run(*WORDS, "--results", "x") == 2
    assert "results format 1" in capsys.readouterr().err


def test_what_an_older_format_holds_is_still_reported_shown_and_compared(older, tmp_path, capsys):
    assert load_results(older.folder).cells["format"].unique().tolist() == [1]
    assert build(older.folder).page.is_file()
    cell = older.cells()["cell"].iloc[0]
    assert gradbench_run(*WORDS, "--results", "y", "--no-report", "--quiet") == 0
    for words in (["show", cell, "--results", "x"], ["claims", "x"], ["report", "x"], ["report", "x", "y"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(words)
        assert stopped.value.code == 0, (words, capsys.readouterr().err)


# ---- clocks ----------------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_changes_neither_what_is_saved_nor_what_is_done(
    tmp_path, monkeypatch, undisturbed
):
    """The wall clock goes back a century between a stack's start and its end, and files come from the future."""
    years = iter(["2126", "2026", "2026"] * 2)
    for module in (gradbench.launchers.worker, gradbench.launchers.rows):
        monkeypatch.setattr(module, "now", lambda: f"{next(years)}-11-22T08:00:00+00:00")
    monkeypatch.setattr(time, "time", lambda: random.Random(0).uniform(0, 1e10))
    results = Results(tmp_path / "x")
    results.create({})
    for seeds in ([0, 1], [2, 3]):
        train_and_store(small(seeds), results.folder, CPU, Parent())
    for path in (results.folder / "cells").iterdir():
        os.utime(path, (4e9, 4e9))
    assert_same_tables(results, undisturbed)
    assert find_damage(results.folder) == []
    assert (results.cells()["started"] > results.cells()["finished"]).any()
    assert "0 s" in contents.format_subtitle(load_results(results.folder))


def test_a_checkpoint_is_due_by_a_clock_that_cannot_jump(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path / "x.pt", {}, seconds=1000)
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert not checkpoint.due()

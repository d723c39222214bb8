"""Two runs may share a results folder: no cell is trained by both, and what a dead one left is nobody's."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from gradbench.cli import main as cli
from gradbench.config.hashing import digest
from gradbench.storage.locks import PRESENCE, FinishedCells, Reservations
from gradbench.storage.results import Results

ONE, TWO, THREE = (SimpleNamespace(id=digest(number)) for number in range(3))

RESERVE = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from gradbench.storage.locks import Reservations
with Reservations(Path(sys.argv[1])) as reservations:
    print(reservations.acquire([SimpleNamespace(id=cell) for cell in sys.argv[2:]]), flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """Another process, which reserves two cells and lives until the test is over."""
    process = subprocess.Popen(
        [sys.executable, "-c", RESERVE, tmp_path, ONE.id, TWO.id], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "True\n"
    yield process
    process.kill()
    process.communicate()


def test_a_stack_is_reserved_whole_or_not_at_all_and_a_dead_process_reserves_nothing(tmp_path, other):
    with Reservations(tmp_path) as reservations:
        assert reservations.acquire([THREE])
        assert not reservations.acquire([ONE])
        assert not reservations.acquire([THREE, TWO]), "one of them is the other's"
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert reservations.acquire([ONE, TWO])


def test_on_a_file_system_without_locks_everything_is_granted(tmp_path, monkeypatch):
    def lockf(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with Reservations(tmp_path) as reservations, reservations.exclusive():
        assert reservations.acquire([ONE, TWO])


def test_what_others_finish_is_seen_and_failures_are_not(tmp_path):
    results, finished = Results(tmp_path), FinishedCells(tmp_path)
    results.create({})
    assert finished.statuses() == {}
    rows = [{"cell": ONE.id, "status": "completed"}, {"cell": TWO.id, "status": "diverged"}]
    results.write(rows, pd.DataFrame({"cell": [], "step": []}), {})
    results.write_failures([{"cell": THREE.id, "status": "failed"}])
    assert finished.statuses() == {ONE.id: "completed", TWO.id: "diverged"}


def test_runs_at_once_on_one_folder_train_every_cell_once_to_the_values_of_a_lone_run(tmp_path):
    """Of grids that overlap, so that their stacks are not the same."""
    small = ["model=mlp", "model.hidden=4", "model.depth=1", "steps=300", "stack_width.cpu=2"]
    options = ["--no-report", "--jobs", "1", "--results"]
    command = [sys.executable, "-m", "gradbench", "run", *small, *options, tmp_path / "shared"]
    runs = [
        subprocess.Popen([*command, seeds], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for seeds in ("seed=range(0,7)", "seed=range(4,11)")
    ]
    said = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", *small, "seed=range(0,11)", *options, str(tmp_path / "lone")])
    assert not stopped.value.code
    for table, by in (("cells", ["cell"]), ("curves", ["cell", "step"])):
        shared, lone = (pd.read_parquet(tmp_path / place / table) for place in ("shared", "lone"))
        assert not shared.duplicated(by).any(), table
        assert len(shared) == len(lone)
        numbers = [name for name in lone.select_dtypes("number") if not name.endswith(("seconds", "width"))]
        shared, lone = (frame.sort_values(by, ignore_index=True) for frame in (shared, lone))
        columns = list(dict.fromkeys([*by, *numbers]))
        pd.testing.assert_frame_equal(shared[columns], lone[columns], rtol=1e-4, atol=1e-6)
    assert not list((tmp_path / "shared/checkpoints").glob("*"))


# ---- folders of several users ----------------------------------------------------------------------------------

NOBODY = 65534

OPEN = """
import os, sys
from pathlib import Path
from gradbench.errors import UsageError
from gradbench.storage.locks import Reservations
from gradbench.storage.results import Results
user, folder = int(sys.argv[1]), Path(sys.argv[2])
os.setgroups([])
os.setgid(user)
os.setuid(user)
os.umask(0o022)
try:
    if sys.argv[3:]:
        Results(folder).create({"command": "gradbench run"})
    with Reservations(folder) as reservations, reservations.exclusive():
        print("open")
except UsageError as error:
    print(error)
"""


@pytest.fixture
def shared():
    """A folder of this user's, who is root, that everybody may write to; nobody else could reach ``tmp_path``."""
    if os.getuid():
        pytest.skip("only root may become another user")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


def opened_by(user, folder, *words):
    """Open a folder as another user, with a strict umask; return what is printed."""
    command = [sys.executable, "-c", OPEN, str(user), folder, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_whoever_may_write_to_a_folder_may_use_it_whatever_the_umask_of_who_made_it(shared):
    for user in (0, NOBODY):
        assert opened_by(user, shared, "create") == "open"
    for name in ("cells", "curves", "arrays"):
        assert (shared / name).stat().st_mode & 0o777 == 0o777
    assert (shared / ".reservations").stat().st_mode & 0o777 == 0o666


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_a_folder_is_as_private_as_it_was_made(shared, mode):
    shared.chmod(mode)
    assert opened_by(0, shared, "create") == "open"
    assert (shared / ".reservations").stat().st_mode & 0o777 == mode & 0o666
    assert (shared / "cells").stat().st_mode & 0o777 == mode
    assert "Permission denied" in opened_by(NOBODY, shared)


def test_reservations_that_another_user_made_for_themselves_are_replaced_unless_they_are_used(shared):
    path = shared / ".reservations"
    path.write_bytes(b"")
    path.chmod(0o644)
    with path.open("rb+") as file:
        fcntl.lockf(file, fcntl.LOCK_SH, 1, PRESENCE)
        assert "Permission denied" in opened_by(NOBODY, shared)
    assert path.stat().st_uid == 0
    assert opened_by(NOBODY, shared) == "open"
    assert path.stat().st_uid == NOBODY


def test_where_permissions_make_sharing_impossible_one_line_says_so(shared):
    path = shared / ".reservations"
    path.write_bytes(b"")
    path.chmod(0o644)
    shared.chmod(0o1777)
    said = opened_by(NOBODY, shared)
    assert said.startswith(f"cannot open {path} (Permission denied); ask its owner for permission")
    assert said.count("\n") == 0
    path.unlink()
    (shared / "cells").mkdir(mode=0o755)
    said = opened_by(NOBODY, shared, "create")
    assert said.startswith(f"cannot write to {shared / 'cells'}")
    assert said.count("\n") == 0

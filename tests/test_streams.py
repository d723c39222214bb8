"""Output that fails costs the output alone: the command does its work, says so in one line, and raises nothing."""

import fcntl
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pandas as pd
import pytest

RUN = (
    "run", "model=mlp", "model.hidden=4", "model.depth=1", "steps=4", "seed=0,1", "--jobs", "1", "--results", "x",
)  # fmt: skip
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
LOST = re.compile(r"cannot write to (stdout|stderr) \(.+\): what was printed there is lost")


def shell(home: Path, line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line in which ``gradbench`` is the command."""
    program = f'gradbench() {{ "{sys.executable}" -m gradbench "$@"; }}; set -o pipefail; {line}'
    return subprocess.run(
        ["bash", "-c", program], cwd=home, env=os.environ | environment, capture_output=True, text=True, check=False
    )  # fmt: skip


def trained(home: Path) -> bool:
    """Return whether all cells are in the table, and the report is written."""
    cells = pd.read_parquet(home / "x/cells")
    return cells["status"].tolist() == ["completed"] * 2 and (home / "x/report/index.html").is_file()


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("> /dev/full", marks=FULL),
        pytest.param("2> /dev/full", marks=FULL),
        pytest.param("> /dev/full 2>&1", marks=[FULL, pytest.mark.slow]),
        pytest.param(">&-", marks=pytest.mark.slow),
        pytest.param("2>&-", marks=pytest.mark.slow),
        pytest.param("<&- >&- 2>&-", marks=pytest.mark.slow),
        pytest.param("2>&1 | true", marks=pytest.mark.slow),
    ],
)
def test_a_run_whose_output_fails_trains_and_says_so_where_it_can(where, tmp_path):
    done = shell(tmp_path, f"gradbench {' '.join(RUN)} {where}")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert trained(tmp_path)
    assert "Traceback" not in said
    assert "Exception" not in said
    both = where.count(">") > 1 or "|" in where
    assert len(LOST.findall(said)) == (0 if both else 1)


@pytest.mark.parametrize(
    ("line", "status", "lines"),
    [
        ("gradbench --help | true", 141, 0),
        ("gradbench info models | true", 141, 0),
        ("gradbench --help >&-", 1, 1),
        pytest.param("gradbench --help > /dev/full", 1, 1, marks=FULL),
        pytest.param("gradbench show nothing 2> /dev/full", 2, 1, marks=FULL),
        ("gradbench show nothing 2>&-", 2, 1),
    ],
)
def test_what_only_prints_ends_with_a_conventional_status_and_no_traceback(line, status, lines, tmp_path):
    # a reader that has gone before anything is written
    done = shell(tmp_path, line, PYTHONUNBUFFERED="1")
    assert done.returncode == status, done.stderr
    assert len((done.stdout + done.stderr).splitlines()) == lines


@pytest.mark.parametrize("words", [("info", "model"), pytest.param(RUN, marks=pytest.mark.slow)])
def test_characters_that_a_terminal_cannot_show_are_replaced(words, tmp_path):
    poor = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = shell(tmp_path, f"gradbench {' '.join(words)}", **poor)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).isascii()


def test_a_run_goes_on_when_its_terminal_is_closed(tmp_path):
    """The terminal hangs up at the first thing that is shown: SIGHUP for the run, EIO for what it writes."""
    ours, theirs = pty.openpty()
    run = subprocess.Popen(
        [sys.executable, "-m", "gradbench", *RUN],
        cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    assert os.read(ours, 1)
    os.close(ours)
    assert run.wait() == 0
    assert trained(tmp_path)

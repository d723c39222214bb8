"""Little memory, few processes, few file descriptors: one line and status 1, or fewer workers; never a traceback."""

import errno
import subprocess
import sys

import pandas as pd
import pytest

from gradbench.cli import main as cli
from gradbench.errors import ShortageError, shortage
from gradbench.launchers import forkserver

RUN = [
    "run", "model=mlp", "model.hidden=4", "model.depth=1", "steps=4,5,6",
    "--no-report", "--jobs", "2", "--results", "x",
]  # fmt: skip


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("-v 1000000", "memory is limited to 976 MiB"),
        ("-n 8", "ulimit -n"),
        pytest.param("-n 10", "Too many open files", marks=pytest.mark.slow),
    ],
)
def test_under_a_limit_a_run_ends_with_one_line_and_status_1(limit, said, tmp_path):
    line = f'ulimit {limit}; exec "{sys.executable}" -m gradbench {" ".join(RUN)}'
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("room", [0, 1])
def test_a_run_goes_on_with_the_workers_that_could_be_started(room, tmp_path, monkeypatch, capsys):
    """As root, who has no limit of processes, the system must be imitated."""
    start, started = forkserver.start_process, []

    def start_some(context, function, *args):
        if function is forkserver.run_worker:
            if len(started) == room:
                raise ShortageError("no room")
            started.append(args)
        return start(context, function, *args)

    monkeypatch.setattr(forkserver, "start_process", start_some)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(RUN)
    err = capsys.readouterr().err
    assert ended.value.code == (0 if room else 1), err
    assert err.count("no room") == 1
    if room:
        assert pd.read_parquet(tmp_path / "x/cells")["status"].tolist() == ["completed"] * 3


@pytest.mark.parametrize(
    "error", [EOFError(), BrokenPipeError(errno.EPIPE, ""), OSError(errno.EAGAIN, "busy")]
)
def test_a_process_that_cannot_be_forked_is_a_shortage_and_no_interrupt(error, monkeypatch):
    """Typer takes an EOFError for Ctrl-C, and ends a command in silence at a broken pipe."""

    class Context:
        Pipe = forkserver.multiprocessing.Pipe

        def Process(self, **_):  # noqa: N802 - as multiprocessing names it
            raise error

    with pytest.raises(ShortageError, match="ulimit"):
        forkserver.start_process(Context(), print)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "ulimit -v"),
        (OSError(errno.ENOMEM, ""), "ulimit -v"),
        (ImportError("libx.so: failed to map segment from shared object"), "ulimit -v"),
        (OSError(errno.EMFILE, ""), "ulimit -n"),
        (BlockingIOError(errno.EAGAIN, ""), "ulimit -u"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (RuntimeError("a fault of ours"), None),
        (ImportError("no module named x"), None),
        (FileNotFoundError(errno.ENOENT, ""), None),
    ],
)
def test_a_shortage_is_told_from_a_fault(error, said):
    assert shortage(error) is None if said is None else said in shortage(error)

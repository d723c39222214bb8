"""Workers are stopped, run out of memory or fail: what runs is saved, what does not fit is split, the rest goes on."""

import contextlib
import dataclasses
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from gradbench.api.progress import QuietDisplay
from gradbench.cli import main as cli
from gradbench.config.instantiate import load_once
from gradbench.launchers import Ending, forkserver, local
from gradbench.launchers.forkserver import PRELOADED, describe_exit
from gradbench.signals import Interruption
from gradbench.sweep.execute import execute
from gradbench.sweep.plan import make_plan
from gradbench.training.checkpoint import Checkpoint, StoppedError

OWN = """
from pathlib import Path
import torch
from gradbench.regularizers import Regularizer

HERE = Path(__file__).parent


def faulty(error):
    def transform(gradient, strength, state, *_):
        path = HERE / error
        if path.exists() and (times := int(path.read_text())):
            path.write_text(str(times - 1))
            raise {"memory": torch.OutOfMemoryError, "bug": ZeroDivisionError}[error]("too bad")
        return gradient, state

    return Regularizer(transform=transform)
"""

MLP = ["model=mlp", "model.hidden=4", "model.depth=1", "--no-report", "--config-dir", "conf"]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A user's folder, with two regularizers of theirs: one uses up the device's memory, one has a bug."""
    (tmp_path / "faults.py").write_text(OWN)
    (tmp_path / "conf/regularizer").mkdir(parents=True)
    for error in ("memory", "bug"):
        text = f"name: {error}\nfamily: penalty\nstrength: null\n_target_: faults.faulty\nerror: {error}\n"
        (tmp_path / f"conf/regularizer/{error}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def gradbench(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", *MLP, *words])
    return int(stopped.value.code or 0)


def test_a_worker_takes_numbers_that_are_too_small_to_matter_for_zeros():
    code = """
import torch
from gradbench.launchers.worker import configure_process
x = torch.full((64,), 1e-37)
before = bool((x * 0.01 > 0).all())
configure_process(torch.device("cpu"))
print(before, bool((x * 0.01 == 0).all()), bool((x > 0).all()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 3


def test_the_server_that_workers_are_forked_from_has_no_threads_and_has_not_touched_a_gpu():
    """Arrow's allocator has a thread of its own, which jemalloc stops and starts around a fork."""
    code = f"""
import importlib, os
for name in {PRELOADED}: importlib.import_module(name)
import torch
threads = [open(f"/proc/self/task/{{task}}/comm").read().strip() for task in os.listdir("/proc/self/task")]
print(len([name for name in threads if name != "jemalloc_bg_thd"]), torch.cuda.is_initialized())
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1 False\n"


def test_a_stack_too_large_for_its_device_is_split_until_it_fits_and_one_cell_that_does_not_has_failed(
    home, capsys
):
    words = ["regularizer=memory", "steps=4", "seed=range(4)", "--jobs", "1", "--results"]
    (home / "memory").write_text("2")  # four, then two of them
    assert gradbench(*words, "split") == 0
    said = capsys.readouterr().err
    assert "the device has too little memory for all of it; it goes on as 2 and 2" in said
    assert "it goes on as 1 and 1" in said
    cells = pd.read_parquet("split/cells")
    assert sorted(cells["width"]) == [1, 1, 2, 2]
    assert gradbench(*words, "whole") == 0
    whole = pd.read_parquet("whole/cells")
    assert whole["width"].tolist() == [4] * 4
    metric = [frame.set_index("cell")["test/loss"].sort_index() for frame in (cells, whole)]
    pd.testing.assert_series_equal(*metric, rtol=1e-5)

    (home / "memory").write_text("3")  # four, two, and one
    assert gradbench(*words, "failed") == 1
    cells = pd.read_parquet("failed/cells")
    assert sorted(cells["status"]) == ["completed"] * 3 + ["failed"]
    assert "OutOfMemoryError: too bad" in cells["error"].dropna().item()
    assert not list(Path("failed/checkpoints").glob("*"))


NET = """
from pathlib import Path
from torch import nn

class Net(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)

    def forward(self, x):
        if Path("x").is_dir():  # in a worker, and not at the plan
            act()
        return self.layer(x.flatten(1))

def act():
    pass
"""

EDITS = """
def act():
    with Path(__file__).open("a") as file:
        file.write("# edited")
"""


@pytest.mark.parametrize(
    ("edited", "words"),
    [
        ("part_of_net.py", "model=classifier model.network=net.Net"),
        ("faults.py", "model=mlp model.hidden=4 regularizer=bug"),
    ],
)
def test_code_that_was_edited_after_the_plan_is_not_trained_under_the_old_codes_id(home, edited, words):
    (home / "net.py").write_text(f"import part_of_net\n{NET}")
    (home / "part_of_net.py").write_text("")
    (home / "bug").write_text("0")
    typed = [*words.split(), "steps=4"]
    plan = make_plan(None, typed, Path("x"), Path("conf"), forkserver.run_in_forkserver)
    with (home / edited).open("a") as file:
        file.write("# edited")
    execute(plan, "gradbench run", QuietDisplay(plan.todo(), Console(stderr=True)), fail_fast=False)
    target = words.partition("network=")[2] or "faults.faulty"
    said = f"the source of {target} has changed since the run was planned; type the command again"
    assert pd.read_parquet("x/cells")["error"].item().endswith(f"UsageError: {said}\n")


def test_code_that_is_edited_while_it_trains_is_trained_to_the_end_as_it_was_planned(home):
    (home / "net_edits.py").write_text(NET + EDITS)
    words = ["model=classifier", "model.network=net_edits.Net", "steps=4,5", "--no-report", "--jobs", "1"]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", *words, "--results", "x"])
    assert not stopped.value.code
    assert "# edited" in (home / "net_edits.py").read_text()


def test_code_that_exits_fails_its_cells_with_a_line_that_says_so(home, capsys):
    (home / "net_exits.py").write_text(NET.replace("pass", "raise SystemExit(0)"))
    words = ["model=classifier", "model.network=net_exits.Net", "steps=4", "--no-report", "--jobs", "1"]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", *words, "--results", "x"])
    assert stopped.value.code == 1
    assert "called sys.exit(0) (net_exits.py:" in capsys.readouterr().err
    assert pd.read_parquet("x/cells")["status"].tolist() == ["failed"]


def test_fail_fast_saves_what_runs_and_stops_at_the_first_failure(home, capsys):
    (home / "bug").write_text("1")
    words = ["regularizer=bug,none", "steps=100000,4", "--jobs", "2", "--fail-fast", "--results", "x"]
    assert gradbench(*words) == 1
    out, err = capsys.readouterr()
    assert err.count("failed mlp · bug · 1 cell: ZeroDivisionError: too bad") == 1
    assert "Traceback" not in err
    assert "not finished" in out
    assert len(list(Path("x/checkpoints").glob("*.pt"))) == 1
    failed = pd.read_parquet("x/cells").set_index("status")["error"]["failed"]
    assert "in transform" in failed


ENDLESS = """
import sys, time
from pathlib import Path
from gradbench.cli import main as cli
from gradbench.launchers import forkserver

forkserver.PRELOADED.append("endless")
if sys.argv[1] == "run":
    forkserver.warm_up()
    while not Path("importing").exists():
        time.sleep(0.01)
cli.main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "status"),
    [(["run", "qick"], 2), (["run", "model=mlp", "steps=0"], 2), (["run", "model=mlp", "--dry-run"], 0)],
)
def test_no_process_outlives_a_run_that_trains_nothing_even_one_that_would_import_for_ever(
    tmp_path, words, status
):
    """The server here is in the midst of an import that never ends."""
    (tmp_path / "endless.py").write_text(
        "import time\nfrom pathlib import Path\nPath('importing').touch()\ntime.sleep(3600)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _, err = run.communicate()
    assert run.returncode == status, err
    assert len(err.splitlines()) == (1 if status else 0)
    wait_until(lambda: not group(run.pid))
    assert not group(run.pid)


def test_a_dry_run_starts_no_server_where_no_code_of_ones_own_can_be_named(home, monkeypatch, capsys):
    monkeypatch.setattr(forkserver, "warm_up", lambda: pytest.fail("started"))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", "model=mlp", "--dry-run", "--results", "x"])
    assert not stopped.value.code
    assert "1 cell" in capsys.readouterr().out


def test_a_core_is_idle_once_nothing_waits_and_fewer_stacks_run_than_there_are_cores(monkeypatch, tmp_path):
    monkeypatch.setattr(local, "cores", lambda: 2)
    monkeypatch.setattr(local, "WorkerStarter", object)
    pool = local.Pool(
        [(), ()], tmp_path, QuietDisplay([], Console()), None, Interruption(), forkserver.WorkerStarter()
    )
    worker = forkserver.Worker(None, None, torch.device("cpu"), stack=0)
    pool.workers = [worker]
    assert not pool.is_core_idle(), "the second stack waits"
    pool.waiting.clear()
    assert pool.is_core_idle()
    pool.workers.append(dataclasses.replace(worker, stack=1))
    assert not pool.is_core_idle()


def test_the_report_is_imported_while_the_last_stacks_train_and_only_where_one_is_written(home, monkeypatch):
    imported = []
    monkeypatch.setattr(cli, "import_report", lambda: imported.append(1))
    monkeypatch.setattr(cli, "write_report", lambda *_, **_options: None)
    monkeypatch.setattr(local, "cores", lambda: 2)
    words = ["steps=4", "--jobs", "1", "--results"]
    assert gradbench(*words, "without") == 0
    assert imported == []
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", *(word for word in MLP if word != "--no-report"), *words, "with"])
    assert not stopped.value.code
    assert imported == [1]


@pytest.mark.parametrize(
    ("signals", "whole_group"),
    [
        ([signal.SIGINT], True),
        pytest.param([signal.SIGTERM], False, marks=pytest.mark.slow),
        pytest.param([signal.SIGINT, signal.SIGINT], True, marks=pytest.mark.slow),
    ],
)
def test_asked_to_stop_a_run_saves_what_it_is_at_and_asked_twice_it_leaves_at_once(
    tmp_path, signals, whole_group
):
    """One short stack, whose row says that workers are at work, and one that would take minutes."""
    words = [
        "model=mlp",
        "model.hidden=4",
        "model.depth=1",
        "steps=4,200000",
        "--results",
        "x",
        "--jobs",
        "2",
    ]
    run = subprocess.Popen(
        [sys.executable, "-m", "gradbench", "run", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )
    wait_until(lambda: list(tmp_path.glob("x/cells/*.parquet")) or run.poll() is not None)
    for number in signals:
        (os.killpg if whole_group else os.kill)(run.pid, number)
        time.sleep(0.01)  # two signals at the same instant are one
    out, err = run.communicate()
    assert run.returncode == 130, err
    assert "Traceback" not in out + err
    assert err.splitlines()[-1] == "interrupted: everything finished is kept; the same command goes on"
    cells = pd.read_parquet(tmp_path / "x/cells")
    assert cells["steps"].tolist() == [4]
    assert cells["status"].tolist() == ["completed"]
    if len(signals) == 1:
        assert "stopping: what runs is being saved" in err
        assert "1 completed, 1 not finished" in out
        assert (tmp_path / "x/report/index.html").is_file()
        assert len(list(tmp_path.glob("x/checkpoints/*.pt"))) == 1
    wait_until(lambda: not group(run.pid))
    assert not group(run.pid), "no process outlives the run"


def group(leader: int) -> list[str]:
    """Return the processes of a group that are more than an entry that nobody has read yet."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, process_group = path.read_text().rpartition(")")[2].split()[:3]
            found += [str(path)] if int(process_group) == leader and state not in "ZX" else []
    return found


def hear_interrupts() -> None:
    """Undo what a shell does to what it starts in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_until(true) -> None:
    deadline = time.monotonic() + 120
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_the_first_signal_is_remembered_the_second_interrupts_and_handlers_are_restored():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interruption() as interruption:
        assert not interruption.requested
        signal.raise_signal(signal.SIGTERM)
        assert interruption.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_who_was_started_to_ignore_a_signal_goes_on_ignoring_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGINT)
            assert not interruption.requested
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_checkpoint_that_is_asked_to_stop_is_due_at_once_and_saved_first(tmp_path):
    asked = []
    checkpoint = Checkpoint(tmp_path / "x.pt", {}, 1e9, stop=lambda: bool(asked))
    assert not checkpoint.due()
    checkpoint.save({"step": 1})
    asked.append(True)
    assert checkpoint.due()
    with pytest.raises(StoppedError):
        checkpoint.save({"step": 2})
    assert checkpoint.load(torch.device("cpu")) == {"step": 2}


@pytest.mark.parametrize(
    ("code", "said"),
    [(-9, "exit code -9, SIGKILL: often out of memory"), (-11, "exit code -11, SIGSEGV"), (3, "exit code 3")],
)
def test_a_death_is_named(code, said):
    assert describe_exit(code) == said


def test_cells_whose_data_change_between_plan_and_training_fail_and_nothing_is_filed_under_their_ids(home):
    def planned():
        load_once.cache_clear()
        return make_plan(None, words, home / "out")

    def train(plan):
        with QuietDisplay(plan.todo(), Console(file=io.StringIO(), width=300)) as watcher:
            assert execute(plan, "gradbench run", watcher, fail_fast=False) is Ending.COMPLETE
        return watcher.console.file.getvalue(), pd.read_parquet("out/cells").set_index("cell")["status"]

    x, y = np.random.default_rng(0).random((80, 2)), np.arange(80) % 2
    words = ["model=mlp", "data=npz", "data.path=mine.npz", "steps=2", "eval_every=2", "seed=0,1"]
    np.savez("mine.npz", x=x, y=y)
    before = planned()
    np.savez("mine.npz", x=x + 1, y=y)
    said, statuses = train(before)
    assert "data=npz data.path=mine.npz has changed since the run was planned; type the command again" in said
    assert set(statuses) == {"failed"}
    after = planned()
    _, statuses = train(after)
    assert set(statuses[[cell.id for cell in after.cells]]) == {"completed"}
    assert set(statuses[[cell.id for cell in before.cells]]) == {"failed"}

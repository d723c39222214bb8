"""Workers may raise, die or be stopped: what is finished stays, what is not is said, and a rerun does the rest.

The regularizers here are a user's own: a YAML file in a config folder, a module on PYTHONPATH, nothing else.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from gradbench.api.progress import QuietDisplay
from gradbench.atomic import process_place
from gradbench.errors import ExitError, UsageError
from gradbench.launchers.forkserver import WorkerStarter, run_in_forkserver
from gradbench.launchers.local import worker_count
from gradbench.sweep.execute import execute
from gradbench.sweep.plan import make_plan

OWN = """
import os
import signal
from pathlib import Path

from gradbench.regularizers import Regularizer

HERE = Path(__file__).parent


def halve():
    return Regularizer(transform=lambda gradient, strength, state, *_: (gradient * strength, state))


def unlucky(marker):
    def transform(gradient, strength, state, *_):
        if (HERE / marker).exists():
            raise RuntimeError("out of luck")
        return gradient, state

    return Regularizer(transform=transform)


def deadly(marker):
    def transform(gradient, strength, state, *_):
        path = HERE / marker
        if path.exists():
            deaths = int(path.read_text()) - 1
            path.write_text(str(deaths)) if deaths else path.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return gradient, state

    return Regularizer(transform=transform)
"""

SWEEP = """
question: Does one's own regularizer run?
grid:
  - {model: mlp, model.hidden: 4, model.depth: 1, steps: 4, seed: 'range(2)', regularizer: [none, halve]}
  - {model: mlp, model.hidden: 4, model.depth: 1, steps: 4, seed: 0, regularizer: [unlucky, deadly]}
"""


def yaml(name: str, function: str, family: str, strength: str, more: str = "") -> str:
    return f"name: {name}\nfamily: {family}\nstrength: {strength}\n_target_: own.{function}\n{more}"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A user's folder: a module, configs, and the first run of an experiment of theirs, in which things go wrong."""
    home = tmp_path_factory.mktemp("home")
    (home / "own.py").write_text(OWN)
    for folder in ("conf/regularizer", "conf/experiments"):
        (home / folder).mkdir(parents=True)
    regularizers = {
        "halve": yaml("halve", "halve", "clipping", "share", "share: 0.5"),
        # a family of penalties gives each a stack of its own
        "unlucky": yaml("unlucky", "unlucky", "penalty", "null", "marker: unlucky"),
        "deadly": yaml("deadly", "deadly", "penalty", "null", "marker: deadly"),
    }
    for name, text in regularizers.items():
        (home / f"conf/regularizer/{name}.yaml").write_text(text)
    (home / "conf/experiments/mine.yaml").write_text(SWEEP)
    for marker, deaths in {"unlucky": "always", "deadly": "3"}.items():
        (home / marker).write_text(deaths)
    return home


RUN = ("run", "mine", "--config-dir", "conf", "--no-report")


def gradbench(home: Path, *words: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "gradbench", *words],
        cwd=home,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture(scope="module")
def first(home) -> tuple[int, str, pd.DataFrame]:
    """The exit status, what was said, and the table of a run in which workers raise and die."""
    process = gradbench(home, *RUN, "--jobs", "2")
    out, err = process.communicate()
    return (
        process.returncode,
        out + err,
        pd.read_parquet(home / "results/mine/cells").set_index("regularizer"),
    )


def test_what_fails_is_a_row_with_its_reason_and_the_rest_is_completed(first):
    status, said, cells = first
    assert status == 1
    assert cells["status"].drop(["unlucky", "deadly"]).unique().tolist() == ["completed"]
    assert cells["status"][["unlucky", "deadly"]].tolist() == ["failed", "failed"]
    assert "Traceback" in cells["error"]["unlucky"]
    assert "RuntimeError: out of luck" in cells["error"]["unlucky"]
    assert "exit code -9" in cells["error"]["deadly"]
    assert "failed mlp · unlucky · 1 cell: RuntimeError: out of luck" in said
    assert "Traceback" not in said


def test_the_printed_commands_carry_the_config_folder(first, home):
    assert first[2]["command"].str.endswith(f"--config-dir {home / 'conf'}").all()


def test_a_rerun_trains_the_failed_cells_alone_and_a_worker_killed_once_costs_nothing(first, home):
    (home / "unlucky").unlink()
    assert (home / "deadly").read_text() == "1", "two tries are spent, one death is to come"
    before = first[2].set_index("cell")
    process = gradbench(home, *RUN, "--jobs", "1")
    out, err = process.communicate()
    assert process.returncode == 0
    assert not (home / "deadly").exists()
    assert "4 finished before" in out
    assert "halve" not in err
    after = pd.read_parquet(home / "results/mine/cells").set_index("cell")
    assert set(after.index) == set(before.index)
    assert set(after["status"]) == {"completed"}
    kept = before.index[before["status"] == "completed"]
    pd.testing.assert_series_equal(after["finished"][kept], before["finished"][kept])
    assert not list((home / "results/mine/cells").glob("failed-*"))


@pytest.mark.parametrize(("name", "said"), [("missing", "cannot import own.missing"), ("halve", "other")])
def test_a_target_that_cannot_be_made_is_refused_before_anything_is_trained(home, name, said, monkeypatch):
    monkeypatch.syspath_prepend(home)
    (home / "conf/regularizer/wrong.yaml").write_text(yaml("wrong", name, "clipping", "null", "other: 1"))
    with pytest.raises(UsageError, match=f"regularizer=wrong: .*{said}"):
        make_plan(None, ["regularizer=wrong"], home / "refused", home / "conf")
    assert not (home / "refused").exists()


@pytest.mark.parametrize(
    ("devices", "stacks", "jobs", "expected"),
    [
        (["cpu"], 5, 3, 3),
        (["cpu"], 2, 3, 2),
        (["cpu"], 0, None, 1),
        (["cpu"], 10**6, None, len(os.sched_getaffinity(0))),
        (["cuda:0", "cuda:1"], 9, None, 2),
        (["cuda:0", "cuda:1"], 9, 4, 4),
        (["cuda:0", "cuda:1"], 1, None, 1),
    ],
)
def test_there_are_as_many_workers_as_devices_stacks_and_the_user_allow(devices, stacks, jobs, expected):
    assert worker_count(devices, stacks, jobs) == expected


def test_each_of_several_devices_has_a_worker(tmp_path, monkeypatch):
    started = []

    def start(self, folder, device, real=WorkerStarter.start):
        started.append(device)
        return real(self, folder, device)

    monkeypatch.setattr(WorkerStarter, "start", start)
    words = ["model=mlp", "model.hidden=2,3,4", "model.depth=1", "steps=4", "launcher.parallel=null"]
    plan = replace(make_plan(None, words, tmp_path / "results"), devices=["cpu:0", "cpu:1", "cpu:2"])
    with QuietDisplay(plan.todo(), Console(quiet=True)) as watcher:
        execute(plan, "gradbench run", watcher, fail_fast=True)
    assert started == plan.devices
    assert set(pd.read_parquet(tmp_path / "results/cells")["status"]) == {"completed"}


def test_what_a_killed_worker_was_writing_is_removed_by_the_run_that_goes_on_without_it(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f"results/cells/.a.parquet.{process_place()}-0123abcd.{dead.pid}.tmp"

    class Display(QuietDisplay):
        def started(self, stack):
            left.touch()

    plan = make_plan(None, ["model=mlp", "model.hidden=2", "model.depth=1", "steps=4"], tmp_path / "results")
    with Display(plan.todo(), Console(quiet=True)) as watcher:
        execute(plan, "gradbench run", watcher, fail_fast=True)
    assert not left.exists()


def dies_elsewhere(home):
    if os.getpid() != home:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def raises(error):
    raise error


def refuses(words):
    raise UsageError(words)


def test_what_is_asked_of_another_process_is_found_out_here_if_that_one_is_killed():
    assert run_in_forkserver(os.getpid) != os.getpid()
    assert run_in_forkserver(dies_elsewhere, os.getpid()) == os.getpid()
    with pytest.raises(UsageError, match="so it is"):
        run_in_forkserver(refuses, "so it is")


@pytest.mark.parametrize(
    ("function", "argument", "said"),
    [
        (sys.exit, 0, r"^called sys.exit\(0\)"),
        (os._exit, 9, r"^ended its process \(exit code 9\)$"),
        (signal.raise_signal, signal.SIGSEGV, r"^ended its process \(exit code -11, SIGSEGV\)$"),
        (raises, KeyboardInterrupt(), r"^raised KeyboardInterrupt"),
    ],
)
def test_what_ends_the_process_that_it_is_asked_of_is_an_error_here(function, argument, said, capfd):
    with pytest.raises(ExitError, match=said):
        run_in_forkserver(function, argument)
    assert not capfd.readouterr().err


def test_what_is_asked_of_another_process_ends_where_nobody_waits_for_it():
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_in_forkserver(time.sleep, 600)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not multiprocessing.active_children()

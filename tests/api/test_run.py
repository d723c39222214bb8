"""Runs from Python: the same cells and numbers as from the command line, in workers or in this process."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import gradbench
from gradbench.api import run
from gradbench.cli import main as cli

SMALL = {"steps": 20, "eval_every": 10, "quiet": True}
TIMES = ["step_seconds", "seconds", "started", "finished", "command", "git_dirty", "git_commit"]
random = np.random.default_rng(0)
X, Y = random.normal(size=(120, 5)).astype("float32"), np.arange(120) % 2


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_net(width=4, activation=nn.Tanh):
    class Net(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(inputs, width), activation(), nn.Linear(width, outputs))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    return Net


def values(cells):
    return cells.sort_values("cell").drop(columns=TIMES, errors="ignore").reset_index(drop=True)


def test_python_and_the_command_line_train_the_same_cells_to_the_same_numbers():
    words = ["model=mlp", "model.hidden=4", "regularizer=none,clip_norm", "steps=20", "eval_every=10"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", *words, "--results", "typed", "--quiet"])
    assert not ended.value.code
    found = gradbench.run(
        "model.hidden=4", model="mlp", regularizer=["none", "clip_norm"], results="called", **SMALL
    )
    pd.testing.assert_frame_equal(values(found.cells), values(gradbench.load("typed").cells))
    pd.testing.assert_frame_equal(found.curves, gradbench.load("typed").curves)
    assert Path("typed/report/index.html").is_file()
    assert found.report() == Path("called/report/index.html")


def test_a_class_of_this_process_trains_in_it_to_the_numbers_of_the_same_class_in_a_module(
    tmp_path, monkeypatch
):
    (tmp_path / "my_net.py").write_text(
        "from torch import nn\n\nclass Net(nn.Module):\n"
        "    def __init__(self, inputs, outputs):\n"
        "        super().__init__()\n"
        "        self.layers = nn.Sequential(nn.Linear(inputs, 4), nn.Tanh(), nn.Linear(4, outputs))\n\n"
        "    def forward(self, x):\n        return self.layers(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    denormal = torch.full((64,), 1e-37)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    set_threads = []
    monkeypatch.setattr(torch, "set_num_threads", set_threads.append)
    settings = {"data": (X, Y), "regularizer": ["none", "clip_norm"], "seed": range(2)} | SMALL
    own = gradbench.run(model=make_net(), **settings).cells
    workers = gradbench.run(model="classifier", model__network="my_net.Net", **settings).cells
    metrics = [name for name in own if "/" in name]
    key = ["regularizer", "seed"]
    pd.testing.assert_frame_equal(own.sort_values(key)[metrics], workers.sort_values(key)[metrics])
    assert set_threads == [1, 3]
    assert bool((denormal * 0.01 > 0).all()), "this process goes on with its own arithmetic"


def test_an_edited_class_is_trained_again_to_its_own_numbers_and_an_equal_one_is_not():
    settings = {"data": (X, Y), "results": "out"} | SMALL
    first = gradbench.run(model=make_net(), **settings).cells
    again = gradbench.run(model=make_net(), **settings).cells
    pd.testing.assert_frame_equal(again, first)
    for edited in ({"width": 8}, {"activation": nn.ReLU}):  # other shapes, and the same ones
        before, again = again, gradbench.run(model=make_net(**edited), **settings).cells
        new = again[~again["cell"].isin(before["cell"])]
        run.forget()
        alone = gradbench.run(model=make_net(**edited), **settings | {"results": f"out-{len(again)}"}).cells
        pd.testing.assert_frame_equal(
            values(new)[alone.columns.intersection(values(new).columns)], values(alone)
        )


def test_a_file_that_changes_between_two_runs_is_read_again():
    settings = {"model": "mlp", "data": "npz", "data__path": "mine.npz"} | SMALL
    fingerprints = []
    for shift in (0, 1):
        np.savez("mine.npz", x=X + shift, y=Y)
        cells = gradbench.run(model=make_net(), data="npz", data__path="mine.npz", **SMALL).cells
        fingerprints.append(set(cells["data_sha256"]))
        assert (cells["status"] == "completed").all()
        assert set(gradbench.run(**settings).cells["status"]) == {"completed"}
    assert fingerprints[0] < fingerprints[1]


def test_a_module_that_was_edited_since_it_was_imported_is_refused_as_what_a_class_of_this_process_uses(
    tmp_path, monkeypatch
):
    (tmp_path / "my_layers.py").write_text("WIDTH = 4")
    monkeypatch.syspath_prepend(tmp_path)
    import my_layers

    class Net(make_net()):
        def forward(self, x):
            return super().forward(x) * my_layers.WIDTH

    first = gradbench.run(model=Net, data=(X, Y), **SMALL).cells["cell"].item()
    (tmp_path / "my_layers.py").write_text("WIDTH = 5")
    with pytest.raises(
        gradbench.UsageError, match="my_layers has changed since it was imported; restart Python"
    ):
        gradbench.run(model=Net, data=(X, Y), **SMALL)
    (tmp_path / "my_layers.py").write_text("WIDTH = 4")
    assert gradbench.run(model=Net, data=(X, Y), **SMALL).cells["cell"].item() == first


def test_a_metric_of_this_process_is_reported():
    def share(outputs, targets):
        return (outputs.argmax(1) == 1).float()

    cells = gradbench.run(
        model="classifier", model__network=make_net(), model__metrics={"share": share}, data=(X, Y), **SMALL
    ).cells
    assert cells["test/share"].between(0, 1).all()


def test_a_failed_cell_is_printed_and_has_its_status(capsys):
    class Net(make_net()):
        def forward(self, x):
            if threading.current_thread().name == "gradbench worker":
                raise ZeroDivisionError("no more")
            return super().forward(x)

    found = gradbench.run(model=Net, data=(X, Y), **SMALL)
    assert set(found.cells["status"]) == {"failed"}
    assert "ZeroDivisionError: no more" in capsys.readouterr().err
    assert repr(found).endswith("1 cell: 1 failed")


@pytest.mark.parametrize(
    ("words", "keys", "line"),
    [
        (["quik"], {}, "there is no experiment 'quik'; did you mean 'quick'"),
        ([("seed", 1)], {}, "words are texts like 'seed=0,1', got a tuple"),
        ([], {"model": "mlp", "optimizer__lr": -1}, "optimizer.lr must be > 0"),
        ([], {"model": "mlp", "jobs": 0}, "jobs must be a whole number >= 1, got 0"),
        ([], {"model": "mlp", "jobs": "two"}, "jobs must be a whole number >= 1, got 'two'"),
        ([], {"model": "mlp", "cost": "nope"}, "cost must be True or False, got 'nope'"),
        ([], {"model": "mlp", "results": 3}, "results is a path, such as 'results/quick', got 3"),
        ([], {"model": "mlp", "config_dir": "nowhere"}, "nowhere is not a folder"),
    ],
)
def test_a_mistake_is_an_error_in_one_line_and_never_the_end_of_the_process(words, keys, line):
    with pytest.raises(gradbench.UsageError, match=line) as error:
        gradbench.run(*words, **keys)
    assert "\n" not in str(error.value)


def test_ctrl_c_saves_what_runs_and_the_same_call_goes_on_from_there():
    settings = {"model": make_net(), "data": (X, Y), "steps": 400_000, "eval_every": 400_000, "quiet": True}
    settings |= {"results": "out", "checkpoint_seconds": 0.01}

    def interrupt():
        while not list(Path("out/checkpoints").glob("*.pt")):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    waiting = threading.Thread(target=interrupt, daemon=True)
    waiting.start()
    with pytest.raises(KeyboardInterrupt):
        gradbench.run(**settings)
    waiting.join()
    assert list(Path("out/checkpoints").glob("*.pt"))
    assert not list(Path("out/cells").glob("*.parquet"))
    assert not [one for one in threading.enumerate() if one.name == "gradbench worker"]


def test_a_script_needs_no_guard_and_a_thread_may_run_it(tmp_path):
    (tmp_path / "script.py").write_text(
        "import threading\nimport gradbench\nprint('started')\n"
        "def run():\n    print(gradbench.run(model='mlp', steps=4, device='cpu', quiet=True))\n"
        "thread = threading.Thread(target=run)\nthread.start()\nthread.join()\n"
    )
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"started\nResults\('results/sweep-mlp-\w+'\): 1 cell: 1 completed\n", done.stdout)
    assert done.stderr == ""


def test_the_environment_of_the_caller_stays_as_it_is():
    before = dict(os.environ)
    gradbench.run(model="mlp", **SMALL)
    assert dict(os.environ) == before

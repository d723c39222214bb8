"""A tracker shows what the tables hold, and whatever becomes of it, training ends as it would without."""

import threading

import numpy as np
import pandas as pd
import pytest
from small import CPU, cells, data_of
from stopping import Heard, StopError, always, assert_same_outcome

import gradbench
from gradbench.trackers import check_installed, tracker
from gradbench.trackers.tracker import Tracker, make_tracker
from gradbench.training.loop import train

SMALL = {"model": "mlp", "regularizer": ["none", "clip_norm"], "steps": 120, "eval_every": 40, "quiet": True}


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="the package mlflow-skinny is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return __import__("mlflow").MlflowClient()


# to import mlflow takes seconds
@pytest.fixture(params=["tensorboard", pytest.param("mlflow", marks=pytest.mark.slow)])
def name(request):
    if request.param == "mlflow":
        request.getfixturevalue("mlflow")
    pytest.importorskip(request.param, reason=f"the package {request.param} is not installed")
    return request.param


def shown_by_tensorboard(folder, cell):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard" / cell), size_guidance={"scalars": 0})
    events.Reload()
    points = [
        (name, one.step, one.value) for name in events.Tags()["scalars"] for one in events.Scalars(name)
    ]
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    params = HParamsPluginData.FromString(content).session_start_info.hparams
    return points, {key: getattr(value, value.WhichOneof("kind")) for key, value in params.items()}


def shown_by_mlflow(folder, cell):
    client = __import__("mlflow").MlflowClient()
    experiment = client.get_experiment_by_name(f"gradbench/{folder.name}").experiment_id
    (run,) = [run for run in client.search_runs([experiment]) if run.data.tags["gradbench.cell"] == cell]
    points = [
        (name, one.step, one.value)
        for name in run.data.metrics
        for one in client.get_metric_history(run.info.run_id, name)
    ]
    assert run.info.status == "FINISHED"
    return points, run.data.params


def shown(name, folder, cell):
    """Return the points (series, step, value) and the hyper-parameters that a tracker shows of a cell."""
    return (shown_by_tensorboard if name == "tensorboard" else shown_by_mlflow)(folder, cell)


def recorded(results, cell):
    """Return the points of a cell in the table of curves."""
    rows = results.curves[results.curves["cell"] == cell].drop(columns="cell").set_index("step")
    return [(name, step, value) for name in rows for step, value in rows[name].dropna().items()]


def as_table(points):
    table = pd.DataFrame(points, columns=["name", "step", "value"]).astype({"value": float})
    return table.sort_values(["name", "step"], ignore_index=True)


def test_each_cell_is_a_run_with_its_config_and_the_numbers_of_the_tables(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = gradbench.run(tracker=name, results=tmp_path / "out", **SMALL)
    plain = gradbench.run(results=tmp_path / "plain", **SMALL)
    assert set(results.cells["cell"]) == set(plain.cells["cell"]), "a tracker is no part of ids"
    for row in results.cells.to_dict("records"):
        points, params = shown(name, tmp_path / "out", row["cell"])
        pd.testing.assert_frame_equal(as_table(points), as_table(recorded(results, row["cell"])), rtol=1e-6)
        assert params["regularizer"] == row["regularizer"]
        assert float(params["optimizer.lr"]) == row["optimizer.lr"]


def test_a_stack_that_is_resumed_goes_on_in_the_same_runs_and_each_step_is_there_once(name, tmp_path):
    stack = cells("mlp", "clip_norm", seed=[0, 1], steps=200, eval_every=40, precision="float32")
    for cell in stack:
        cell.runtime["tracker"] = name
    data, path = data_of(stack[0]), tmp_path / "stack.pt"
    warnings = []
    for stop in (120, float("inf")):
        try:
            with make_tracker(stack, tmp_path, warnings.append, (StopError,)) as listener:
                # the checkpoint is older than what was heard last, as after a kill
                outcome = train(stack, data, CPU, [listener, Heard(stop)], always(path))
        except StopError:
            pass
    assert warnings == []
    for k, cell in enumerate(stack):
        points, _ = shown(name, tmp_path, cell.id)
        losses = [(step, value) for series, step, value in points if series == "loss"]
        assert [step for step, _ in losses] == list(range(1, 201))
        np.testing.assert_allclose([value for _, value in losses], outcome.curves["loss"][:, k], rtol=1e-6)


class Broken:
    """A backend that fails, stops answering, or is asked nothing more."""

    def __init__(self, how):
        self.how, self.asleep, self.calls = how, threading.Event(), []

    def make(self):
        if self.how == "import":
            raise ImportError("no such package")
        return self

    def act(self, what):
        self.calls.append(what)
        if self.how == what:
            raise OSError(28, "No space left on device")
        if self.how == f"{what} hangs":
            self.asleep.wait()
        if self.how == f"{what} is ended":
            raise SystemExit

    def open(self, first):
        self.act("open")

    def log(self, points):
        self.act("log")

    def end(self, statuses):
        self.act("end")


@pytest.mark.parametrize(
    "how", ["import", "open", "log", "end", "open hangs", "log hangs", "end hangs", "log is ended", "full"]
)
def test_training_ends_as_it_would_without_a_tracker_that_fails_and_one_line_says_so(how, monkeypatch):
    monkeypatch.setattr(tracker, "WAIT_SECONDS", 0.1)
    stack = cells("mlp", "clip_norm", seed=[0, 1], steps=200, eval_every=40, precision="float32")
    data, backend, lines = data_of(stack[0]), Broken("log hangs" if how == "full" else how), []
    if how == "full":
        monkeypatch.setattr(tracker, "MAX_WAITING", 2)
    with Tracker("tensorboard", backend.make, 1, lines.append) as listener:
        outcome = train(stack, data, CPU, [listener])
    assert_same_outcome(outcome, train(stack, data, CPU))
    (line,) = lines
    assert line.startswith("tracker=tensorboard has stopped (")
    assert line.endswith("training goes on without it")
    backend.asleep.set()
    listener.thread.join()


@pytest.mark.parametrize(
    ("error", "calls"), [(ValueError, ["open", "log", "end"]), (StopError, ["open", "log"])]
)
def test_a_stack_that_fails_ends_its_runs_and_one_that_is_stopped_does_not(error, calls):
    backend = Broken("")

    def fail():
        with Tracker("mlflow", backend.make, 1, print, (StopError,)) as listener:
            listener.on_chunk(2, {"loss": np.zeros((2, 1))})
            raise error

    with pytest.raises(error):
        fail()
    assert backend.calls == calls


def test_a_long_curve_is_thinned_out():
    stack = cells("mlp", "none", steps=2500, eval_every=2500)
    stack[0].runtime["tracker"] = "tensorboard"
    assert make_tracker(stack, None, print).every == 3


def test_without_a_tracker_nobody_listens():
    with make_tracker(cells("mlp", "none"), None, print) as nobody:
        assert nobody is None


def test_a_tracker_that_is_not_installed_is_refused_with_what_to_type(monkeypatch):
    monkeypatch.setattr("gradbench.trackers.find_spec", lambda name: None)
    with pytest.raises(gradbench.UsageError, match=r"type: pip install 'gradbench\[mlflow\]'"):
        gradbench.run(model="mlp", tracker="mlflow")
    check_installed(None)


def test_a_tracker_that_there_is_not_is_refused_with_those_that_there_are():
    with pytest.raises(
        gradbench.UsageError, match="tracker must be one of null, tensorboard, mlflow, got 'wandb'"
    ):
        gradbench.run(model="mlp", tracker="wandb")


def test_a_disk_that_takes_no_more_events_costs_one_line(tmp_path, capfd):
    """A folder where its files should be stands for it."""
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    (tmp_path / "out" / "cells").mkdir(parents=True)
    (tmp_path / "out" / "tensorboard").write_text("")
    found = gradbench.run(tracker="tensorboard", results=tmp_path / "out", **SMALL | {"quiet": False})
    assert set(found.cells["status"]) == {"completed"}
    assert capfd.readouterr().err.count("tracker=tensorboard has stopped (") == 1

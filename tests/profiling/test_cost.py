"""`gradbench cost`: what is compared, how it is timed, what is left on disk."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from small import CONFIGS, CPU, advance, cells, data_of

from gradbench.cli import main as cli
from gradbench.memory.estimate import measure_peak
from gradbench.profiling.cases import NONE, make_cases
from gradbench.profiling.measure import measure_costs
from gradbench.profiling.output import draw_costs, make_table
from gradbench.profiling.timing import Runner, make_runner, time_rounds
from gradbench.training.bind import init_state
from gradbench.training.setup import build_stack
from gradbench.training.telemetry import COMPARE_EVERY, Telemetry

SMALL = ["model.hidden=4", "model.depth=1", "steps=4", "device=cpu"]


def gradbench(*words):
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(words))
    return int(stopped.value.code)


# ---- what is compared ------------------------------------------------------------------------------------------


def test_every_regularizer_there_is_takes_part_and_none_comes_first():
    compared = make_cases([*SMALL], width=3)
    assert next(iter(compared.stacks)) == NONE
    assert set(compared.stacks) == set(CONFIGS.groups["regularizer"])
    for name, stack in compared.stacks.items():
        assert [cell.seed for cell in stack] == [0, 1, 2]
        assert {cell.config["regularizer"]["name"] for cell in stack} == {name}


def test_an_override_restricts_the_regularizers_and_none_stays_to_compare_with():
    compared = make_cases([*SMALL, "regularizer=gp,clip_norm", "regularizer.lambda=3", "seed=7"], width=2)
    assert list(compared.stacks) == [NONE, "gp", "clip_norm"]
    assert [cell.strengths[0] for cell in compared.stacks["gp"]] == [3, 3]
    assert [cell.seed for cell in compared.stacks["gp"]] == [7, 8]


def test_the_usual_width_is_that_of_a_sweep():
    compared = make_cases([*SMALL, "stack_width.cpu=5", "regularizer=none"])
    assert compared.width == 5


def test_other_settings_have_another_folder():
    folders = {
        make_cases(words, width=1).folder
        for words in (SMALL, [*SMALL, "regularizer=gp"], [*SMALL, "model.batch_size=8"])
    }
    assert len(folders) == 3
    assert all(folder.name.startswith("cost-mlp-cpu") for folder in folders)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["quick"], "cost compares regularizers at one setting"),
        (["model=mlp,wgan"], "give one, as model=mlp"),
        (["seed=0,1"], "give one, as seed=0"),
        (["seed=x"], "seed must be a whole number"),
        (["regularizer=gpp"], "did you mean 'gp'"),
        (["model.hiden=3"], "did you mean 'model.hidden'"),
        (["device=tpu"], "device=tpu is not on this machine"),
        (["--rounds", "0"], "--rounds"),
        (["--width", "0"], "--width"),
    ],
)
def test_a_mistake_is_one_line_and_status_2_and_writes_nothing(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert gradbench("cost", *words) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert said in err
    assert list(tmp_path.iterdir()) == []


# ---- how it is timed -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runners():
    found = {}
    for name in ("none", "clip_norm"):
        stack = cells("mlp", name, seed=[0, 1])
        found[name] = make_runner(measure_peak(stack, data_of(stack[0]), CPU)[0])
    return found


def test_each_timing_steps_from_the_same_state(runners, monkeypatch):
    seen = []

    def watched(state, *rest):
        seen.append((state.step, state.parameters["mlp"].clone()))
        return step(state, *rest)

    runner = Runner(runners["none"].context, runners["none"].start, runners["none"].draws, steps=2)
    step = runner.stepper.step
    monkeypatch.setattr(runner.stepper, "step", watched)
    for _ in range(2):
        runner.run()
    assert [step for step, _ in seen] == [0, 1, 2] * 2, "the first is not timed"
    for one, again in zip(seen[:3], seen[3:], strict=True):
        assert one[1].equal(again[1])
    assert not seen[0][1].equal(seen[1][1])


def test_of_steps_that_compare_gradients_each_timing_counts_one_in_many(monkeypatch):
    stack = cells("mlp", "clip_value", seed=[0, 1])
    runner = make_runner(build_stack(stack, data_of(stack[0]), CPU))
    assert runner.steps > 1
    clock, lasts = [0.0], {False: 2.0, True: 300.0}
    step = runner.stepper.step

    def watched(state, draws, compares):
        clock[0] += lasts[compares]
        return step(state, draws, compares)

    monkeypatch.setattr(runner.stepper, "step", watched)
    monkeypatch.setattr("gradbench.profiling.timing.choose_clock", lambda device: lambda: clock[0])
    seconds, flush = runner.run()
    assert seconds == pytest.approx(2.0 + 298.0 / COMPARE_EVERY)
    assert flush == 0.0


def test_each_round_times_everything_once_in_an_order_of_its_own(runners, monkeypatch):
    order, told = [], []
    silent = {
        "clip_norm": Runner(*(getattr(runners["clip_norm"], name) for name in ("context", "start", "draws")))
    }
    timed = {id(runner): name for name, runner in runners.items()} | {id(silent["clip_norm"]): "silent"}

    def run(runner):
        order.append(timed[id(runner)])
        return float(len(order)), 0.5

    monkeypatch.setattr(Runner, "run", run)
    found = time_rounds(runners, silent, 8, told.append)
    by_round = [order[first : first + 3] for first in range(0, 24, 3)]
    assert all(set(part) == {"none", "clip_norm", "silent"} for part in by_round)
    assert len({tuple(part) for part in by_round}) > 2
    assert all(part[1] != "none" for part in by_round), "with and without telemetry, one after the other"
    assert told == list(range(1, 9))
    for name, seconds in found.steps.items():
        expected = [index + 1 + 0.5 for index, one in enumerate(order) if one == name]
        assert seconds.tolist() == expected
    without = [index + 1 + 0.5 for index, one in enumerate(order) if one == "silent"]
    np.testing.assert_allclose(found.telemetry["clip_norm"], found.steps["clip_norm"] - without)


@pytest.mark.parametrize(
    ("asked", "seconds", "count"),
    [(None, 0.001, 20), (None, 6.0, 10), (None, 1000.0, 6), (3, 0.001, 3), (30, 1000.0, 30)],
)
def test_a_round_that_is_not_timed_tells_how_many_fit_into_a_minute(asked, seconds, count, monkeypatch):
    clock, counts = [0.0], []

    def rounds(runners, silent, count, on_round):
        clock[0] += seconds * count
        counts.append(count)
        return time_rounds(runners, silent, 1, on_round)

    monkeypatch.setattr("gradbench.profiling.measure.time_rounds", rounds)
    monkeypatch.setattr("gradbench.profiling.measure.time.perf_counter", lambda: clock[0])
    compared = make_cases([*SMALL, "regularizer=clip_norm"], width=1)
    rows = measure_costs(compared, asked, lambda _: None)
    assert counts == [1, count]
    assert set(rows["rounds"]) == {count}


def test_silence_records_nothing_and_trains_the_same(runners):
    trained = []
    stack = cells("mlp", "clip_norm", seed=[0, 1])
    silent = build_stack(stack, data_of(stack[0]), CPU, with_telemetry=False)
    for setup, recorded in ((runners["clip_norm"].context, True), (silent, False)):
        telemetry, state = Telemetry(setup), init_state(setup)
        advance(setup, state, runners["clip_norm"].draws, telemetry)
        telemetry.flush(state)
        assert bool((telemetry.curves["loss"][0] > 0).all()) is recorded
        trained.append(state.parameters["mlp"])
    assert trained[0].equal(trained[1])


# ---- what is left ----------------------------------------------------------------------------------------------


def test_cost_prints_a_table_and_writes_a_csv_and_a_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.out, "width", 160, raising=False)
    words = [*SMALL, "regularizer=clip_norm,gp", "--rounds", "6", "--width", "2"]
    assert gradbench("cost", *words) == 0
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    (folder,) = (tmp_path / "results").iterdir()
    assert {path.name for path in folder.iterdir()} == {"cost.csv", "cost.png", "cost.svg"}
    rows = pd.read_csv(folder / "cost.csv")
    assert rows["regularizer"].tolist() == ["none", "clip_norm", "gp"]
    assert (rows[["width", "rounds"]] == [2, 6]).all(axis=None)
    assert rows["step_ratio"][0] == rows["step_ratio_low"][0] == rows["step_ratio_high"][0] == 1
    assert (rows["step_ratio_low"] <= rows["step_ratio"]).all()
    assert (rows[["step_seconds", "memory_bytes", "predicted_bytes"]] > 0).all(axis=None)
    assert rows["telemetry_share"].notna().tolist() == [True, True, False]
    for name in rows["regularizer"]:
        assert re.search(rf"│ {name} +│", shown)
    assert "stacks of 2 cells on cpu" in shown
    assert "6 interleaved rounds" in shown
    assert all(f"cost.{kind}" in shown for kind in ("csv", "png", "svg"))


def test_a_device_without_an_account_of_memory_is_drawn_by_what_is_predicted():
    row = {"model": "mlp", "family": "", "step_seconds": 1.0, "step_ratio_low": 1.0, "step_ratio_high": 2.0}
    common = row | {"width": 2, "rounds": 6, "device": "mps", "device_name": "m", "torch": "2"}
    rows = pd.DataFrame(
        [
            common
            | {"regularizer": name, "step_ratio": 1.0 + k, "memory_bytes": None, "predicted_bytes": 10 + k}
            for k, name in enumerate(("none", "gp"))
        ]
    )
    figure = draw_costs(rows)
    assert figure.axes[0].get_xlabel() == "step time, relative to none"
    assert [line.get_xdata()[0] for line in figure.axes[1].lines if line.get_markerfacecolor() == "none"] == [
        1.0,
        pytest.approx(1.1),
    ]


def test_a_terminal_of_80_columns_shows_every_number():
    row = {
        "model": "mlp",
        "family": "",
        "step_seconds": 0.01234,
        "memory_bytes": 9 << 20,
        "predicted_bytes": 10 << 20,
    }
    row |= {f"step_ratio{end}": 2.34 for end in ("", "_low", "_high")}
    row |= {f"telemetry_share{end}": 0.105 for end in ("", "_low", "_high")}
    common = row | {"width": 64, "rounds": 20, "device": "cpu", "device_name": "m", "torch": "2"}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(
        make_table(pd.DataFrame([common | {"regularizer": name} for name in CONFIGS.groups["regularizer"]]))
    )
    shown = console.export_text()
    assert "…" not in shown
    assert "2.34 [2.34, 2.34]" in shown
    assert "10.5 [10.5, 10.5]" in shown
    assert "memory as predicted within 11%" in shown
    assert all(f"│ {name} " in shown for name in CONFIGS.groups["regularizer"])


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_timed(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("gradbench.profiling.measure.measure_costs", None)
    assert gradbench("cost", *SMALL, "--results", str(tmp_path / "file"), "--width", "1") == 1
    assert "cannot write" in capsys.readouterr().err


EXITS = """
import inspect
import sys

from torch import nn


class Net(nn.Linear):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        if any("measure.py" in frame.filename for frame in inspect.stack()):
            sys.exit(3)
"""


def test_code_that_exits_while_it_is_measured_is_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    (tmp_path / "leaving.py").write_text(EXITS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["model=classifier", "model.network=leaving.Net", "data=wine", "steps=4", "device=cpu"]
    assert gradbench("cost", *words, "regularizer=gp", "--width", "1", "--rounds", "6") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "leaving.Net" in line
    assert "called sys.exit(3) (leaving.py:" in line

"""How the programs of a setting are timed within seconds, and what that leaves alone."""

import pytest
from small import CPU, cells, data_of

from gradbench.errors import UsageError
from gradbench.profiling import rounds
from gradbench.profiling.rounds import check_duration, measure_setting
from gradbench.storage.costs import read_costs
from gradbench.training.checkpoint import StoppedError
from gradbench.training.loop import train


@pytest.fixture
def setting():
    return [cells("mlp", name, seed=[0])[0] for name in ("none", "gp")]


def never():
    return False


def test_slow_steps_have_fewer_rounds_and_never_fewer_than_an_interval_needs(setting, tmp_path, monkeypatch):
    counted = []
    time_rounds = rounds.time_rounds
    monkeypatch.setattr(rounds, "time_rounds", lambda *args: counted.append(args[2]) or time_rounds(*args))
    for seconds in (1e9, 0.0):
        monkeypatch.setattr(rounds, "SECONDS", seconds)
        measure_setting(setting, 2, tmp_path, CPU, never)
    assert counted == [rounds.ROUNDS, rounds.FEWEST_ROUNDS]
    measure_setting(setting, 2, tmp_path, CPU, never, limited=False)
    assert counted[-1] == rounds.ROUNDS, "a claim needs them"


def test_steps_that_are_too_slow_are_refused_with_what_does_time_them(setting, tmp_path, monkeypatch):
    check_duration(5.0)
    with pytest.raises(UsageError, match=r"6 rounds would take 36 s or more.*gradbench cost has none"):
        check_duration(6.0)
    monkeypatch.setattr(rounds, "MOST_SECONDS", 0.0)
    with pytest.raises(UsageError):
        measure_setting(setting, 2, tmp_path, CPU, never)
    assert not list(tmp_path.iterdir())


def test_asked_to_stop_it_leaves_and_writes_nothing(setting, tmp_path):
    for looks in range(4):
        left = iter(range(looks))
        with pytest.raises(StoppedError):
            measure_setting(setting, 2, tmp_path, CPU, lambda left=left: next(left, None) is None)
    assert not list(tmp_path.iterdir())


def test_a_cell_trains_to_the_same_bits_before_and_after_its_program_was_timed(setting, tmp_path):
    cell, ids = setting[1], [one.id for one in setting]
    before = train([cell], data_of(cell), CPU).curves["loss"].copy()
    measure_setting(setting, 2, tmp_path, CPU, never)
    assert (train([cell], data_of(cell), CPU).curves["loss"] == before).all()
    assert [one.id for one in setting] == ids


def test_without_none_there_are_seconds_and_no_ratios(setting, tmp_path):
    measure_setting(setting[1:], 3, tmp_path, CPU, never)
    costs, _ = read_costs(tmp_path)
    assert costs["step_ratio"].isna().all()
    assert (costs["step_seconds"] > 0).all()
    assert set(costs["width"]) == {3}


def test_seconds_are_those_of_a_step_and_cell(setting, tmp_path, monkeypatch):
    monkeypatch.setattr(rounds.Runner, "run", lambda runner: (0.25, 0.0))
    measure_setting(setting, 2, tmp_path, CPU, never)
    costs, _ = read_costs(tmp_path)
    assert set(costs["step_seconds"]) == {0.125}
    assert set(costs["step_ratio"]) == {1.0}

"""Ctrl-C and SIGTERM end a command at any instant: status 130, one line, and no process left behind."""

import subprocess
import sys

import pytest
from interrupts import COMMANDS, WAYS, count_instants, interrupt, prepare, spread

from gradbench import signals


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("interrupted")
    prepare(home)
    return home


@pytest.mark.parametrize("way", WAYS)
def test_help_is_interrupted_at_its_first_import_and_at_any_other(way, tmp_path):
    for at in (1, 200, 1000):
        assert interrupt(tmp_path, "help", way, at) is None


@pytest.mark.parametrize(("way", "at"), [("Ctrl-C", 2000), ("SIGTERM", 10_000), ("SIGINT", 20_000)])
def test_a_run_that_is_interrupted_while_it_starts_leaves_no_process_behind(way, at, tmp_path):
    assert interrupt(tmp_path, "run", way, at) is None


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_interrupted_at_instants_spread_over_its_course(command, home):
    count = count_instants(home, command)
    for index, at in enumerate(spread(count, 8 if command == "run" else 3)):
        fault = interrupt(home, command, list(WAYS)[index % len(WAYS)], at)
        assert not fault, f"at {at} of {count}"


SWALLOWS = """
import os, signal
from gradbench import signals
from pathlib import Path

class Careless:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)  # an exception would be printed here, and ignored

signals.leave_on_interrupt()
with signals.temporary(Path("half")):
    Path("half").write_text("")
    with signals.blocked():
        signal.raise_signal(signal.SIGINT)
        print("blocked", flush=True)
    {then}
print("went on")
"""


def test_an_interrupt_waits_for_a_block_is_not_swallowed_and_removes_what_is_half_written(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWS.format(then="Careless()")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (130, "blocked\n")
    assert done.stderr == f"{signals.FAREWELL}\n"
    assert not list(tmp_path.iterdir())

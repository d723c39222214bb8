"""Killed at any instant and started again, a sweep ends with the tables of one that nobody killed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).with_name("soak.py")
KILLS = 6
MENDS = 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_sweep_killed_at_random_instants_ends_with_the_same_tables_value_for_value():
    """A program of its own: it forks, and pytest has threads. It prints its seed, and stops at the first difference."""
    done = subprocess.run(
        [sys.executable, SOAK, "--kills", str(KILLS), "--mends", str(MENDS)],
        **{"capture_output": True, "text": True, "check": False},
    )
    assert done.returncode == 0, done.stderr
    hit = json.loads(done.stdout)
    print(hit)
    assert hit["kills"] == KILLS
    phases = ("while training", "around a write", "before or after")
    assert sum(hit.get(phase, 0) for phase in phases) == KILLS
    assert hit["while mending"] == MENDS

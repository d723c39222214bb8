"""Measure what a large sweep asks of a login node: plan, submit, look, follow to the end. Training is mocked.

    python -m tests.slurm.cluster     # in another shell, where there is no SLURM: prints what to export
    python experiments/throughput/cluster.py --cells 1000,10000,100000

Everything but the training of a stack is real: the stored plan, packed tasks of an array, the queue, the tables.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MOCKED = '''
"""A regularizer that mocks the training of the stacks in which it is used: every number is 1."""

import numpy as np

from gradbench.launchers import worker
from gradbench.regularizers import Regularizer
from gradbench.training.loop import Outcome


def train(cells, *_):
    k, steps = len(cells), int(cells[0].config["steps"])
    return Outcome(
        curves={"loss": np.ones((steps, k))},
        evaluations={steps: {"test/accuracy": np.ones(k)}},
        diverged_at=np.zeros(k, dtype=np.int64),
    )


worker.train = train


def mocked():
    return Regularizer(transform=lambda gradient, strength, state, *_: (gradient, state))
'''

OPTION = "name: mocked\nfamily: clipping\nstrength: share\n_target_: mocked.mocked\nshare: 0.5\n"


def run(home: Path, *words: str) -> tuple[float, float]:
    """Type a command of gradbench; return its seconds, and those of a processor that it and its children took."""
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "gradbench", *words], cwd=home, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"gradbench {' '.join(words)} has failed:\n{done.stdout}{done.stderr}")
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return round(time.perf_counter() - began, 2), round(used, 2)


def measure(home: Path, cells: int, width: int, tasks: int) -> dict[str, object]:
    """Send a sweep of so many cells through the cluster, and time what is typed.

    Args:
        home: an empty folder.
        cells: number of cells.
        width: cells of a stack.
        tasks: number of tasks at a time; there are four times as many.
    """
    (home / "conf/regularizer").mkdir(parents=True)
    (home / "conf/regularizer/mocked.yaml").write_text(OPTION)
    (home / "mocked.py").write_text(MOCKED)
    shares = ",".join(str(share / 10) for share in range(1, 11))
    grid = ["model=mlp", "model.hidden=2", "steps=4", "eval_every=4", "record_every=4", "regularizer=mocked"]
    grid += [f"regularizer.share={shares}", f"seed=range({cells // 10})", f"stack_width.cpu={width}"]
    options = ["--config-dir", "conf", "--results", "results", "--no-cost", "--no-report"]
    words = ["run", *grid, *options, "launcher=slurm", f"launcher.parallel={tasks}"]
    timed = {
        "plan": run(home, *words, "--dry-run"),
        "plan, store and submit": run(home, *words, "--detach"),
        "status": run(home, "status", "results"),
        "follow to the end": run(home, *words),
        "the same command again": run(home, *words),
        "status at the end": run(home, "status", "results"),
    }
    parts = len(list((home / "results/cells").glob("*.parquet")))
    plan = sum(path.stat().st_size for path in (home / "results/plans").iterdir())
    return {"cells": cells, "parts": parts, "plan_mb": round(plan / 1e6, 2), "seconds": timed}


def main() -> None:
    """Measure each size; print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", default="1000,10000", help="numbers of cells")
    parser.add_argument("--width", type=int, default=100, help="cells of a stack")
    parser.add_argument("--tasks", type=int, default=4, help="tasks at a time")
    given = parser.parse_args()
    for cells in given.cells.split(","):
        with tempfile.TemporaryDirectory() as home:
            print(json.dumps(measure(Path(home), int(cells), given.width, given.tasks)), flush=True)


if __name__ == "__main__":
    main()

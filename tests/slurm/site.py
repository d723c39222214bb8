"""A user's folder on a cluster: code and configs of their own, and ``gradbench`` typed there."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

import pandas as pd
import psutil
from slurm.cluster import Cluster, Job, wait_until

OWN = '''
"""Regularizers of a user's own; each chunk of steps that a worker trains is written down, and may be made to last."""

import contextlib
import contextlib
import json
import os
import time
from pathlib import Path

import torch

from gradbench.regularizers import Regularizer
from gradbench.training.checkpoint import Checkpoint

HERE = Path(__file__).parent
NAMES = ("SLURMD_NODENAME", "SLURM_ARRAY_TASK_ID", "CUDA_VISIBLE_DEVICES", "SET_UP", "WRAPPED")


def write_down(file, **more):
    line = {name: os.environ.get(name) for name in NAMES} | more
    with contextlib.suppress(OSError), (HERE / file).open("a") as out:
        out.write(json.dumps(line) + "\\n")


def due(self, real=Checkpoint.due):
    write_down("chunks", stack=self.path.name, pid=os.getpid(), threads=torch.get_num_threads(), time=time.time())
    time.sleep(float(os.environ.get("CHUNK_SECONDS", "0")))
    return real(self)


def load(self, *given, real=Checkpoint.load):
    content = real(self, *given)
    write_down("resumed", stack=self.path.name, step=content and content["state"]["step"])
    return content


Checkpoint.due, Checkpoint.load = due, load


def share():
    return Regularizer(transform=lambda gradient, strength, state, *_: (gradient * strength, state))


def unlucky():
    def transform(gradient, strength, state, *_):
        raise RuntimeError("out of luck")

    return Regularizer(transform=transform)
'''

REGULARIZERS = {
    "share": "name: share\nfamily: clipping\nstrength: share\n_target_: own.share\nshare: 0.5\n",
    "unlucky": "name: unlucky\nfamily: penalty\nstrength: null\n_target_: own.unlucky\n",
}

MINE = """
question: Does one's own regularizer run on a cluster?
grid:
  - {model: mlp, model.hidden: [2, 3, 4, 5, 6, 7], model.depth: 1, steps: 60, eval_every: 10,
     regularizer: share, regularizer.share: [0.5, 1.0], optimizer.lr: 0.01}
  - {model: mlp, model.hidden: 2, model.depth: 1, steps: 60, eval_every: 10, regularizer: unlucky}
"""
"""An experiment of seven stacks, one of which fails."""

DRIVER = """
from gradbench.__main__ import main
from gradbench.launchers.slurm import launcher

launcher.POLL_SECONDS, launcher.SETTLE_SECONDS = 0.5, 3.0
if __name__ == "__main__":
    main()
"""
"""``gradbench`` that looks at the queue more often, and waits less long for a file system on other machines."""

OPTIONS = ("--config-dir", "conf", "--no-report", "--no-cost")
STEPS, EVERY = 200, 10
CHUNKS = STEPS // EVERY - 1
"""Steps of a stack, and how often it may be saved: after each chunk but the last."""

WORDS = (
    *("model=mlp", "model.hidden=2,3", "model.depth=1"),
    *(f"steps={STEPS}", f"eval_every={EVERY}", "checkpoint_seconds=0"),
    *("regularizer=share", "regularizer.share=0.5,1", "optimizer.lr=0.01"),
)
"""A grid of two stacks."""


class Done(NamedTuple):
    """What a command said, and its exit status."""

    status: int
    said: str


class Site:
    """A user's folder.

    Args:
        home: the folder, which is made.
        cluster: the cluster.
    """

    def __init__(self, home: Path, cluster: Cluster) -> None:
        self.home, self.cluster = home, cluster
        self.begun: list[subprocess.Popen[str]] = []
        for folder in ("regularizer", "experiments"):
            (home / "conf" / folder).mkdir(parents=True)
        (home / "conf/experiments/mine.yaml").write_text(MINE)
        (home / "own.py").write_text(OWN)
        (home / "driver.py").write_text(DRIVER)
        for name, text in REGULARIZERS.items():
            (home / f"conf/regularizer/{name}.yaml").write_text(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.begun:
            process.kill()
            process.wait()
            process.stdout.close()

    def begin(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        """Type a command."""
        process = subprocess.Popen(
            [sys.executable, "driver.py", *words],
            cwd=self.home,
            env=self.cluster.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.begun.append(process)
        return process

    def type(self, *words: str, **variables: str) -> Done:
        """Type a command, and wait for its end."""
        process = self.begin(*words, **variables)
        said, _ = process.communicate(timeout=280)
        return Done(process.returncode, said)

    def run(self, results: str, *words: str, **variables: str) -> Done:
        """Train the grid on the cluster, and wait for the end."""
        return self.type(*self.words(results, *words), **variables)

    def words(self, results: str, *words: str) -> tuple[str, ...]:
        """Return what is typed to train the grid on the cluster."""
        return ("run", *WORDS, "launcher=slurm", *words, "--results", results, *OPTIONS)

    def written_down(self, file: str = "chunks") -> list[Mapping[str, object]]:
        """Return what workers have written down: ``chunks`` that they trained, or where they ``resumed``."""
        path = self.home / file
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def forget(self) -> None:
        """Forget what workers have written down."""
        for file in ("chunks", "resumed"):
            (self.home / file).unlink(missing_ok=True)

    def wait_for_chunks(self, count: int) -> None:
        """Wait until workers have trained some chunks of steps, while a command goes on."""

        def is_reached() -> bool:
            reached = len(self.written_down()) >= count
            for process in self.begun if not reached else ():
                assert process.poll() in (None, 0), process.communicate()[0]
            return reached

        wait_until(is_reached, f"{count} chunks are trained", 120)

    def read_until(self, process: subprocess.Popen[str], words: str) -> str:
        """Return what a command says up to the line that has some words."""
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if words in line:
                break
        return "".join(lines)

    def processes(self) -> list[psutil.Process]:
        """Return the processes of ``gradbench task``, one for each task that runs."""
        configuration = self.cluster.environment["SLURM_CONF"]
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_task = process.cmdline()[1:4] == ["-m", "gradbench", "task"]
                if is_task and process.environ().get("SLURM_CONF") == configuration:
                    found.append(process)
        return found

    def jobs(self) -> list[Job]:
        """Return gradbench's tasks that have not ended."""
        return [
            job
            for job in self.cluster.jobs()
            if job.name.startswith("gradbench-")
            and job.state in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING")
        ]

    def cells(self, results: str) -> pd.DataFrame:
        """Return the table of cells."""
        return pd.read_parquet(self.home / results / "cells")

    def logs(self, results: str) -> str:
        """Return what all tasks printed."""
        return "\n".join(
            path.read_text(errors="replace") for path in sorted((self.home / results).glob("jobs/*/*.out"))
        )

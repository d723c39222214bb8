"""Kill sweeps at random instants until they are done, and compare what is left with a sweep that nobody killed.

    python tests/soak.py --kills 200 --mends 50

What is killed is the real command line with its real workers, by SIGKILL: everything at once, the parent alone, or one
worker; some runs are asked to stop by SIGINT or SIGTERM instead. A quarter of the instants are drawn from the whole
run, a quarter wait until a file is being written, half until a part or an array is. At the end a finished folder is
damaged (a bit flipped, a file deleted), and runs are killed while they mend it, as often as ``--mends`` says.

Two things are replaced. Importing torch 200 times takes a quarter of an hour: runs are forked from this process, which
has imported it, and where multiprocessing starts its servers by fork and exec it forks only. And the disk is slow: 7 ms
more for every file, so that kills hit writes. ``--fresh`` does without either until the mending: every run is a new
program.
"""

import argparse
import ctypes
import functools
import json
import multiprocessing.util
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from gradbench import signals
from gradbench.cli import main as cli
from gradbench.storage import repair

EXPERIMENT = """
question: Is anything lost?
grid:
  - {model: mlp, model.hidden: 8, model.depth: 2, regularizer: [none, autoclip], seed: 'range(2)',
     steps: 60, eval_every: 10, checkpoint_seconds: 0.0}
  - {model: lstm, model.hidden: 8, model.embedding: 6, model.batch_size: 4, model.unroll: 5,
     model.evaluation_tokens: 200, data.limit: 6000, regularizer: zclip, seed: 'range(2)',
     steps: 60, eval_every: 10, checkpoint_seconds: 0.0}
  - {model: wgan, model.hidden: 8, model.depth: 2, model.critic_steps: 2, model.matched_points: 30,
     regularizer: gp, seed: 'range(2)', steps: 60, eval_every: 10, checkpoint_seconds: 0.0}
"""

MENDED = EXPERIMENT.replace("model: lstm,", "model: lstm, stack_width.cpu: 1,").replace(
    "model: wgan,", "model: wgan, stack_width.cpu: 1,"
)
"""For mending: a lost cell trains without the sound cells of its stack, which changes last bits of all but ``mlp``."""

OWN = """
seconds step_seconds started finished gradbench torch python device device_name git_commit git_dirty
""".split()  # noqa: SIM905 - a list of words is read as one
"""Columns that say when and where: they differ between any two runs."""

MODES = {"everything": 6, "worker": 3, "parent": 2, "SIGINT": 0.5, "SIGTERM": 0.5}
"""What is sent to whom, and how often out of 12."""

SHARE = 0.5
"""Of the time that a whole sweep takes: the latest instant. A sweep that is gone on with has less before it."""

MENDING = 0.06
"""Seconds from the beginning of mending to the latest instant at which it is killed: about its end, on a slow disk."""

PATIENCE = 120.0
"""Seconds after which a run that should end is stuck."""


# ---- runs ------------------------------------------------------------------------------------------------------


class Run:
    """A ``gradbench run`` in a session of its own.

    Args:
        folder: of the results.
        fresh: start a new program, instead of a copy of this one.
        experiment: file of the experiment.
    """

    def __init__(self, folder: Path, fresh: bool, experiment: str = "soak.yaml") -> None:
        words = ["run", experiment, "--results", str(folder), "--jobs", "2", "--no-report"]
        self.log, self.mending = folder.with_suffix(".log"), folder.with_suffix(".mending")
        with self.log.open("ab") as log:
            if fresh:
                program = [sys.executable, "-m", "gradbench", *words]
                self.pid = subprocess.Popen(program, stdout=log, stderr=log, start_new_session=True).pid
            else:
                self.pid = os.fork() or play(words, log.fileno(), self.mending)
                while os.getpgid(self.pid) != self.pid:  # it is no target before it is a group
                    time.sleep(0.0005)
        self.code: int | None = None

    def ended(self) -> bool:
        """Return whether it has, and reap whatever else has."""
        with suppress(ChildProcessError):
            while self.code is None and (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                if reaped[0] == self.pid:
                    self.code = os.waitstatus_to_exitcode(reaped[1])
        return self.code is not None

    def join(self) -> int:
        """Wait for its end; return the exit status."""
        deadline = time.monotonic() + PATIENCE
        while not self.ended():
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                raise SystemExit(f"a run is stuck:\n{self.log.read_text()}")
            time.sleep(0.005)
        assert self.code is not None
        return self.code

    def workers(self) -> list[int]:
        """Return its worker processes: the children of its children."""
        return [worker for child in children(self.pid) for worker in children(child)]

    def strike(self, mode: str, writers: list[int], rng: random.Random) -> None:
        """Send what the mode says; a worker that writes is preferred."""
        with suppress(ProcessLookupError):
            if mode.startswith("SIG"):
                os.kill(self.pid, signal.Signals[mode])
            elif mode == "worker" and (workers := writers or self.workers()):
                os.kill(rng.choice(workers), signal.SIGKILL)
            elif mode == "parent":
                os.kill(self.pid, signal.SIGKILL)
            else:
                os.killpg(self.pid, signal.SIGKILL)


def children(process: int) -> list[int]:
    """Return a process's children; none where it has gone."""
    try:
        return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def play(words: list[str], log: int, mending: Path) -> NoReturn:
    """Be the command line, in a copy of this process; the file ``mending`` is there while it mends."""
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signals.leave_on_interrupt()
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.fsync = slowly(os.fsync)
        repair.mend = marked(repair.mend, mending)
        multiprocessing.util.spawnv_passfds = fork_only  # type: ignore[attr-defined]
        os.setsid()
        cli.main(words)
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    except KeyboardInterrupt:  # before the command line could hear it
        code = cli.INTERRUPTED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def slowly(call: Callable[..., None]) -> Callable[..., None]:
    """Return what a disk does that is slow enough to be caught in the act."""

    def slow(*given: Any, **named: Any) -> None:
        time.sleep(0.005)
        call(*given, **named)
        time.sleep(0.002)

    return slow


def marked(mend: Callable[..., list[str]], mending: Path) -> Callable[..., list[str]]:
    """Return mending that leaves a mark for as long as it lasts, with a slow disk for what it renames and removes."""

    @functools.wraps(mend)
    def marked_mend(*given: Any) -> list[str]:
        mending.touch()
        real = os.rename, os.unlink
        os.rename, os.unlink = map(slowly, real)
        try:
            return mend(*given)
        finally:
            os.rename, os.unlink = real
            mending.unlink()

    return marked_mend


def fork_only(_program: str, words: list[str], kept: list[int]) -> int:
    """Do what multiprocessing asks of a new interpreter, ``-c`` and a line of Python, in a copy of this one."""
    if pid := os.fork():
        return pid
    try:
        for fd in [int(name) for name in os.listdir("/proc/self/fd")]:  # noqa: PTH208 - numbers, not paths
            if fd > 2 and fd not in kept:
                with suppress(OSError):
                    os.close(fd)
        exec(words[-1], {})
    finally:
        os._exit(0)


def reap_orphans() -> None:
    """Wait until every process of former runs has ended, also those whose parent was killed."""
    deadline = time.monotonic() + PATIENCE
    with suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.005)
        raise SystemExit("a worker has outlived its parent")


# ---- killing ---------------------------------------------------------------------------------------------------


RESULTS = ("", "cells", "curves", "arrays")
"""Folders within a results folder in which results are written; what else is written are checkpoints."""


def unfinished(folder: Path, places: tuple[str, ...] = (*RESULTS, "checkpoints")) -> set[str]:
    """Return the files that are being written, or were when their process was killed."""
    found = set()
    for place in (folder / name for name in places):
        with suppress(OSError), os.scandir(place) as entries:
            found |= {entry.path for entry in entries if entry.name.endswith(".tmp")}
    return found


def writer(path: str) -> int:
    """Return the process that writes a file, from the file's name."""
    return int(path.split(".")[-2])


def is_running(process: int) -> bool:
    """Return whether a process is there, and is more than an entry that nobody has read yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for_instant(run: Run, folder: Path, seconds: float, rng: random.Random) -> set[str] | None:
    """Wait for a random instant, or for a write after it; return what is written, or ``None`` if the run has ended."""
    instant = time.monotonic() + rng.uniform(0, seconds)
    places = rng.choice(((), (*RESULTS, "checkpoints"), RESULTS, RESULTS))
    while not run.ended() and time.monotonic() < instant:
        time.sleep(0.002)
    before = unfinished(folder, places)
    while not run.ended():
        torn = unfinished(folder, places) - before
        if torn or not places:
            return torn
        time.sleep(0.0005)
    return None


def torment(folder: Path, seconds: float, kills: int, rng: random.Random, fresh: bool) -> Counter[str]:
    """Run a sweep until it is done, killing it at most so often; return what was hit, and when."""
    hit: Counter[str] = Counter()
    while True:
        run, before, asked = Run(folder, fresh), unfinished(folder), False
        while hit["kills"] < kills and (written := wait_for_instant(run, folder, seconds, rng)) is not None:
            mode = rng.choices(list(MODES), list(MODES.values()))[0]
            at_work = bool(written or run.workers())
            run.strike(mode, list(map(writer, written)), rng)
            hit[mode] += 1
            asked = mode.startswith("SIG")
            if asked:
                break
            hit["kills"] += 1
            time.sleep(0.02)  # until it has died
            torn = {path for path in unfinished(folder, RESULTS) - before if not is_running(writer(path))}
            of_results = torn | {path for path in written if "/checkpoints/" not in path}
            hit["around a write" if of_results else "while training" if at_work else "before or after"] += 1
            if mode != "worker":
                break
        code = run.join()
        if code == 0:
            return hit
        if code not in ((130, -signal.SIGTERM, -signal.SIGINT) if asked else (1, -signal.SIGKILL)):
            raise SystemExit(f"exit status {code}:\n{run.log.read_text()}")


def damage(folder: Path, rng: random.Random) -> None:
    """Flip a bit of one or two of the files of a finished sweep, or delete them."""
    files = [path for table in ("cells", "curves", "arrays") for path in (folder / table).glob("[!_.]*")]
    for path in rng.sample(sorted(files), rng.choice((1, 1, 2))):
        if rng.random() < 0.3:
            path.unlink()
            continue
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content) // 4, len(content) // 2)] ^= 1 << rng.randrange(8)
        path.write_bytes(content)


def torment_mending(home: Path, kills: int, rng: random.Random) -> None:
    """Damage a finished sweep and kill the run that mends it, until so many kills have hit while it was mending.

    After each the same command again must leave what an uninterrupted sweep leaves.
    """
    folder, reference, hit = home / "mended", home / "whole", 0
    for place in (folder, reference) if kills else ():
        finish(place, False, "mended.yaml")
    while hit < kills:
        damage(folder, rng)
        run = Run(folder, False, "mended.yaml")
        while not run.ended() and not run.mending.exists():
            time.sleep(0.0002)
        time.sleep(rng.uniform(0, MENDING))
        run.strike(rng.choice(("everything", "parent")), [], rng)
        run.join()
        hit += run.mending.exists()
        run.mending.unlink(missing_ok=True)
        reap_orphans()
        finish(folder, False, "mended.yaml")
        compare(folder, reference, [*OWN, "width"])


def finish(folder: Path, fresh: bool, experiment: str = "soak.yaml") -> None:
    """Run a sweep to its end."""
    run = Run(folder, fresh, experiment)
    if code := run.join():
        raise SystemExit(f"exit status {code}:\n{run.log.read_text()}")


def compare(folder: Path, reference: Path, own: Sequence[str] = OWN) -> None:
    """Refuse any difference between the results of two sweeps but in their own columns, and anything left behind."""
    for table, by in (("cells", ["cell"]), ("curves", ["cell", "step"])):
        mine, theirs = (
            pd.read_parquet(place / table).sort_values(by, ignore_index=True).sort_index(axis=1)
            for place in (folder, reference)
        )
        mine, theirs = (frame.drop(columns=own, errors="ignore") for frame in (mine, theirs))
        pd.testing.assert_frame_equal(mine, theirs, check_exact=True)
    names = [
        sorted(path.name for path in (place / "arrays").iterdir() if not path.name.startswith("_"))
        for place in (folder, reference)
    ]
    assert names[0] == names[1], names
    for name in names[0]:
        with np.load(folder / "arrays" / name) as mine, np.load(reference / "arrays" / name) as theirs:
            assert mine.files == theirs.files
            for key in mine.files:
                np.testing.assert_array_equal(mine[key], theirs[key], err_msg=f"{name} {key}")
    left = [*unfinished(folder), *folder.glob("checkpoints/*"), *folder.glob("cells/failed-*")]
    assert not left, left


def soak(home: Path, kills: int, mends: int, seed: int, fresh: bool) -> Counter[str]:
    """Kill sweeps so often; return what was hit."""
    from gradbench.sweep.plan import make_plan

    os.chdir(home)
    for name, text in (("soak.yaml", EXPERIMENT), ("mended.yaml", MENDED)):
        Path(name).write_text(text, encoding="utf-8")
    make_plan("soak.yaml", [], home / "planned")  # its data stays loaded, for every copy
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans become ours to wait for
    rng, reference, total = random.Random(seed), home / "reference", Counter[str]()
    started = time.monotonic()
    finish(reference, fresh)
    seconds = time.monotonic() - started
    print(f"{seconds:.1f} s where nobody kills", file=sys.stderr)
    while total["kills"] < kills:
        folder = home / f"sweep-{total['sweeps']}"
        total += torment(folder, SHARE * seconds, kills - total["kills"], rng, fresh)
        reap_orphans()
        finish(folder, fresh)  # the same command again trains nothing, and clears up
        compare(folder, reference)
        total["sweeps"] += 1
    torment_mending(home, mends, rng)
    return total + Counter({"while mending": mends})


def main() -> None:
    """Print what was hit as JSON, or fail."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--mends", type=int, default=50, help="kills while mending")
    parser.add_argument(
        "--seed", type=int, default=None, help="of the instants; by default another every time"
    )
    parser.add_argument("--fresh", action="store_true", help="start a new program for every run")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", file=sys.stderr)
    os.environ["OMP_NUM_THREADS"] = "1"
    from gradbench.launchers.forkserver import PRELOADED

    for module in PRELOADED:  # once, for every copy
        import_module(module)
    with tempfile.TemporaryDirectory(prefix="soak-") as home:
        print(json.dumps(soak(Path(home), options.kills, options.mends, seed, options.fresh)))


if __name__ == "__main__":
    main()

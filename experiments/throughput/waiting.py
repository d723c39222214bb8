"""Measure the commands that a person waits for: help, a plan, a report, one step; each from a cold process.

    python experiments/throughput/waiting.py [--rounds 5]

Medians over rounds, in wall-clock and CPU seconds. The report of 10,000 cells is built once, from synthetic tables by
``large_report.py``. Its memory is the peak of all its processes together.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from statistics import median

import large_report
import pandas as pd
from peak import RESULTS
from rich.console import Console
from rich.table import Table

QUICK = Path(__file__).resolve().parents[2] / "results" / "reference" / "quick"
MANY = 10_000
GRID = ["model=mlp", "regularizer=clip_norm", f"regularizer.threshold={','.join(map(str, range(1, 101)))}"]
GRID += [f"seed=range({MANY // 100})"]
ONE_STEP = ["quick", "model=mlp", "steps=1", "--no-report", "--quiet"]
LIMITS = {
    "help": 0.3,
    "report of quick": 10.0,
    f"plan of {MANY:,} cells": 5.0,
    f"report of {MANY:,} cells": 60.0,
}
"""Command -> seconds that it may take."""


def timed(words: Sequence[str], folder: Path) -> tuple[float, float, float]:
    """Run gradbench; return wall-clock and CPU seconds, and NaN for memory, which is not measured."""
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "gradbench", *words], cwd=folder, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(child.pid, 0)
    wall = time.perf_counter() - started
    if status:
        raise SystemExit(
            f"gradbench {' '.join(words)[:80]} ended with exit status {os.waitstatus_to_exitcode(status)}"
        )
    return wall, used.ru_utime + used.ru_stime, float("nan")


def measure(rounds: int, cells: int = MANY) -> pd.DataFrame:
    """Measure all commands, one row each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(QUICK, folder / "quick")
        commands = {
            "help": ["--help"],
            "report of quick": ["report", "quick"],
            f"plan of {MANY:,} cells": ["run", *GRID, "--dry-run"],
            "run of one step": ["run", *ONE_STEP, "--results", "one-{}"],
        }
        found = {
            what: [timed([word.format(index) for word in words], folder) for index in range(rounds)]
            for what, words in commands.items()
        }
        large_report.write(folder / "large", cells, 300)
        large = large_report.measure(folder / "large")
        found[f"report of {MANY:,} cells"] = [
            (large["seconds"], large["processor_seconds"], large["peak_mib"])
        ]
    columns = ("seconds", "processor_seconds", "peak_mib")
    return pd.DataFrame(
        {"what": what, "rounds": len(runs), "limit": LIMITS.get(what)}
        | {column: median(values) for column, values in zip(columns, zip(*runs, strict=True), strict=True)}
        for what, runs in found.items()
    )


def show(table: pd.DataFrame, console: Console) -> None:
    """Print the medians and their limits."""
    shown = Table(title="What a person waits for, medians")
    for column in ("what", "seconds", "of processors", "at most", "MiB"):
        shown.add_column(column, justify="left" if column == "what" else "right")
    for row in table.itertuples():
        numbers = (
            f"{row.seconds:.2f}",
            f"{row.processor_seconds:.2f}",
            "–" if isnan(row.limit) else f"{row.limit:g}",
            "–" if isnan(row.peak_mib) else f"{row.peak_mib:,.0f}",
        )
        shown.add_row(str(row.what), *numbers)
    console.print(shown)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure how long help, plans and reports take.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--cells", type=int, default=MANY, help="of the large report, where the script is only tried"
    )
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where waiting.csv goes")
    given = parser.parse_args()
    result = measure(given.rounds, given.cells)
    show(result, Console())
    given.folder.mkdir(parents=True, exist_ok=True)
    result.to_csv(given.folder / "waiting.csv", index=False, float_format="%.4g")

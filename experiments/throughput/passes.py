"""Measure the gain of each graph pass: the time of a step without it, divided by that with all passes.

    python experiments/throughput/passes.py [--rounds 40]

The stacks have the width of a sweep's on a CPU. All variants of a stack are in one process and are timed in
interleaved rounds, in CPU seconds on one thread; ratios are taken within a round. Each variant is traced twice and
the two timings are added, because the addresses of tensors change a small stack's step by several percent.
"""

import argparse
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
from peak import RESULTS
from rich.console import Console
from rich.table import Table

from gradbench.grid.cell import Cell
from gradbench.grid.stacks import group_by_program
from gradbench.launchers.worker import configure_process
from gradbench.profiling.cases import make_cases
from gradbench.profiling.timing import Runner, make_runner, median_interval
from gradbench.sweep.plan import data_of, make_plan
from gradbench.tracing import cache
from gradbench.tracing.passes import NAMES, rewrite
from gradbench.training.setup import build_stack

CPU = torch.device("cpu")

CASES = ("mlp none,clip_norm,clip_value", "mlp clip_norm", "mlp gp", "wgan gp", "lstm gp", "sequence gp")
"""Model and regularizers of each stack."""

COPIES = 2


def stack_of(case: str) -> Sequence[Cell]:
    """Return the cells of a case, as many as a sweep would train together."""
    model, regularizers = case.split(" ")
    words = [f"model={model}", f"regularizer={regularizers}", "device=cpu"]
    width = make_cases([f"model={model}", "regularizer=none", "device=cpu"]).width
    plan = make_plan(None, [*words, f"seed=range({max(width // len(regularizers.split(',')), 1)})"])
    (members,) = group_by_program(plan.cells)
    return members


def variants(stack: Sequence[Cell]) -> dict[str, list[Runner]]:
    """Make runners of a stack with all passes (key ``""``), and without each pass (key: its name)."""
    found: dict[str, list[Runner]] = {name: [] for name in ("", *NAMES)}
    for _ in range(COPIES):
        for name, runners in found.items():
            with (
                mock.patch.object(cache, "TRACE_CACHE", {}),
                mock.patch.object(cache, "rewrite", partial(rewrite, without=(name,))),
            ):
                runners.append(make_runner(build_stack(stack, data_of(stack[0]), CPU)))
    return found


def measure(rounds: int, cases: Sequence[str] = CASES) -> pd.DataFrame:
    """Measure the ratio of step times without and with each pass: median, 95 % interval; a row per stack and pass."""
    configure_process(CPU)
    rows = []
    for case in cases:
        stack = stack_of(case)
        runners = variants(stack)
        order = [(name, runner) for name, both in runners.items() for runner in both]
        seconds = {name: np.zeros(rounds) for name in runners}
        for index in range(rounds):
            random.Random(index).shuffle(order)
            for name, runner in order:
                seconds[name][index] += runner.run()[0]
        step_ms = 1e3 * float(np.median(seconds[""])) / COPIES
        for name in NAMES:
            ratio = median_interval(seconds[name] / seconds[""])
            interval = {"without": ratio.estimate, "low": ratio.low, "high": ratio.high}
            rows.append({"stack": case, "width": len(stack), "step_ms": step_ms, "pass": name} | interval)
    return pd.DataFrame(rows)


def show(table: pd.DataFrame, console: Console) -> None:
    """Print a table with a row per pass and a column per stack."""
    shown = Table(title="A step without one pass, over a step with all")
    shown.add_column("pass")
    for stack in table["stack"].unique():
        shown.add_column(stack.replace(",", ", "), justify="right")
    for name, rows in table.groupby("pass", sort=False):
        shown.add_row(
            str(name), *(f"{row.without:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in rows.itertuples())
        )
    console.print(shown)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure what each rewrite of a traced step gains.")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where passes.csv goes")
    given = parser.parse_args()
    result = measure(max(given.rounds, 6))  # the fewest that have an interval
    show(result, Console(width=200))
    given.folder.mkdir(parents=True, exist_ok=True)
    result.to_csv(given.folder / "passes.csv", index=False, float_format="%.4g")

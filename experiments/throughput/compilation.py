"""After how many steps ``compile=true`` has paid for itself, on the stacks of ``quick``.

    python experiments/throughput/compilation.py [--rounds 7]

Compilation is timed from an empty cache, on one thread; inductor's own start (imports, a look at the processor), which
a worker does once, is not part of it. Steps with and without are measured in interleaved rounds, in CPU seconds.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from peak import RESULTS, stepper
from rich.console import Console
from rich.table import Table

from gradbench import compiling
from gradbench.grid import Cell
from gradbench.sweep import data_of, make_plan
from gradbench.worker import settle

MODELS = ("mlp", "wgan", "lstm")


def measure(rounds: int, models: Sequence[str] = MODELS) -> pd.DataFrame:
    """Return one row per step program of ``quick``, its widest stack with and without compilation."""
    settle(torch.device("cpu"))
    compiling.check(torch.device("cpu"))
    found = []
    for model in models:
        plan = make_plan("quick", [f"model={model}"])
        ascending = sorted((stack.cells for stack in plan.stacks), key=len)
        for cells in {cells[0].program: cells for cells in ascending}.values():
            what = {"model": model, "regularizer": kind(cells), "width": len(cells)}
            found.append(what | compared(cells, rounds))
    return pd.DataFrame(found)


def kind(stack: Sequence[Cell]) -> str:
    """Return what the cells of a stack have in common."""
    penalty = stack[0].config["regularizer"]["family"] == "penalty"
    return str(stack[0].config["regularizer"]["name"]) if penalty else "none, clipping"


def compared(stack: Sequence[Cell], rounds: int) -> dict[str, float]:
    """Return milliseconds of a step with and without, seconds of compilation, and the steps that pay for it."""
    eager, compiled = (
        stepper([replace(cell, runtime={**cell.runtime, "compile": on}) for cell in stack], data_of(stack[0]))
        for on in (False, True)
    )
    eager(), eager(), eager()  # recording
    started = os.times()
    compiled()
    took = sum(os.times()[:4]) - sum(started[:4])  # of this process and of the compiler's
    pairs = [(eager(), compiled()) for _ in range(rounds)]
    slow, fast = (median(seconds) for seconds in zip(*pairs, strict=True))
    gain = median(one / other for one, other in pairs)
    return {
        "step_ms": 1e3 * slow,
        "compiled_ms": 1e3 * fast,
        "gain": gain,
        "compilation_s": took,
        "break_even_steps": took / (slow - slow / gain) if gain > 1 else float("inf"),
    }


def show(table: pd.DataFrame, console: Console) -> None:
    """Print when compilation pays."""
    shown = Table(
        title="compile=true on stacks of quick: a step with and without, and the steps that pay for it"
    )
    for column in ("stack", "width", "step", "compiled", "gain", "compilation", "pays after"):
        shown.add_column(column, justify="left" if column == "stack" else "right")
    for row in table.itertuples():
        after = f"{row.break_even_steps:,.0f} steps" if row.break_even_steps < float("inf") else "never"
        shown.add_row(
            f"{row.model}, {row.regularizer}", str(row.width), f"{row.step_ms:.1f} ms", f"{row.compiled_ms:.1f} ms",
            f"{row.gain:.2f}", f"{row.compilation_s:.0f} s", after,
        )  # fmt: skip
    console.print(shown)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Measure after how many steps compilation has paid for itself."
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where compilation.csv goes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        result = measure(given.rounds)
    show(result, Console())
    given.folder.mkdir(parents=True, exist_ok=True)
    result.to_csv(given.folder / "compilation.csv", index=False, float_format="%.4g")

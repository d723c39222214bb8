"""Measure gradbench on a GPU against the plain scripts there: ``quick``, and a wide sweep per model.

    python experiments/throughput/gpu.py [--rounds 2] [--parts quick,mlp,wgan,lstm]

gradbench is measured by whole commands from a cold process, without a report; ``training`` is the seconds of its
stacks alone. The plain scripts, which train one cell after another, would take a quarter of an hour for ``quick`` and
hours for a wide sweep. So only a step of them is measured: per model and treatment one cell, :data:`STEPS` steps and
the evaluation after them, in this process with everything loaded, the median over rounds. It is multiplied by the
number of steps of gradbench's cells, since a diverged cell ends early in both. Start-up is not counted.

``utilisation`` is the mean of what ``nvidia-smi`` reports ten times a second, from the GPU's first work to its last:
the share of time in which it computes anything. Without a GPU the script prints a line and exits.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from peak import RESULTS, settings_of
from peer_cell import Treatment, load_once
from rich.console import Console
from rich.table import Table

STEPS = 50
"""Steps of a plain script that are timed: as many as between two evaluations of ``quick``."""

TREATMENTS = {"none": 0.0, "clip_norm": 0.1, "clip_value": 0.01, "gp": 0.1}

WIDE = {"mlp": (256, 4, 0.5), "wgan": (128, 4, 0.001), "lstm": (64, 4, 20.0)}
"""Model -> thresholds of ``clip_norm`` from 0.001 to 10, seeds, learning rate."""

QUERY = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]


def words(part: str) -> list[str]:
    """Return the overrides of a part, for ``gradbench run``."""
    if part == "quick":
        return ["quick"]
    count, seeds, lr = WIDE[part]
    thresholds = ",".join(f"{10 ** (-3 + 4 * index / (count - 1)):.4g}" for index in range(count))
    grid = ["regularizer=clip_norm", f"regularizer.threshold={thresholds}", f"seed=range({seeds})"]
    return [f"model={part}", *grid, f"optimizer.lr={lr}"]


@contextmanager
def watched() -> Iterator[list[float]]:
    """Record the GPU's utilisation; the yielded list is filled, in percent, at the end of the block."""
    found: list[float] = []
    with subprocess.Popen(QUERY, stdout=subprocess.PIPE, text=True) as watch:
        yield found
        watch.terminate()
        found += [float(line) for line in (watch.stdout or ()) if line.strip().isdigit()]


def run(part: str, folder: Path) -> tuple[dict[str, float], pd.DataFrame]:
    """Run one command; return its seconds and utilisation, and its cells."""
    command = [sys.executable, "-m", "gradbench", "run", *words(part), "device=cuda", "--no-report"]
    with watched() as utilisation:
        started = time.perf_counter()
        subprocess.run(
            [*command, "--results", str(folder)], cwd=folder.parent, check=True, capture_output=True
        )
        seconds = time.perf_counter() - started
    busy = [index for index, share in enumerate(utilisation) if share > 0]
    at_work = utilisation[busy[0] : busy[-1] + 1] if busy else [float("nan")]
    parts = [pd.read_parquet(path) for path in (folder / "cells").glob("*.parquet")]
    training = sum(stack["seconds"].iloc[0] for stack in parts)
    taken = {"seconds": seconds, "training": training, "utilisation": sum(at_work) / len(at_work) / 100}
    return taken, pd.concat(parts)


def plain_step(model: str, treatment: str) -> float:
    """Time one step of the plain script, in seconds, including its share of an evaluation."""
    settings = settings_of(model)
    settings |= {"steps": STEPS, "eval_every": STEPS}
    data, device = load_once(model, settings["data"]), torch.device("cuda", 0)
    torch.cuda.synchronize()
    started = time.perf_counter()
    # The evaluation reads values from the GPU, so all timed work has finished when it returns.
    record = import_module(f"peer_{model}").train(
        settings, data, Treatment(treatment, TREATMENTS[treatment]), 0, device=device
    )
    return (time.perf_counter() - started) / len(record.rows)


def plain_steps(models: list[str], treatments: list[str], rounds: int) -> dict[tuple[str, str], float]:
    """Return (model, treatment) -> seconds of a step, medians over interleaved rounds after a warm-up round."""
    kinds = [(model, treatment) for model in models for treatment in treatments]
    seconds: dict[tuple[str, str], list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds + 1):
        for kind in kinds:
            taken = plain_step(*kind)
            seconds[kind] += [taken] if number else []
    return {kind: median(found) for kind, found in seconds.items()}


def measure(parts: list[str], rounds: int, console: Console) -> pd.DataFrame:
    """Measure all parts, one row per command."""
    models = list(WIDE) if "quick" in parts else [part for part in parts if part in WIDE]
    plain = plain_steps(models, list(TREATMENTS) if "quick" in parts else ["clip_norm"], rounds)
    for (model, treatment), seconds in plain.items():
        console.print(f"plain script, {model}, {treatment}: {1e3 * seconds:.2f} ms a step")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for part in parts:
            taken, cells = run(part, Path(scratch) / part)
            budgets = cells["model"].map(lambda model: settings_of(model)["steps"])
            steps = cells["diverged_at"].fillna(budgets).astype(int)
            each = [plain[kind] for kind in zip(cells["model"], cells["regularizer"], strict=True)]
            row = {"device": torch.cuda.get_device_name(0), "part": part, "cells": len(cells)} | taken
            row |= {"plain": float((steps * each).sum()), "steps": int(steps.sum())}
            row |= {f"{name}_ratio": row["plain"] / row[name] for name in ("seconds", "training")}
            rows.append(row)
            console.print(f"{part}: {taken['seconds']:.1f} s, of training {taken['training']:.1f} s")
    return pd.DataFrame(rows)


def show(table: pd.DataFrame, console: Console) -> None:
    """Print the ratios."""
    shown = Table(
        title=f"Seconds on one {table.device[0]}; plain scripts, one cell after another, by their steps"
    )
    for column in ("sweep", "cells", "gradbench", "training", "plain", "ratio", "of training", "utilisation"):
        shown.add_column(column, justify="left" if column == "sweep" else "right")
    for row in table.itertuples():
        numbers = [f"{value:.1f}" for value in (row.seconds, row.training)] + [f"{row.plain:.0f}"]
        ratios = [f"{row.seconds_ratio:.0f}", f"{row.training_ratio:.0f}", f"{row.utilisation:.0%}"]
        shown.add_row(str(row.part), str(row.cells), *numbers, *ratios)
    console.print(shown)


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description="Measure gradbench on a GPU beside plain PyTorch.")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--parts", type=lambda text: text.split(","), default=["quick", *WIDE])
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where gpu.csv goes")
    options, console = parser.parse_args(), Console(width=max(110, Console().width))
    if not torch.cuda.is_available():
        console.print("no CUDA device: how fast sweeps are on one stays unmeasured")
        return
    table = measure(options.parts, options.rounds, console)
    show(table, console)
    options.folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.folder / "gpu.csv", index=False, float_format="%.4g")


if __name__ == "__main__":
    main()

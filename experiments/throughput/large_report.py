"""Measure the seconds and the memory of a report on many cells, from synthetic tables.

    python experiments/throughput/large_report.py --cells 10000

writes a results folder with the columns, row counts and arrays of a real sweep of three models, builds its report in
a separate process, and prints seconds, memory and the size of the page.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from gradbench.storage.parquet import write_table

MODELS = {
    "lstm": ("test/perplexity", "min", "perplexity, test", "text"),
    "mlp": ("test/accuracy", "max", "accuracy, test", "digits"),
    "wgan": ("test/wasserstein", "min", "Wasserstein-1 distance, exact, test", "gaussians8"),
}
SEEDS, STRENGTHS = 10, 13
TREATMENTS = {"none": (), "clip_norm": "threshold", "clip_value": "threshold", "gp": "lambda"}
GROUP = SEEDS * (1 + 3 * STRENGTHS)  # cells of one model at one learning rate
PART = 100  # cells in a part file, as a stack would leave them


def main() -> None:
    """Write the tables, build their report, print seconds and memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=300, help="recorded steps of a cell")
    parser.add_argument("--folder", type=Path, help="keep the results folder here")
    parser.add_argument("--out", type=Path, help="write what was measured to this JSON file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary) / "large"
        if not (folder / "cells").is_dir():
            write(folder, given.cells, given.rows)
        measured = {"cells": given.cells, "rows": given.rows, **measure(folder)}
        print(json.dumps(measured))
        if given.out:
            given.out.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


def write(folder: Path, cells: int, rows: int) -> None:
    """Write a results folder with ``cells`` cells, each with ``rows`` rows in its curve."""
    for table in ("cells", "curves", "arrays"):
        (folder / table).mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame([cell(index, rows) for index in range(cells)])
    listed = "".join(f"- {ident!r}\n" for ident in table["cell"])
    (folder / "experiment.yaml").write_text(
        f"experiment: large\nquestion: How large a report can be?\ncells:\n{listed}"
    )
    for start in range(0, cells, PART):
        part = table.iloc[start : start + PART]
        name = f"{start:08d}.parquet"
        for kind, content in (("cells", part), ("curves", curves(part, start))):
            write_table(folder / kind / name, pa.Table.from_pandas(content, preserve_index=False))
        for ident in part.loc[part["model"] == "wgan", "cell"]:
            arrays(folder / "arrays" / f"{ident}.npz", start)


def cell(index: int, rows: int) -> dict[str, object]:
    """Make one row of the table of cells; indices run through seeds, strengths, treatments, rates, models."""
    group, place = divmod(index, GROUP)
    setting, seed = divmod(place, SEEDS)
    kind, step = divmod(setting - 1, STRENGTHS)
    treatment = "none" if setting == 0 else list(TREATMENTS)[1 + kind]
    quantity = TREATMENTS[treatment] or None
    strength = float(10.0 ** (step / 2 - 3)) if quantity else None
    model, rate = list(MODELS)[group % 3], 0.001 * 2.0 ** (group // 3)
    metric, goal, unit, data = MODELS[model]
    rng = np.random.default_rng(index)
    diverged = bool(rng.random() < (0.4 if treatment == "none" else 0.02))
    value = float(0.5 + 0.1 * abs(step - 6) / 6 + 0.02 * rng.normal())
    words = f"gradbench run model={model} data={data} regularizer={treatment} optimizer.lr={rate} seed={seed}"
    return {
        **{"cell": hashlib.sha256(str(index).encode()).hexdigest()[:16], "seed": seed, "steps": rows},
        **{"precision": "float32", "divergence.factor": 1.5, "divergence.patience": 50, "data": data},
        **{"optimizer": "sgd", "optimizer.lr": rate, "optimizer.momentum": 0.0, "regularizer": treatment},
        **{"regularizer.strength": quantity, "model": model, "model.metric": metric, "model.goal": goal},
        **{f"regularizer.{key}": strength if key == quantity else None for key in ("threshold", "lambda")},
        **{"model.unit": unit, "model.hidden": 64, "command": words if not quantity else
           f"{words} regularizer.{quantity}={strength}"},
        **{"data_sha256": hashlib.sha256(data.encode()).hexdigest(), "format": 1, "error": None},
        **{"status": "diverged" if diverged else "completed"},
        **{"diverged_at": rows // 2 + seed if diverged else None},
        **{name: value if name == metric and not diverged else None for name, *_ in MODELS.values()},
        **{"step_seconds": 0.001 * (1 + 0.1 * rng.random()), "seconds": 1.0, "width": PART},
        **{"gradbench": "0.1.0", "torch": "2.6.0", "python": "3.12.1", "device": "cpu", "device_name": "any"},
        **{"git_commit": "0123abc", "git_dirty": False},
        **{"started": "2026-11-22T08:00:00+00:00", "finished": "2026-11-22T08:02:41+00:00"},
    }  # fmt: skip


def curves(cells: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Make the curves of a part, one row per cell and recorded step, with the columns of a real run."""
    rng = np.random.default_rng(seed)
    last = cells["diverged_at"].astype(float).fillna(cells["steps"].astype(float)).astype(int).to_numpy()
    step = np.concatenate([np.arange(1, n + 1) for n in last])
    norm = np.exp(0.4 * rng.normal(size=len(step)))
    found = {
        "cell": np.repeat(cells["cell"].to_numpy(), last),
        "step": step,
        "loss": 1 + 3 * np.exp(-step / 50) + 0.1 * rng.random(len(step)),
        "penalty": np.where(np.repeat(cells["regularizer"] == "gp", last), 0.1 * norm, 0.0),
        "grad_norm": norm,
        "grad_norm_used": np.minimum(norm, 1.5),
        "clipped": (norm > 1.5).astype(float),
        "cosine": 1 - 0.1 * rng.random(len(step)),
        "update_norm": 0.1 * norm,
    }
    evaluated = step % 50 == 0
    for model, (metric, *_) in MODELS.items():
        own = evaluated & np.repeat((cells["model"] == model).to_numpy(), last)
        for name in (metric, f"train/{model}", f"gap/{model}", f"other/{model}"):
            found[name] = np.where(own, 0.5 + np.exp(-step / 80), np.nan).astype(np.float32)
    return pd.DataFrame(found)


def arrays(path: Path, seed: int) -> None:
    """Write the arrays of a critic's figure, in the sizes of a real run."""
    rng = np.random.default_rng(seed)
    np.savez(
        path,
        samples=rng.normal(size=(500, 2)).astype(np.float32),
        data=rng.normal(size=(500, 2)).astype(np.float32),
        surface=rng.normal(size=(48, 48)).astype(np.float32),
        extent=np.array([-2.0, 2.0, -2.0, 2.0]),
        gradient_norms=np.abs(rng.normal(1.0, 0.2, 500)).astype(np.float32),
    )


def measure(folder: Path) -> dict[str, float]:
    """Build the report in a separate process; return seconds, MiB at the peak, and MiB of the page.

    On a busy machine CPU seconds say more than wall-clock seconds. The peak is of the proportional set size, summed
    over the process and its children.
    """
    before, began = os.times(), time.perf_counter()
    command = [sys.executable, "-m", "gradbench", "report", str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while child.poll() is None:
        peak = max(peak, resident(child.pid))
        time.sleep(0.3)
    seconds, after = time.perf_counter() - began, os.times()
    if child.returncode:
        raise SystemExit(f"gradbench report failed with exit status {child.returncode}")
    return {
        "seconds": round(seconds, 1),
        "processor_seconds": round(sum(after[2:4]) - sum(before[2:4]), 1),
        "peak_mib": peak >> 10,
        "page_mib": round((folder / "report" / "index.html").stat().st_size / 2**20, 1),
    }


def resident(process: int) -> int:
    """Return the KiB of a process and its children, with shared pages divided among them (Linux)."""
    total = 0
    pending = [process]
    while pending:
        pid = pending.pop()
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        pending += map(int, children.split())
    return total


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()

"""Measure the stack width that saturates this machine's GPU, for ``stack_width.cuda=auto``, per model.

    python experiments/throughput/saturation.py [--rounds 7]

Stacks of 1, 2, 4, … cells are timed until doubling the width has twice brought no gain, or memory is full. The result
is the narrowest stack whose step takes, per cell, at most 5 % more than the best. The bytes of its parameters go into
``saturation.csv``, the table that gradbench ships, under the device's name. Once it is committed, sweeps on such a
device have that width. Without a GPU the script prints a line and exits.
"""

import argparse
import csv
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from peak import RESULTS
from rich.console import Console

from gradbench.functional.devices import name_of
from gradbench.launchers.worker import configure_process
from gradbench.memory.estimate import free_memory, max_width, predict_footprint
from gradbench.memory.saturation import TABLE
from gradbench.memory.stack_width import count_parameters
from gradbench.profiling.timing import make_runner
from gradbench.sweep.plan import data_of, make_plan
from gradbench.training.program import build
from gradbench.training.setup import build_stack

MODELS = ("mlp", "wgan", "lstm", "sequence")

TOLERANCE = 1.05
"""A stack saturates a device if its step takes, per cell, at most this many times that of the best width."""


def measure(model: str, rounds: int, device: torch.device) -> dict[int, float]:
    """Return width -> median seconds of a step, for widths 1, 2, 4, … up to saturation or the end of memory."""
    (cell,) = make_plan(None, [f"model={model}", f"device={device}"]).cells
    data, seconds = data_of(cell), dict[int, float]()
    # The limit is the memory alone, so that an earlier measurement does not bound this one.
    widest, K = max_width(predict_footprint([cell], data, device.type), free_memory(device)), 1
    while widest >= K and not (len(seconds) > 2 and narrowest_full(seconds) <= K // 4):
        runner = make_runner(build_stack([cell] * K, data, device))
        seconds[K] = median(sum(runner.run()) for _ in range(rounds))
        del runner  # and its memory
        K *= 2
    return seconds


def narrowest_full(seconds: Mapping[int, float]) -> int:
    """Return the narrowest width that saturates a device.

    Args:
        seconds: width -> seconds of a step of the whole stack.
    """
    per_cell = {width: whole / width for width, whole in seconds.items()}
    best = min(per_cell.values())
    return min(width for width, each in per_cell.items() if each <= TOLERANCE * best)


def merge_rows(rows: Mapping[tuple[str, str], int], table: Path = TABLE) -> str:
    """Return the text of the table with rows added or replaced, sorted.

    Args:
        rows: (device, model) -> bytes of parameters.
        table: the file as it is now.
    """
    with table.open(encoding="utf-8", newline="") as lines:
        kept = {
            (row["device_name"], row["model"]): int(row["parameter_bytes"]) for row in csv.DictReader(lines)
        }
    merged = sorted((kept | dict(rows)).items())
    header = "device_name,model,parameter_bytes"
    return "\n".join([header, *(f'"{device}",{model},{size}' for (device, model), size in merged), ""])


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description="Measure how wide a stack fills this machine's GPU.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--folder", type=Path, default=RESULTS, help="where saturation.csv, every width, goes"
    )
    options, console = parser.parse_args(), Console()
    if not torch.cuda.is_available():
        console.print("no CUDA device: how wide a stack fills one stays unmeasured")
        return
    device = torch.device("cuda", 0)
    configure_process(device)
    rows, every = {}, []
    for model in MODELS:
        seconds = measure(model, options.rounds, device)
        every += [
            {"device": name_of(device), "model": model, "width": K, "seconds": t} for K, t in seconds.items()
        ]
        full = narrowest_full(seconds)
        (cell,) = make_plan(None, [f"model={model}"]).cells
        rows[name_of(device), model] = full * 4 * count_parameters(build(cell.config, data_of(cell)).model)
        console.print(f"{model}: {full} cells fill {name_of(device)}, {1e3 * seconds[full]:.2f} ms a step")
    options.folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(every).to_csv(options.folder / "saturation.csv", index=False, float_format="%.4g")
    TABLE.write_text(merge_rows(rows), encoding="utf-8")


if __name__ == "__main__":
    main()

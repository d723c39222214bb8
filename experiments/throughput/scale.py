"""Measure how reads and writes of a results folder grow with its cells and its parts, from synthetic tables.

    python experiments/throughput/scale.py --cells 10000,100000 --stack 10,100

Each operation runs in a process of its own, which reports seconds, and the MiB that it needed beyond its imports.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import large_report
import pandas as pd
import pyarrow as pa

from gradbench import FORMAT
from gradbench.cli.show import find_cell, sections
from gradbench.storage.compact import compact
from gradbench.storage.grids import read_experiment, remember_grid
from gradbench.storage.locks import FinishedCells
from gradbench.storage.merge import merge
from gradbench.storage.parquet import write_table
from gradbench.storage.repair import find_damage, remove_stale_curves
from gradbench.storage.results import Results
from gradbench.storage.schema import FIXED_TYPES, part_name, part_paths


def show(folder: Path) -> None:
    """Do what ``gradbench show`` does for one cell."""
    known = json.loads((folder / "some_cell.json").read_text())
    sections(*find_cell(known, folder))


def ask_again(folder: Path) -> None:
    """Write to ``experiment.yaml`` that the same cells were asked for in other words."""
    cells = read_experiment(folder)["cells"]
    remember_grid(folder, {"command": f"gradbench run x{time.time_ns()}", "cells": cells})


OPERATIONS: dict[str, Callable[[Path], object]] = {
    "statuses": lambda folder: Results(folder).statuses(),
    "finished cells": lambda folder: FinishedCells(folder).statuses(),
    "table of cells": lambda folder: Results(folder).cells(),
    "show": show,
    "find damage": find_damage,
    "stale curves": remove_stale_curves,
    "unify schemas": lambda folder: Results(folder).unify_schemas(),
    "read experiment.yaml": read_experiment,
    "write experiment.yaml": ask_again,
    "merge": lambda folder: merge([folder], folder.with_name("merged")),
    "compact": compact,
}
"""What is measured -> how it is done, in this order: the last changes the folder."""


def write(folder: Path, cells: int, stack: int, rows: int) -> None:
    """Write a results folder as runs leave it.

    Args:
        folder: the new folder.
        cells: number of cells.
        stack: cells of a part.
        rows: rows of a curve.
    """
    made = [large_report.cell(index, rows) for index in range(cells)]
    table = pd.DataFrame(made).assign(format=FORMAT, arrays_bytes=0)
    last = table["diverged_at"].astype(float).fillna(rows)
    table = table.assign(curve_rows=last.astype(int), diverged_at=table["diverged_at"].astype("Int64"))
    ids = list(table["cell"])
    Results(folder).create({"command": "gradbench run large", "cells": ids, "spec": {}})
    (folder / "some_cell.json").write_text(json.dumps(ids[len(ids) // 2]))
    for start in range(0, cells, stack):
        part = table.iloc[start : start + stack]
        curves = large_report.curves(part, start)
        for kind, content in (("curves", curves), ("cells", part)):
            stored = pa.Table.from_pandas(content, preserve_index=False)
            metadata = FIXED_TYPES.metadata if kind == "cells" else None
            schema = pa.schema(
                [
                    pa.field(name, pa.string() if pa.types.is_null(one.type) else one.type)
                    for name, one in zip(stored.schema.names, stored.schema, strict=True)
                ],
                metadata=metadata,
            )
            write_table(folder / kind / part_name(part["cell"]), stored.cast(schema))


def run_alone(operation: str, folder: Path) -> None:
    """Do one operation in this process; print its seconds, and MiB beyond what this process has now."""
    before = memory("VmRSS")
    began, used = time.perf_counter(), time.process_time()
    OPERATIONS[operation](folder)
    seconds, processor = time.perf_counter() - began, time.process_time() - used
    mib = memory("VmHWM") - before
    print(json.dumps({"seconds": seconds, "processor_seconds": processor, "mib": mib}))


def memory(name: str) -> float:
    """Return the MiB that this process has resident (``VmRSS``) or had at its peak (``VmHWM``); Linux."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:")) / 1024


def measure(operation: str, folder: Path) -> dict[str, float]:
    """Do one operation in a process of its own; return its seconds and MiB."""
    command = [sys.executable, __file__, "--alone", operation, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {name: round(value, 2) for name, value in found.items()}


def numbers(text: str) -> list[int]:
    """Return whole numbers from a list with commas."""
    return [int(float(one)) for one in text.split(",")]


def main() -> None:
    """Measure all operations at each size; print a row each, and write them to a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=numbers, default=[10_000, 100_000])
    parser.add_argument("--stack", type=numbers, default=[100], help="cells of a part")
    parser.add_argument("--rows", type=int, default=10, help="recorded steps of a cell")
    parser.add_argument("--operations", default=",".join(OPERATIONS))
    parser.add_argument("--folder", type=Path, help="make the results folders here, and keep them")
    parser.add_argument("--out", type=Path, help="write what was measured to this CSV file")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        run_alone(given.alone, given.folder)
        return
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for cells in given.cells:
            for stack in given.stack:
                folder = (given.folder or Path(temporary)) / f"{cells}-{stack}" / "results"
                if not (folder / "cells").is_dir():
                    write(folder, cells, stack, given.rows)
                for operation in given.operations.split(","):
                    parts = len(part_paths(folder / "cells"))
                    row = {"cells": cells, "parts": parts, "operation": operation}
                    found.append(row | measure(operation, folder))
                    print(json.dumps(found[-1]), flush=True)
    if given.out:
        pd.DataFrame(found).to_csv(given.out, index=False)


if __name__ == "__main__":
    main()

"""Estimate the duration of a plan from cells that have been trained before."""

import contextlib

import pandas as pd

from gradbench.config.composite import TARGET
from gradbench.errors import UsageError
from gradbench.storage.results import Results
from gradbench.storage.sanitize import check_folder
from gradbench.sweep.plan import RESULTS, Plan


def expected_seconds(plan: Plan) -> float | None:
    """Estimate the seconds that one worker needs for the unfinished cells of a plan, or of its shard.

    The estimate uses the median time of a batch per model, network and regularizer family in this and other results
    folders.

    Returns:
        Seconds, or ``None`` if some kind of cell has never been trained.
    """
    todo = [cell for cells in plan.todo() for cell in cells]
    if not todo:
        return 0.0
    kind = ["model", "model.network", "regularizer.family"]
    columns = ["cell", "status", *kind, "accumulate", "step_seconds"]
    needed = set(columns) - {"model.network", "accumulate"}  # which not all cells have
    tables = []
    for folder in {plan.folder, *(cells.parent for cells in RESULTS.glob("*/cells"))}:
        with contextlib.suppress(UsageError):  # an unreadable other folder is no mistake of this command
            check_folder(folder)
            table = Results(folder).cells(columns)
            if needed <= set(table):
                seconds = pd.to_numeric(table["step_seconds"], errors="coerce")
                network = table["model.network"].fillna("") if "model.network" in table else ""
                if "accumulate" in table:
                    seconds = seconds / pd.to_numeric(table["accumulate"], errors="coerce").fillna(1)
                told = table.assign(step_seconds=seconds, **{"model.network": network})
                tables.append(told.drop(columns="accumulate", errors="ignore").dropna())
    known = pd.concat(tables).groupby(kind)["step_seconds"].median().to_dict() if tables else {}
    total = 0.0
    for cell in todo:
        network = (cell.config["model"].get("network") or {}).get(TARGET, "")
        key = (cell.config["model"]["name"], network, cell.config["regularizer"]["family"])
        if key not in known:
            return None
        total += float(known[key]) * int(cell.config["steps"]) * int(cell.config["accumulate"])
    return total

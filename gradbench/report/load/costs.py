"""Read the table of costs of a results folder, and give each cell the cost of its program.

Columns that cells get: ``cost/step_ratio``, the time of a step relative to ``none``; ``cost/step_seconds``, of a step
and cell; both with the ends of their intervals in ``…_low`` and ``…_high``; ``cost/rounds`` and ``cost/width``.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from gradbench.report.load.read import LEFT_OUT, to_numbers
from gradbench.stats.intervals import median_interval
from gradbench.storage.costs import NUMBERS, read_costs

PREFIX = "cost/"
"""How the columns begin."""

KEY = ["step_program", "device"]
"""Columns that say which cells were timed: those of a program that were trained on the same type of device."""


def load_rounds(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read the rounds, of each program the last measurement, and note each part that is damaged.

    Columns that a row is joined by are text, the others numbers; rows without a positive time are left out.
    """
    table, damaged = read_costs(folder)
    notes = [f"{LEFT_OUT}: {error}" for error in damaged]
    if not {*KEY, *NUMBERS, "measured"} <= set(table):
        return pd.DataFrame(columns=[*KEY, *NUMBERS]), notes
    rounds = table[[*KEY, "measured"]].astype(str)
    rounds = rounds.assign(**{name: to_numbers(table[name]).astype(float) for name in NUMBERS})
    last = rounds.groupby(KEY)["measured"].transform("max")
    known = (rounds["measured"] == last) & (rounds["step_seconds"] > 0) & np.isfinite(rounds["step_seconds"])
    return rounds.loc[known, [*KEY, *NUMBERS]].reset_index(drop=True), notes


def add_costs(cells: pd.DataFrame, rounds: pd.DataFrame) -> pd.DataFrame:
    """Add the columns of costs to the table of cells, which stays as it is where nothing was timed."""
    if rounds.empty or not set(KEY) <= set(cells):
        return cells
    rows = [
        dict(zip(KEY, key, strict=True))
        | median_interval(own["step_ratio"]).columns(f"{PREFIX}step_ratio")
        | median_interval(own["step_seconds"]).columns(f"{PREFIX}step_seconds")
        | {f"{PREFIX}rounds": len(own), f"{PREFIX}width": own["width"].iloc[0]}
        for key, own in rounds.groupby(KEY)
    ]
    found = cells.merge(pd.DataFrame(rows), on=KEY, how="left")
    return found.set_axis(cells.index)

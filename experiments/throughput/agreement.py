"""Compare the numbers of plain PyTorch and of gradbench, cell by cell.

Both start from the same weights and use the same batches, but order float32 operations differently, and training is
chaotic: cells agree step by step at first, and at the end only in distribution. So two things are compared: the loss
over the first steps, cell by cell, and each treatment's final metric, averaged over seeds, relative to its standard
error. ``tests/test_throughput.py`` checks that the two agree in float64.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

FIRST = 20
"""Number of steps over which losses are compared cell by cell."""

TOLERANCE = 1e-2
"""Largest accepted difference of two losses over these steps, relative to max(1, |loss|)."""

METRICS = {
    "mlp": "test/accuracy",
    "lstm": "test/loss",
    "wgan": "test/wasserstein",
    "transformer": "test/loss",
    "cnn": "test/accuracy",
    "actor_critic": "test/return",
}
"""Model -> metric compared at the end; for language models the loss, which is the log of the perplexity."""


def ours(folder: Path, model: str) -> pd.DataFrame:
    """Return gradbench's cells with the losses of their first steps, indexed by regularizer, strength, seed."""
    table = pd.read_parquet(folder / "cells")
    curves = pd.read_parquet(folder / "curves", columns=["cell", "step", "loss"])
    early = curves[curves.step <= FIRST].sort_values("step").groupby("cell")["loss"].apply(np.asarray)
    strengths = [column for column in ("regularizer.threshold", "regularizer.lambda") if column in table]
    table["strength"] = table[strengths].apply(pd.to_numeric).max(axis=1).fillna(0.0)
    table["early"] = table["cell"].map(early)
    table["final"] = pd.to_numeric(table[METRICS[model]])
    return table.set_index(["regularizer", "strength", "seed"])[["status", "final", "early"]]


def theirs(folder: Path, model: str) -> pd.DataFrame:
    """Return the same columns of the plain script's cells."""
    rows: list[dict[str, Any]] = []
    for path in folder.glob("*.json"):
        about = json.loads(path.read_text())
        losses = pd.read_csv(path.with_name(path.name.removesuffix("json") + "csv"), usecols=["loss"])["loss"]
        rows.append(about | {"early": losses.to_numpy()[:FIRST], "final": about.get(METRICS[model], np.nan)})
    return pd.DataFrame(rows).set_index(["regularizer", "strength", "seed"])[["status", "final", "early"]]


def early_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference of two losses over the steps that both have, relative to max(1, |loss|)."""
    n = min(len(a), len(b))
    finite = np.isfinite(a[:n]) & np.isfinite(b[:n])
    return float((np.abs(a[:n] - b[:n]) / np.maximum(1.0, np.abs(b[:n])))[finite].max(initial=0.0))


def compare(gradbench: Path, peer: Path, model: str) -> pd.DataFrame:
    """Compare all cells of a model, one row per cell.

    Raises:
        SystemExit: if the two did not train the same cells.
    """
    table = ours(gradbench, model).join(theirs(peer, model), how="outer", lsuffix="", rsuffix="_peer")
    if table[["status", "status_peer"]].isna().any(axis=None):
        raise SystemExit(f"gradbench and the plain script trained different cells of {model}:\n{table}")
    table["early"] = [early_difference(a, b) for a, b in zip(table.early, table.early_peer, strict=True)]
    return table.drop(columns="early_peer").reset_index().assign(model=model)


def of_last_rounds(scratch: Path, models: list[str]) -> pd.DataFrame:
    """Compare the results of the last rounds; earlier rounds have the same bits."""

    def last(model: str, who: str) -> Path:
        return max(scratch.glob(f"{model}-{who}-*"), key=lambda path: int(path.name.split("-")[-1]))

    frames = [compare(last(model, "gradbench"), last(model, "joblib"), model) for model in models]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def show(table: pd.DataFrame, console: Console) -> None:
    """Print the agreement of each model."""
    shown = Table(
        title=f"The same numbers? Early: every loss of {FIRST} steps within {TOLERANCE:g}; final: means over seeds"
    )
    for column in (
        "model",
        "cells",
        "same status",
        "early",
        "final metric",
        "treatments within 2 standard errors",
    ):
        shown.add_column(column, justify="left" if column in ("model", "final metric") else "right")
    for model, cells in table.groupby("model") if len(table) else ():
        same = (cells.status == cells.status_peer).mean()
        early = (cells.early <= TOLERANCE).mean()
        within, count = treatments_within(cells)
        shown.add_row(
            str(model),
            str(len(cells)),
            f"{same:.0%}",
            f"{early:.0%}",
            METRICS[str(model)],
            f"{within} of {count}",
        )
    console.print(shown)


def treatments_within(cells: pd.DataFrame) -> tuple[int, int]:
    """Count the treatments whose two means differ by at most two standard errors, and all treatments.

    A standard error is at least the median one: that of three seeds is too uncertain.
    """
    both = cells.dropna(subset=["final", "final_peer"])
    by = both.groupby(["regularizer", "strength"])
    difference = by["final"].mean() - by["final_peer"].mean()
    variance = (by["final"].var().fillna(0.0) + by["final_peer"].var().fillna(0.0)) / by.size()
    allowed = np.maximum(2 * np.sqrt(np.maximum(variance, variance.median())), TOLERANCE)
    return int((difference.abs() <= allowed).sum()), len(difference)

"""Convert the outcome of training a stack to rows of the tables and to arrays for figures."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from gradbench.data import Data
from gradbench.data.pairs import decode_translations
from gradbench.data.text import VOCABULARY, decode_tokens
from gradbench.grid.cell import Cell
from gradbench.storage.provenance import now, provenance
from gradbench.storage.results import curve_rows, describe
from gradbench.training.loop import Outcome

TOKENS = "_tokens"
"""How the names of arrays end that are numbers of a text's tokens, int64 [N]; of translations, [N, T]."""

TRANSLATED = ("source_tokens", "target_tokens", "translation_tokens")
"""Names of the arrays of translations."""


def finished_rows(
    cells: Sequence[Cell], outcome: Outcome, data: Data, device: torch.device, started: str
) -> list[dict[str, Any]]:
    """Return one row per cell of a trained stack; the final metrics of a diverged cell are NaN.

    Args:
        cells: the K cells of the stack.
        outcome: result of training them.
        data: what they were trained on.
        device: device that the stack was trained on.
        started: start time, as returned by :func:`now`.
    """
    last = outcome.evaluations.get(max(outcome.evaluations, default=0), {})
    rows = []
    for k, cell in enumerate(cells):
        diverged_at = int(outcome.diverged_at[k])
        rows.append(
            describe(cell)
            | {
                "status": outcome.statuses[k],
                "diverged_at": diverged_at or None,
                "error": None,
                "step_seconds": outcome.step_seconds,
                "seconds": outcome.seconds,
                "width": len(cells),
                "exact": outcome.exact,
            }
            | {name: math.nan if diverged_at else float(values[k]) for name, values in last.items()}
            | {"test_examples": count_evaluated(cell, data)}
            | dict(data.facts)
            | provenance(str(device))
            | {"started": started, "finished": now()}
        )
    return rows


def count_evaluated(cell: Cell, data: Data) -> int:
    """Count the test examples that an evaluation sees: all, or as many as its model allows."""
    most = cell.config["model"].get("evaluation_examples")
    return data.count("test") if most is None else min(most, data.count("test"))


def failed_rows(
    cells: Sequence[Cell], error: str, device: torch.device | str, started: str
) -> list[dict[str, Any]]:
    """Return one row per cell of a stack that failed; ``error`` is the traceback or reason."""
    outcome = {"status": "failed", "error": error, "width": len(cells)}
    outcome |= {"started": started, "finished": now()}
    return [describe(cell) | outcome | provenance(str(device)) for cell in cells]


def curves_of(cells: Sequence[Cell], outcome: Outcome) -> pd.DataFrame:
    """Return a stack's rows for the table of curves; the rows of a diverged cell end at that step."""
    every = int(cells[0].config["record_every"])
    steps = len(outcome.curves["loss"])
    return pd.concat(
        [
            curve_rows(
                cell.id, outcome.curves, outcome.evaluations, k, int(outcome.diverged_at[k]) or steps, every
            )
            for k, cell in enumerate(cells)
        ],
        ignore_index=True,
    )


def arrays_of(cells: Sequence[Cell], outcome: Outcome, data: Data) -> dict[str, dict[str, np.ndarray]]:
    """Return cell id -> name -> array, for the cells that have arrays for figures."""
    return {
        cell.id: tokens_to_text(arrays, data)
        for cell, arrays in zip(cells, outcome.arrays, strict=False)
        if arrays
    }


def tokens_to_text(arrays: Mapping[str, np.ndarray], data: Data) -> dict[str, np.ndarray]:
    """Return arrays with each ``NAME_tokens`` replaced by its text as UTF-8; left out without vocabulary.

    Of a text that is ``NAME``; those of a translation become ``translations``, see :func:`decode_translations`.
    """
    tokens = {name: array for name, array in arrays.items() if name.endswith(TOKENS)}
    texts = {}
    if "translation_tokens" in tokens:
        texts["translations"] = decode_translations(data, *(tokens[name] for name in TRANSLATED))
    elif VOCABULARY in data.arrays:
        for name, array in tokens.items():
            texts[name.removesuffix(TOKENS)] = decode_tokens(data, array.tolist())
    encoded = {name: np.frombuffer(text.encode(), np.uint8) for name, text in texts.items()}
    return {name: array for name, array in arrays.items() if name not in tokens} | encoded

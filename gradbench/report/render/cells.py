"""Encode the table of cells for the page: numbers, each word stored once, and sparklines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gradbench.report.analysis.comparison import Setting
from gradbench.report.load.cells import LoadedResults, config_columns, is_constant
from gradbench.report.load.sparklines import Sparklines
from gradbench.report.render.formatting import SYMBOLS, format_strength, format_value
from gradbench.storage.sanitize import caution

MAX_CELLS = 12_000  # cells on a page; tables/cells.csv has all
MAX_CHARACTERS = 3_600_000  # characters for all sparklines of a page
MAX_POINTS, MIN_POINTS = 80, 20  # points of a sparkline


@dataclass(frozen=True)
class CellListing:
    """The cells of a page.

    ``data`` is read by the page's script: ``words``, each stored once; ``configs``, lists of indices into ``words``,
    one per leaf of ``leaves``, -1 for a leaf that a config lacks; and ``rows``, as :func:`_row` builds them.
    """

    data: Mapping[str, Any]
    shared: list[tuple[str, str]]  # config leaves that are equal in all cells
    listed: int
    total: int


def points_per_curve(cells: int) -> int:
    """Compute how many points each sparkline may have so that all of them fit on a page."""
    # 7 characters: two per point, for 3 1/3 curves per cell (a metric has a third of the points), rounded up.
    return max(MIN_POINTS, min(MAX_POINTS, MAX_CHARACTERS // (7 * min(max(cells, 1), MAX_CELLS))))


class _WordIndex:
    """A list of distinct words; calling it returns the index of a word."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def __call__(self, word: str) -> int:
        return self.places.setdefault(word, len(self.places))


def list_cells(results: LoadedResults, sparklines: Mapping[str, Sparklines]) -> CellListing:
    """Encode the first cells of the table, at most ``MAX_CELLS``."""
    cells = results.cells.iloc[:MAX_CELLS]
    shared = [
        (leaf, format_value(cells[leaf].iloc[0]))
        for leaf in config_columns(cells)
        if is_constant(cells[leaf].astype(str))
    ]
    own = [leaf for leaf in config_columns(cells) if leaf not in dict(shared) and leaf != "seed"]
    words = _WordIndex()
    configs: dict[tuple[str | None, ...], int] = {}
    columns = [[_to_text(value) for value in cells[leaf]] for leaf in own]
    rows = []
    for index, cell in enumerate(cells.to_dict("records")):
        place = configs.setdefault(tuple(column[index] for column in columns), len(configs))
        rows.append(_row(cell, place, words, sparklines.get(str(cell["cell"]))))
    written = [[-1 if value is None else words(value) for value in config] for config in configs]
    units = {str(c): str(u) for c, u in _metric_units(cells)}
    data = {"leaves": own, "configs": written, "rows": rows, "words": list(words.places), "units": units}
    return CellListing(data, shared, len(cells), len(results.cells))


def _metric_units(cells: pd.DataFrame) -> Sequence[tuple[str, str]]:
    """List the metric, in words, of each comparison."""
    unit = cells["model.unit"] if "model.unit" in cells else cells["model.metric"]
    first = pd.DataFrame({"group": cells["comparison"], "unit": unit.fillna(cells["model.metric"])})
    return list(first.drop_duplicates("group").itertuples(index=False, name=None))


def _row(cell: Mapping[Any, Any], config: int, words: _WordIndex, sketch: Sparklines | None) -> list[Any]:
    """Encode a cell as a list; ``page.html.j2`` reads it by position.

    The order: id, comparison, treatment, quantity, strength, seed, status, diverged_at, value, step time in ms, index
    of the config, words of the command, error, sparklines, why the command is not offered for pasting.
    """
    command, error, ident = cell.get("command"), cell.get("error"), str(cell["cell"])
    command = command if isinstance(command, str) and command else f"gradbench show {ident}"
    setting = Setting.of(cell)
    symbol = SYMBOLS.get(setting.quantity, setting.quantity)
    if setting.strengths:
        symbol = format_strength(setting.quantity, [setting.strengths])
    status = str(cell["status"])
    return [
        ident,
        words(str(cell["comparison"])),
        words(str(cell["treatment"])),
        words("" if symbol == "threshold" else symbol),
        _to_json_number(cell["strength"]),
        _to_json_number(cell["seed"]),
        words(status),
        _to_json_number(cell.get("diverged_at")),
        _to_json_number(cell["value"]),
        _to_json_number(_to_float(cell.get("step_seconds")) * 1000),
        config,
        [words(word) for word in command.split(" ")],
        words(error) if isinstance(error, str) else -1,
        list(sketch) if sketch else None,
        words(why) if (why := caution(command)) else -1,
    ]


def _to_text(value: object) -> str | None:
    return None if value is None or value is pd.NA or value != value else format_value(value)


def _to_float(value: object) -> float:
    return float(value) if isinstance(value, int | float | np.number) else np.nan


def _to_json_number(value: object) -> float | str | None:
    """Round a number to six digits for JSON; infinities become words, a missing number null."""
    number = _to_float(value)
    if np.isnan(number):
        return None
    if np.isinf(number):
        return "inf" if number > 0 else "-inf"
    short = float(f"{number:.6g}")
    return int(short) if short == int(short) and abs(short) < 1e15 else short

"""Every cell as the page holds it: numbers, words written once, and the sketches of its curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gradbench.report.load.cells import Results, leaves, same
from gradbench.report.load.sparklines import Sketch
from gradbench.report.render import formatting as text

LISTED = 12_000  # cells on a page at most; the table of all is tables/cells.csv
ROOM = 3_600_000  # characters for all the curves of a page
MOST, LEAST = 80, 20  # points of a curve


@dataclass(frozen=True)
class Listing:
    """The cells of a page.

    ``data`` is what the page's script reads: ``words``, written once; ``configs``, lists of places in ``words``,
    one per leaf of ``leaves``, -1 where a config has no such leaf; and ``rows``, as :func:`_row` makes them.
    """

    data: Mapping[str, Any]
    shared: list[tuple[str, str]]  # leaves that are alike in every cell, shown once instead of in each
    listed: int
    total: int


def points(cells: int) -> int:
    """Return how many points each curve may have for all of them to fit a page."""
    # Two characters a point, and 3 1/3 lines a cell.
    return max(LEAST, min(MOST, ROOM // (7 * min(max(cells, 1), LISTED))))


class _Words:
    """A list of words in which each stands once."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def __call__(self, word: str) -> int:
        return self.places.setdefault(word, len(self.places))


def listing(results: Results, sketches: Mapping[str, Sketch]) -> Listing:
    """Return the first cells of the table, as many as a page can hold."""
    cells = results.cells.iloc[:LISTED]
    shared = [
        (leaf, text.value(cells[leaf].iloc[0])) for leaf in leaves(cells) if same(cells[leaf].astype(str))
    ]
    own = [leaf for leaf in leaves(cells) if leaf not in dict(shared) and leaf != "seed"]
    words = _Words()
    configs: dict[tuple[str | None, ...], int] = {}
    columns = [[_text(value) for value in cells[leaf]] for leaf in own]
    rows = []
    for index, cell in enumerate(cells.to_dict("records")):
        place = configs.setdefault(tuple(column[index] for column in columns), len(configs))
        rows.append(_row(cell, place, words, sketches.get(str(cell["cell"]))))
    written = [[-1 if value is None else words(value) for value in config] for config in configs]
    units = {str(c): str(u) for c, u in _units(cells)}
    data = {"leaves": own, "configs": written, "rows": rows, "words": list(words.places), "units": units}
    return Listing(data, shared, len(cells), len(results.cells))


def _units(cells: pd.DataFrame) -> Sequence[tuple[str, str]]:
    """Name the metric of each group of cells."""
    unit = cells["model.unit"] if "model.unit" in cells else cells["model.metric"]
    first = pd.DataFrame({"group": cells["comparison"], "unit": unit.fillna(cells["model.metric"])})
    return list(first.drop_duplicates("group").itertuples(index=False, name=None))


def _row(cell: Mapping[Any, Any], config: int, words: _Words, sketch: Sketch | None) -> list[Any]:
    """Write a cell: id, five words, four numbers, its config, its command in words, its error, its curves."""
    command, error, ident = cell.get("command"), cell.get("error"), str(cell["cell"])
    command = command if isinstance(command, str) and command else f"gradbench show {ident}"
    symbol = text.SYMBOLS.get(str(cell["quantity"]), str(cell["quantity"]))
    status = str(cell["status"])
    return [
        ident,
        words(str(cell["comparison"])),
        words(str(cell["treatment"])),
        words("" if symbol == "threshold" else symbol),
        _number(cell["strength"]),
        _number(cell["seed"]),
        words(status),
        _number(cell.get("diverged_at")),
        _number(cell["value"]),
        _number(_float(cell.get("step_seconds")) * 1000),
        config,
        [words(word) for word in command.split(" ")],
        words(error) if isinstance(error, str) else -1,
        list(sketch) if sketch else None,
    ]


def _text(value: object) -> str | None:
    return None if value is None or value is pd.NA or value != value else text.value(value)


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float | np.number) else np.nan


def _number(value: object) -> float | str | None:
    """Return a number with six digits; what JSON cannot write becomes a word, what is missing null."""
    number = _float(value)
    if np.isnan(number):
        return None
    if np.isinf(number):
        return "inf" if number > 0 else "-inf"
    short = float(f"{number:.6g}")
    return int(short) if short == int(short) and abs(short) < 1e15 else short

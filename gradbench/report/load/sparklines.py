"""A cell's curves, small enough that a page can hold those of every cell.

A curve becomes a line of at most so many points. Each is the mean over a span of steps (of logarithms where the
values span more than a decade), written as two characters: 4,095 heights between the lowest and the highest
point. What is lost is less than a pixel.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradbench.stats.intervals import Floats

SERIES = ("loss", "grad_norm", "grad_norm_used")
LEVELS = 4095  # heights; one more means that nothing was recorded there
SPARSE = 3  # a metric is evaluated now and then: as many times fewer points
LETTERS = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", dtype=np.uint8)

Line = tuple[float, float, int, str]
"""Lowest and highest value, 1 where heights are logarithms of them, and two characters a point."""
Ints = npt.NDArray[np.int64]


class Sketch(NamedTuple):
    """The last recorded step and a line per curve, its points evenly spaced from the first step to the last."""

    last: int
    loss: Line | None
    grad_norm: Line | None
    grad_norm_used: Line | None  # None where it is that of ``grad_norm``
    metric: Line | None


def sketches(rows: pd.DataFrame, metrics: Mapping[str, str], points: int) -> dict[str, Sketch]:
    """Return the sketch of every cell with rows here.

    Args:
        rows: of the table of curves, sorted by cell and step.
        metrics: cell -> the column of its metric.
        points: at most so many points a line.

    """
    code, names = pd.factorize(rows["cell"])
    step = rows["step"].to_numpy(dtype=np.int64)
    last = np.zeros(len(names), dtype=np.int64)
    np.maximum.at(last, code, step)
    lines = {name: _lines(rows[name].to_numpy(dtype=float), code, step, last, points) for name in SERIES}
    evaluated = _evaluations(rows, code, names, metrics)
    measured = _lines(evaluated, code, step, last, max(points // SPARSE, 8))
    found = {}
    for index, cell in enumerate(names):
        loss, raw, used = (lines[name][index] for name in SERIES)
        found[str(cell)] = Sketch(int(last[index]), loss, raw, None if used == raw else used, measured[index])
    return found


def _evaluations(rows: pd.DataFrame, code: Ints, names: npt.ArrayLike, metrics: Mapping[str, str]) -> Floats:
    """Return each row's value of its own cell's metric; nan where it was not evaluated."""
    columns = [metrics[str(name)] for name in np.asarray(names)]
    values = np.full(len(rows), np.nan)
    for column in sorted(set(columns)):
        if column in rows:
            own = np.array([name == column for name in columns])[code]
            values[own] = rows[column].to_numpy(dtype=float)[own]
    return values


def _lines(values: Floats, code: Ints, step: Ints, last: Ints, points: int) -> list[Line | None]:
    """Return a line per cell: the mean in each of ``points`` even spans up to the cell's own last step."""
    count = len(last)
    known = np.isfinite(values)
    values, code, step = values[known], code[known], step[known]
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, code, values)
    np.maximum.at(high, code, values)
    log: npt.NDArray[np.bool_] = np.logical_and(low > 0, high > 10 * low)
    values = np.where(log[code], np.log10(np.where(log[code], values, 1.0)), values)
    bins = np.minimum(points, last)
    place = code * points + (step - 1) * bins[code] // last[code]
    number = np.bincount(place, minlength=count * points)
    total = np.bincount(place, weights=values, minlength=count * points)
    mean = np.divide(total, number, out=np.full(len(total), np.nan), where=number > 0)
    return _written(mean.reshape(count, points), log, bins)


def _written(mean: Floats, log: npt.NDArray[np.bool_], bins: Ints) -> list[Line | None]:
    absent = np.isnan(mean)
    low = np.where(absent, np.inf, mean).min(axis=1)
    high = np.where(absent, -np.inf, mean).max(axis=1)
    span = np.where(high > low, high - low, 1.0)
    with np.errstate(invalid="ignore"):
        height = np.where(absent, LEVELS, np.rint((mean - low[:, None]) / span[:, None] * (LEVELS - 1)))
    height = height.astype(np.int64)
    letters = LETTERS[np.stack([height >> 6, height & 63], axis=-1)]
    return [
        None if low[cell] == np.inf else (
            float(f"{low[cell]:.5g}"), float(f"{high[cell]:.5g}"), int(log[cell]),
            letters[cell, : bins[cell]].tobytes().decode("ascii"),
        )
        for cell in range(len(mean))
    ]  # fmt: skip

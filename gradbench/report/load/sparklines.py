"""Encode the curves of every cell in so few characters that one page can hold them all.

A curve becomes a limited number of points. Each is the mean over a span of steps (of logarithms if the values span
more than a decade), written as two characters: 4,095 heights between the lowest and the highest point, so the
rounding error is below a pixel.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradbench.stats.intervals import Floats

SERIES = ("loss", "grad_norm", "grad_norm_used")
LEVELS = 4095  # number of heights; the code 4095 itself marks a missing point
METRIC_SPARSITY = 3  # factor of fewer points for a metric, which is evaluated rarely
LETTERS = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", dtype=np.uint8)

EncodedCurve = tuple[float, float, int, str]
"""Lowest and highest height, 1 if heights are log10 of values (otherwise 0), and two characters per point."""
Ints = npt.NDArray[np.int64]


class Sparklines(NamedTuple):
    """The last recorded step and the encoded curves, their points evenly spaced from the first step to the last."""

    last: int
    loss: EncodedCurve | None
    grad_norm: EncodedCurve | None
    grad_norm_used: EncodedCurve | None  # None if it equals ``grad_norm``
    metric: EncodedCurve | None


def encode_curves(rows: pd.DataFrame, metrics: Mapping[str, str], points: int) -> dict[str, Sparklines]:
    """Encode the curves of every cell with rows here.

    Args:
        rows: rows of the table of curves, sorted by cell and step.
        metrics: cell -> column of its metric.
        points: maximal number of points of a curve.

    """
    code, names = pd.factorize(rows["cell"])
    step = rows["step"].to_numpy(dtype=np.int64)
    last = np.zeros(len(names), dtype=np.int64)
    np.maximum.at(last, code, step)
    lines = {name: _bin_curves(rows[name].to_numpy(dtype=float), code, step, last, points) for name in SERIES}
    evaluated = _metric_values(rows, code, names, metrics)
    evaluated_lines = _bin_curves(evaluated, code, step, last, max(points // METRIC_SPARSITY, 8))
    found = {}
    for index, cell in enumerate(names):
        loss, raw, used = (lines[name][index] for name in SERIES)
        found[str(cell)] = Sparklines(
            int(last[index]), loss, raw, None if used == raw else used, evaluated_lines[index]
        )
    return found


def _metric_values(
    rows: pd.DataFrame, code: Ints, names: npt.ArrayLike, metrics: Mapping[str, str]
) -> Floats:
    """Pick each row's value of its cell's metric; nan if it was not evaluated."""
    columns = [metrics[str(name)] for name in np.asarray(names)]
    values = np.full(len(rows), np.nan)
    for column in sorted(set(columns)):
        if column in rows:
            own = np.array([name == column for name in columns])[code]
            values[own] = rows[column].to_numpy(dtype=float)[own]
    return values


def _bin_curves(values: Floats, code: Ints, step: Ints, last: Ints, points: int) -> list[EncodedCurve | None]:
    """Average each cell's curve in ``points`` even spans up to its last step, and encode it; None without values."""
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
    return _encode_heights(mean.reshape(count, points), log, bins)


def _encode_heights(mean: Floats, log: npt.NDArray[np.bool_], bins: Ints) -> list[EncodedCurve | None]:
    """Encode rows of means as characters; ``log`` marks rows of logarithms, ``bins`` is the length of each row."""
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

"""Standardised tables of measurements with class labels.

N rows, D columns.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gradbench.data import Array, Data, splits
from gradbench.errors import UsageError, nearest

SOURCES = {"breast_cancer": "breast_cancer.csv", "wine": "wine_data.csv"}
"""Source -> scikit-learn's file: a header line, then rows of measurements with the class last."""


def load(source: str, test_share: float, split_seed: int) -> Data:
    """Load one of scikit-learn's tables.

    Args:
        source: ``breast_cancer`` (569 × 30, 2 classes) or ``wine`` (178 × 13, 3 classes).
        test_share: share of each class that is kept for testing.
        split_seed: seed of the split.

    Returns:
        Arrays ``train/x``, ``test/x`` float32 [N, D], every column with mean 0 and variance 1 over the training rows,
        ``train/y``, ``test/y`` int64 [N]; sizes ``inputs`` (D) and ``outputs`` (classes).
    """
    if source not in SOURCES:
        raise UsageError(
            f"data.source must be one of {', '.join(SOURCES)}, got '{source}'{nearest(source, SOURCES)}"
        )
    x, y = _read(source)
    train, test = splits.split_stratified(y, test_share, split_seed)
    mean, deviation = x[train].mean(axis=0), x[train].std(axis=0)
    arrays: dict[str, Array] = {
        "train/x": standardise(x[train], mean, deviation),
        "train/y": y[train],
        "test/x": standardise(x[test], mean, deviation),
        "test/y": y[test],
    }
    return Data(arrays, {"inputs": x.shape[1], "outputs": len(np.unique(y))})


def standardise(
    x: NDArray[np.float64], mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return (x − mean) / deviation as float32, and zeros for a constant column."""
    safe = np.where(deviation > 0, deviation, 1.0)
    return ((x - mean) / safe).astype(np.float32)


def read_package_csv(package: str, file: str, skip: int = 0) -> NDArray[np.float64] | None:
    """Read a table of numbers from an installed package's folder, without importing the package.

    Importing scikit-learn takes two seconds, reading its digits a twentieth of one.

    Args:
        package: name of the package.
        file: comma-separated file, relative to the package's folder; ``.gz`` is unpacked.
        skip: lines before the first row.

    Returns:
        Rows of numbers; ``None`` where there is no such file, or it is no such table.
    """
    found = find_spec(package)
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder) / file
        if path.is_file():
            try:
                return np.loadtxt(path, delimiter=",", skiprows=skip, ndmin=2)
            except ValueError:  # another version of the package has another layout
                return None
    return None


def _read(source: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Read measurements [N, D] and classes [N]."""
    rows = read_package_csv("sklearn", f"datasets/data/{SOURCES[source]}", skip=1)
    if rows is not None:
        return np.ascontiguousarray(rows[:, :-1]), rows[:, -1].astype(np.int64)
    from sklearn import datasets  # two seconds to import; only if its files moved

    found = datasets.load_breast_cancer() if source == "breast_cancer" else datasets.load_wine()
    return found.data, found.target.astype(np.int64)

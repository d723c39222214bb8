"""Standardised tables of measurements with class labels, or with numbers to predict.

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
    x_train, x_test = standardise_both(x[train], x[test])
    arrays: dict[str, Array] = {"train/x": x_train, "train/y": y[train], "test/x": x_test, "test/y": y[test]}
    return Data(arrays, {"inputs": x.shape[1], "outputs": len(np.unique(y))})


def load_regression(source: str, test_share: float, split_seed: int) -> Data:
    """Load a table of scikit-learn's whose last column is a number to predict.

    Args:
        source: ``diabetes`` (442 × 10; the disease's progression after a year).
        test_share: share of the rows that is kept for testing.
        split_seed: seed of the split.

    Returns:
        Arrays ``train/x``, ``test/x`` float32 [N, D] and ``train/y``, ``test/y`` float32 [N], every column and the
        targets with mean 0 and variance 1 over the training rows; size ``inputs`` (D).
    """
    if source != "diabetes":
        raise UsageError(f"data.source must be diabetes, got '{source}'{nearest(source, ['diabetes'])}")
    x, y = _read_diabetes()
    train, test = splits.split_stratified(np.zeros(len(y), np.int64), test_share, split_seed)
    x_train, x_test = standardise_both(x[train], x[test])
    y_train, y_test = standardise_both(y[train], y[test])
    arrays: dict[str, Array] = {"train/x": x_train, "train/y": y_train, "test/x": x_test, "test/y": y_test}
    return Data(arrays, {"inputs": x.shape[1]})


def standardise_both(
    train: NDArray[np.float64], test: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Standardise both parts with the training part's means and deviations."""
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    return standardise(train, mean, deviation), standardise(test, mean, deviation)


def standardise(
    x: NDArray[np.float64], mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return (x − mean) / deviation as float32, and zeros for a constant column."""
    safe = np.where(deviation > 0, deviation, 1.0)
    return ((x - mean) / safe).astype(np.float32)


def read_package_csv(
    package: str, file: str, skip: int = 0, delimiter: str | None = ","
) -> NDArray[np.float64] | None:
    """Read a table of numbers from an installed package's folder, without importing the package.

    Importing scikit-learn takes two seconds, reading its digits a twentieth of one.

    Args:
        package: name of the package.
        file: file, relative to the package's folder; ``.gz`` is unpacked.
        skip: lines before the first row.
        delimiter: between two numbers; ``None`` for blanks.

    Returns:
        Rows of numbers; ``None`` where there is no such file, or it is no such table.
    """
    found = find_spec(package)
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder) / file
        if path.is_file():
            try:
                return np.loadtxt(path, delimiter=delimiter, skiprows=skip, ndmin=2)
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


def _read_diabetes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read scikit-learn's diabetes: measurements [N, 10] and the progression of the disease [N]."""
    x = read_package_csv("sklearn", "datasets/data/diabetes_data_raw.csv.gz", delimiter=None)
    y = read_package_csv("sklearn", "datasets/data/diabetes_target.csv.gz", delimiter=None)
    if x is not None and y is not None and len(x) == len(y):
        return x, y[:, 0]
    from sklearn.datasets import load_diabetes  # two seconds to import; only if its files moved

    found = load_diabetes(scaled=False)
    return found.data, found.target

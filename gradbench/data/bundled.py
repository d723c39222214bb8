"""Tables that lie as CSV files in a package's folder, read without importing the package."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def table(package: str, file: str, skip: int = 0) -> NDArray[np.float64] | None:
    """Return the rows of numbers in a package's file; ``None`` where it is not there, or is not such a table.

    To import scikit-learn takes two seconds, to read its digits a twentieth of one.

    Args:
        package: which is found, and not imported.
        file: comma-separated, below the package's folder; ``.gz`` is unpacked.
        skip: lines before the first row.
    """
    found = find_spec(package)
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder) / file
        if path.is_file():
            try:
                return np.loadtxt(path, delimiter=",", skiprows=skip, ndmin=2)
            except ValueError:  # another version's layout
                return None
    return None

"""Keep data that are given as objects in files, for the processes that train and for the commands of their cells."""

import hashlib
import io
import json
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradbench.atomic import unwritable, write_atomically
from gradbench.data import Data
from gradbench.data.loader import named_arrays
from gradbench.errors import UsageError

SIZES = "sizes"
"""Name of what stands beside the arrays in a file of :class:`Data`: its sizes and facts as JSON."""


def store(value: Any, folder: Path) -> dict[str, str]:
    """Write data into a file that is named by its content, unless it is there.

    Args:
        value: a :class:`Data`; a DataFrame; or arrays or tensors as ``(x, y)``, ``(x, y, x_test, y_test)`` or by name.
        folder: of the file.

    Returns:
        The overrides that load it: key -> value.

    Raises:
        UsageError: if it is anything else, or holds what no file can.
        StorageError: if it cannot be written.
    """
    if isinstance(value, list):
        raise UsageError("data takes arrays as (x, y) or {'x': x, 'y': y}, got a list")
    if isinstance(value, pd.DataFrame):
        content = frame_bytes(value)
        name = f"{hashlib.sha256(content).hexdigest()[:16]}.parquet"
        return {"data": "parquet", "data.path": write(folder / name, content)}
    data = value if isinstance(value, Data) else Data(named_arrays(value, "data"), {})
    arrays = dict(data.arrays)
    words = {"data": "npz", "data.path": ""}
    if isinstance(value, Data):
        arrays[SIZES] = np.array(json.dumps([dict(data.sizes), dict(data.facts)]))
        words = {"data": "loader", "data.loader": f"{__name__}.load", "data.loader.path": ""}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # its stubs take no names that come from a mapping
    path = write(folder / f"{data.fingerprint[:16]}.npz", buffer.getvalue())
    return {key: word or path for key, word in words.items()}


def frame_bytes(frame: pd.DataFrame) -> bytes:
    """Return a table, without its index, as a Parquet file."""
    try:
        buffer = io.BytesIO()
        frame.rename(columns=str).to_parquet(buffer, index=False)
        return buffer.getvalue()
    except Exception as error:  # Arrow's errors have no common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"the DataFrame cannot be kept in a file ({reason}); convert its columns first"
        ) from error


def write(path: Path, content: bytes) -> str:
    """Write a file unless it is there, and return its path."""
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(path.parent, error) from error
        write_atomically(path, methodcaller("write", content))
    return str(path)


def load(path: str) -> Data:
    """Load a :class:`Data` that :func:`store` wrote.

    Raises:
        UsageError: if the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        sizes, facts = json.loads(str(arrays.pop(SIZES)))
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"cannot read {path} ({str(error).splitlines()[0]}); run it from Python again"
        ) from error
    return Data(arrays, sizes, facts=facts)

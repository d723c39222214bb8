"""Data from a function of the user's own."""

import contextlib
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gradbench.data import Array, Data
from gradbench.data.arrays import from_arrays
from gradbench.data.examples import Preparation
from gradbench.data.frames import from_frame
from gradbench.errors import UsageError
from gradbench.named_code import NamedCode

ORDERS = {1: ("x",), 2: ("x", "y"), 4: ("x", "y", "x_test", "y_test")}
"""Number of arrays in a tuple -> their names."""

RETURNS = "arrays or tensors as (x, y), (x, y, x_test, y_test) or {'x': x, 'y': y}, a DataFrame, or gradbench.data.Data"


def load(
    loader: Mapping[str, Any],
    input: str | Sequence[str] | None = None,
    target: str | None = None,
    missing: str | None = None,
    **keys: Any,
) -> Data:
    """Load what a function of the user's own returns.

    Args:
        loader: node of the config that names the function, and its arguments.
        input: name of the array of inputs, ``None`` for ``x``; or names of a DataFrame's columns, ``None`` for all
            others.
        target: name of the array of targets, ``None`` for ``y``; or of the column to predict.
        missing: as of :func:`gradbench.data.table_files.load`, for a DataFrame.
        keys: those of :class:`Preparation`.

    Returns:
        The arrays and sizes of :func:`gradbench.data.prepare.prepare`; :class:`Data` as it was returned.

    Raises:
        UsageError: if there is no such function, or it raises, or returns anything else.
    """
    how = Preparation(**keys)
    code = NamedCode(loader, "data.loader")
    function = code.find()
    if isinstance(function, type) or not callable(function):
        raise UsageError(f"data.loader must name a function, got {code.target}, a {type(function).__name__}")
    arguments = code.arguments(function, {})
    try:
        with seeded():
            returned = function(**arguments)
    except UsageError:
        raise
    except Exception as error:  # a user's own code may raise anything
        raise code.failed("calling it", error) from error
    source = code.typed
    if isinstance(returned, Data):
        return returned
    if isinstance(returned, pd.DataFrame):
        return from_frame(returned, source, target, input, missing, how)
    if input is not None and not isinstance(input, str):
        raise UsageError(f"data.input must name one array of {source}, got {list(input)}")
    arrays = named_arrays(returned, source)
    return from_arrays(arrays, list(arrays), source, input or "x", target or "y", None, None, how)


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch for a block, so that each process loads the same."""
    torch = sys.modules.get("torch")
    before = random.getstate(), np.random.get_state(), torch.get_rng_state() if torch is not None else None
    random.seed(0)
    np.random.seed(0)
    if torch is not None:
        torch.manual_seed(0)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        if torch is not None:
            torch.set_rng_state(before[2])


def named_arrays(returned: object, source: str) -> dict[str, Array]:
    """Return what a loader returned as arrays by name.

    Raises:
        UsageError: if it is something else.
    """
    if isinstance(returned, Mapping):
        named = {str(name): value for name, value in returned.items()}
    else:
        several = returned if isinstance(returned, tuple) else (returned,)
        if len(several) not in ORDERS:
            raise UsageError(f"{source} returned {len(several)} values, expected {RETURNS}")
        named = dict(zip(ORDERS[len(several)], several, strict=True))
    return {name: to_array(value, f"{source}: {name}") for name, value in named.items()}


def to_array(value: object, name: str) -> Array:
    """Return an array, tensor, column or list as an array; raise ``UsageError`` for anything else."""
    torch = sys.modules.get("torch")  # without it, there are no tensors
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu()
    if isinstance(value, pd.Series) and pd.api.types.is_string_dtype(value.dtype):
        value = value.to_list()
    try:
        array = np.asarray(value)
    except Exception as error:  # an object may raise anything
        raise UsageError(f"{name} is a {type(value).__name__}, expected an array or a tensor") from error
    if array.dtype.hasobject or array.ndim == 0:
        raise UsageError(
            f"{name} is a {type(value).__name__}, which is no array of numbers or texts; the function returns {RETURNS}"
        )
    return array

"""Data sets: one file per kind, each with a loader that returns :class:`Data`.

Loaders take no cell's seed: all cells of a grid train on the same examples, and only their order depends on the cell.
Nothing here imports torch, or knows models and configs.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gradbench.errors import UsageError

Array = NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Data:
    """Training and test examples, the same for every seed.

    Args:
        arrays: name -> array; the part before the slash is the split (``train/x``), axis 0 counts examples.
        sizes: name -> count, from which a model is built (``vocabulary``, ``inputs``, ``outputs``).
        facts: name -> number, which the table of cells shows as it shows metrics (``test/unknown``); no part of the
            fingerprint.
        notes: lines for the user, on what was made of a file.
    """

    arrays: Mapping[str, Array]
    sizes: Mapping[str, int]
    facts: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Raise ``UsageError`` for arrays of Python objects, whose bytes are addresses and have no stable hash."""
        for name, array in self.arrays.items():
            if array.dtype.hasobject:
                raise UsageError(
                    f"data array '{name}' holds Python objects ({array.dtype}), expected numbers; "
                    "convert it in the loader, for example with .astype('float32')"
                )

    def count(self, split: str) -> int:
        """Count the examples of a split; 0 if it has none."""
        return max(
            (len(array) for name, array in self.arrays.items() if name.startswith(f"{split}/")), default=0
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the sizes and of the arrays' names, dtypes, shapes and bytes.

        The same content has the same fingerprint on every machine, little- or big-endian, wherever it came from.
        """
        parts = {name: _little_endian(array) for name, array in sorted(self.arrays.items())}
        header = {
            "arrays": [[name, _described(part.dtype), part.shape] for name, part in parts.items()],
            "sizes": dict(self.sizes),
        }
        # The header fixes how many bytes each array contributes, so no two contents share one byte stream.
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        for part in parts.values():
            digest.update(part.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Description:
    """Data without values: what a model is built from, small enough to be sent to another process.

    Args:
        arrays: name -> type and shape of an array.
        sizes: as of :class:`Data`.
        fingerprint: as of :class:`Data`.
        notes: as of :class:`Data`.
    """

    arrays: Mapping[str, tuple[np.dtype[np.generic], tuple[int, ...]]]
    sizes: Mapping[str, int]
    fingerprint: str
    notes: tuple[str, ...]

    @classmethod
    def of(cls, data: Data) -> "Description":
        """Describe data."""
        arrays = {name: (array.dtype, array.shape) for name, array in data.arrays.items()}
        return cls(arrays, dict(data.sizes), data.fingerprint, tuple(data.notes))

    def blank(self) -> Data:
        """Return data of this description whose values are all zero, and take no memory."""
        arrays = {
            name: np.broadcast_to(np.zeros((), dtype), shape) for name, (dtype, shape) in self.arrays.items()
        }
        return Data(arrays, self.sizes)


def _described(dtype: np.dtype[np.generic]) -> object:
    """Describe a dtype for the fingerprint: its string, or the fields of a structured dtype."""
    return dtype.descr if dtype.names else dtype.str


def _little_endian(array: Array) -> Array:
    """Return an array in little-endian byte order."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False)

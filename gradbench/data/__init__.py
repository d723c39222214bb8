"""Data: named numpy arrays, the sizes a model needs before it is built, and a fingerprint of both.

Every loader in this package returns one :class:`Data` and draws nothing from a cell's seed: all cells of a
grid see the same examples, and only their order is a matter of the cell's own generator.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gradbench.errors import UsageError

Array = NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Data:
    """Examples to train and test on, as they are before any cell's seed has been used.

    arrays: name -> array; the part before the slash is the split (``train/x``), axis 0 counts examples.
    sizes: name -> count; what a model must know before it is built (``vocabulary``, ``inputs``, ``outputs``).
    """

    arrays: Mapping[str, Array]
    sizes: Mapping[str, int]

    def __post_init__(self) -> None:
        """Refuse arrays of Python objects: their bytes are addresses, which no fingerprint can rest on."""
        for name, array in self.arrays.items():
            if array.dtype.hasobject:
                raise UsageError(
                    f"data array '{name}' holds Python objects ({array.dtype}), expected numbers; "
                    "convert it in the loader, for example with .astype('float32')"
                )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over names, dtypes, shapes and bytes of the arrays, and over the sizes.

        Where the data came from (folder, file name, address) is not part of it: the same content has the
        same fingerprint on every machine, little- or big-endian.
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


def _described(dtype: np.dtype[np.generic]) -> object:
    """Return what a dtype's bytes mean; of a record, which ``str`` calls mere bytes, its fields."""
    return dtype.descr if dtype.names else dtype.str


def _little_endian(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)

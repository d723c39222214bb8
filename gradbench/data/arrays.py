"""Arrays of a user's own: those of an ``.npz`` file, or any others by name."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gradbench.data import Array, Data
from gradbench.data.examples import Examples, Preparation
from gradbench.data.files import existing_file, refuse_other_kind
from gradbench.data.prepare import prepare
from gradbench.errors import UsageError, nearest_first


def load(
    path: str,
    input: str = "x",
    target: str = "y",
    test_input: str | None = None,
    test_target: str | None = None,
    **keys: Any,
) -> Data:
    """Load arrays of an ``.npz`` file, whose shapes stay as they are.

    Args:
        path: the file.
        input: name of the array of inputs [N, ...].
        target: name of the array of targets, [N] or [N, ...].
        test_input: name of the array of test inputs; ``None`` for ``input`` with ``_test``, if there is one.
        test_target: name of the array of test targets; ``None`` for ``target`` with ``_test``.
        keys: those of :class:`Preparation`.

    Returns:
        The arrays and sizes of :func:`gradbench.data.prepare.prepare`.
    """
    how = Preparation(**keys)
    file = existing_file(path)
    if not zipfile.is_zipfile(file):
        if file.read_bytes()[:4] == b"PK\x03\x04":
            raise UsageError(f"{path} is damaged: its end is missing; write it again with np.savez")
        refuse_other_kind(file, "an .npz file")
        raise UsageError(f"{path} is no .npz file; write one with np.savez('mine.npz', x=x, y=y)")
    wanted = {input, target, test_input, test_target, f"{input}_test", f"{target}_test"}
    arrays, names = read_npz(file, wanted)
    return from_arrays(arrays, names, str(path), input, target, test_input, test_target, how)


def read_npz(path: Path, wanted: set[str | None]) -> tuple[dict[str, Array], list[str]]:
    """Read some arrays of an ``.npz`` file; return them, and the names of all.

    Raises:
        UsageError: for an array that cannot be read, or holds Python objects, which are never unpickled.
    """
    found: dict[str, Array] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [str(name) for name in file.files]
            for name in names:
                if name in wanted:
                    found[name] = np.asarray(file[name])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "Object arrays" in str(error):
            raise UsageError(
                f"{path}: {name} holds Python objects, which are not read (they could run code); save numbers or "
                f"texts, for example {name}=np.array({name}.tolist())"
            ) from error
        raise UsageError(
            f"cannot read {path} ({str(error).splitlines()[0]}); write it again with np.savez"
        ) from error
    return found, names


def from_arrays(
    arrays: Mapping[str, Array],
    names: list[str],
    source: str,
    input: str,
    target: str,
    test_input: str | None,
    test_target: str | None,
    how: Preparation,
) -> Data:
    """Make a data set of named arrays.

    Args:
        arrays: name -> array.
        names: names of all arrays that there are, for messages.
        source: what they come from, for messages.
        input: as of :func:`load`; so are ``target``, ``test_input`` and ``test_target``.
        target: see there.
        test_input: see there.
        test_target: see there.
        how: the keys that all sources have.
    """

    def array(key: str, name: str) -> Array:
        if name not in arrays:
            others = [one for one in names if one not in (input, target, test_input, test_target)]
            hint = f"name one with data.{key}: {nearest_first(name, others)}" if others else "give one"
            raise UsageError(f"{source} has no array {name}; {hint}")
        return arrays[name]

    learns = how.targets != "none"

    def examples(of: str, x: str, y: str) -> Examples:
        targets = array(f"{of}target", y) if learns else None
        return Examples.of_arrays(array(f"{of}input", x), targets, (f"{source}: {x}", f"{source}: {y}"))

    train = examples("", input, target)
    test_x, test_y = test_input or f"{input}_test", test_target or f"{target}_test"
    has_test = (
        test_input is not None
        or test_x in arrays
        or (learns and (test_target is not None or test_y in arrays))
    )
    test = examples("test_", test_x, test_y) if has_test else None
    return prepare(train, test, how)

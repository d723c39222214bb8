"""Parquet and NumPy files of a results folder: written atomically, verified when read.

Each Parquet part stores its own SHA-256, so that a flipped bit is never taken for a result. The digest is in the
footer's key-value metadata, which other readers ignore; it is computed with ``PLACEHOLDER`` in its place.
"""

import contextlib
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gradbench import FORMAT, __version__
from gradbench.atomic import reason, unreadable, write_atomically
from gradbench.errors import DamagedError, UsageError

DIGEST_KEY = b"gradbench.sha256"
PLACEHOLDER = b"sha256 of this file, taken while this sentence was in its place."
"""Stands in for the digest while the digest is computed; 64 bytes, like the digest. Never change the text."""

MISSING = "it is missing"
"""The reason that a :class:`DamagedError` gives for a file that is not there."""

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]


# ---- writing -----------------------------------------------------------------------------------------------


def write_table(path: Path, table: pa.Table) -> None:
    """Write one part of a table, including its own SHA-256."""
    sealed = table.replace_schema_metadata({**(table.schema.metadata or {}), DIGEST_KEY: PLACEHOLDER})
    sink = pa.BufferOutputStream()
    pq.write_table(sealed, sink, write_page_checksum=True)
    blank = sink.getvalue().to_pybytes()
    write_atomically(path, lambda file: file.write(blank.replace(PLACEHOLDER, sha256_hex(blank))))


def write_arrays(path: Path, named: Mapping[str, np.ndarray]) -> int:
    """Write named numeric arrays to one compressed file (``.npz``), without pickles; return its size in bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **named)
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))
    return len(buffer.getbuffer())


# ---- reading -----------------------------------------------------------------------------------------------


def sha256_hex(content: bytes) -> bytes:
    """Return the SHA-256 of bytes as 64 hex digits."""
    return hashlib.sha256(content).hexdigest().encode()


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read one part of a table; requested columns that it lacks are left out.

    Raises:
        DamagedError: if it differs from what was written, or is gone.
        UsageError: if a newer gradbench wrote it, or it cannot be read.
    """
    with open_verified(path) as file:
        names = file.schema_arrow.names
        table = file.read(columns=[name for name in names if columns is None or name in columns])
        try:
            table.validate(full=True)
        except pa.ArrowException as error:  # for example text that is not Unicode
            raise DamagedError(path, reason(error)) from error
        return table


def read_schema(path: Path) -> pa.Schema:
    """Read the schema of one part of a table; raises as :func:`read_table`."""
    with open_verified(path) as file:
        return file.schema_arrow


@contextlib.contextmanager
def open_verified(path: Path) -> Iterator[pq.ParquetFile]:
    """Open one part of a table after verifying its checksum, column types and format; raises as :func:`read_table`."""
    content = read_content(path)
    try:
        with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
            seal = (file.metadata.metadata or {}).get(DIGEST_KEY)
            if seal is not None and (
                len(seal) != len(PLACEHOLDER) or sha256_hex(content.replace(seal, PLACEHOLDER)) != seal
            ):
                raise DamagedError(path, "its checksum does not fit")
            names = file.schema_arrow.names
            if len(set(names)) < len(names) or not all(map(is_stored_type, file.schema_arrow.types)):
                raise DamagedError(path, "its columns are not numbers and words under different names")
            if "format" in names:
                refuse_newer(path, file.read(columns=["format"])["format"].to_pylist())
            yield file
    except (
        OSError,
        ValueError,
        pa.ArrowException,
    ) as error:  # pyarrow raises an OSError for malformed content
        raise DamagedError(path, reason(error)) from error


def read_content(path: Path) -> bytes:
    """Read a whole file, so that what fails afterwards is a matter of its content.

    Raises:
        DamagedError: if it is gone: another run may have removed it, or a person.
        UsageError: if it cannot be read, which says nothing of its content.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedError(path, MISSING) from error
    except OSError as error:
        raise unreadable(path, error) from error


def is_stored_type(kind: pa.DataType) -> bool:
    """Return whether a column type is one that a run writes: numbers, booleans, strings or null."""
    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    return any(check(kind) for check in (*checks, pa.types.is_string, pa.types.is_large_string))


def refuse_newer(path: Path, formats: Iterable[object]) -> None:
    """Raise a UsageError for a part whose results format is newer than this gradbench."""
    newest = max((value for value in formats if isinstance(value, int | float)), default=FORMAT)
    if newest > FORMAT:
        raise UsageError(
            f"{path} is of results format {newest}, and gradbench {__version__} reads up to {FORMAT}; "
            "use the newer gradbench that wrote it (pip install -U gradbench), or another folder with --results DIR"
        )


def read_arrays(path: Path) -> Arrays:
    """Read the named arrays of one file.

    Raises:
        DamagedError: if it differs from what was written, is gone, or holds anything but numbers.
        UsageError: if it cannot be read.
    """
    content = read_content(path)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:  # numpy and zipfile raise a dozen types for a malformed file
        raise DamagedError(path, reason(error)) from error


def check_arrays(path: Path) -> None:
    """Verify the CRC of every array in a file; three times as fast as reading them.

    Raises:
        DamagedError: if one does not match, or the file is gone.
        UsageError: if the file cannot be read.
    """
    content = read_content(path)
    try:
        with ZipFile(io.BytesIO(content)) as file:
            name = file.testzip()
    except Exception as error:
        raise DamagedError(path, reason(error)) from error
    if name is not None:
        raise DamagedError(path, f"the checksum of {name} does not fit")

"""Parquet and NumPy files of a results folder: written atomically, verified when read.

Each Parquet part stores its own SHA-256, so that a flipped bit is never taken for a result. The digest is in the
footer's key-value metadata, which other readers ignore; it is computed with ``PLACEHOLDER`` in its place.
"""

import contextlib
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gradbench import FORMAT, __version__
from gradbench.atomic import reason, unreadable, write_atomically
from gradbench.errors import MAX_LENGTH, DamagedError, UsageError
from gradbench.storage.sanitize import open_regular

DIGEST_KEY = b"gradbench.sha256"
MAX_FILE = 2**31
"""Bytes of the largest file that is read: a part of a table, or the arrays of a cell."""

QUICK = 2**20
"""Bytes of a file below which it is read by one thread, because starting others takes longer."""

MAX_EXPANSION = 200
"""Bytes in memory per byte of a file, at most: real tables have up to 12, files that are all repetition thousands."""

SMALL = 2**26
"""Bytes in memory that a part of a table, or the arrays of a cell, may have however small their file is."""

CODECS = {"SNAPPY": 22, "UNCOMPRESSED": 1}
"""Compression of a column -> bytes that one byte can stand for; of others a page can hold anything."""

PLACEHOLDER = b"sha256 of this file, taken while this sentence was in its place."
"""Stands in for the digest while the digest is computed; 64 bytes, like the digest. Never change the text."""

MISSING = "it is missing"
"""The reason that a :class:`DamagedError` gives for a file that is not there."""

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]


# ---- writing -----------------------------------------------------------------------------------------------


def write_table(path: Path, table: pa.Table, rows: int | None = None) -> None:
    """Write one part of a table, including its own SHA-256.

    Args:
        path: its file.
        table: its rows.
        rows: number of rows that are read together, at most; by default pyarrow's.
    """
    sealed = table.replace_schema_metadata({**(table.schema.metadata or {}), DIGEST_KEY: PLACEHOLDER})
    sink = pa.BufferOutputStream()
    pq.write_table(sealed, sink, write_page_checksum=True, row_group_size=rows)
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


def read_table(path: Path, columns: list[str] | None = None, *, verify: bool = False) -> pa.Table:
    """Read one part of a table; requested columns that it lacks are left out.

    Args:
        path: its file.
        columns: those to read; all by default.
        verify: read a part without a checksum whole, so that damage in other columns is noticed, too.

    Raises:
        DamagedError: if it differs from what was written, or is gone.
        UsageError: if a newer gradbench wrote it, or it cannot be read.
    """
    with open_verified(path) as (file, content):
        sealed = DIGEST_KEY in (file.metadata.metadata or {})
        table = read_columns(path, file, content, columns if sealed or not verify else None)
        try:
            table.validate(full=True)
        except pa.ArrowException as error:  # for example text that is not Unicode
            raise DamagedError(path, reason(error)) from error
        return table


def read_schema(path: Path) -> pa.Schema:
    """Read the schema of one part of a table; raises as :func:`read_table`."""
    with open_verified(path) as (file, _):
        return file.schema_arrow


@contextlib.contextmanager
def open_verified(path: Path) -> Iterator[tuple[pq.ParquetFile, bytes]]:
    """Open one part of a table after verifying its checksum, column types, size and format.

    Raises as :func:`read_table`.

    Returns:
        The part, and the content of its file.
    """
    content = read_content(path)
    try:
        with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
            seal = (file.metadata.metadata or {}).get(DIGEST_KEY)
            if seal is not None and (
                len(seal) != len(PLACEHOLDER) or sha256_hex(content.replace(seal, PLACEHOLDER)) != seal
            ):
                raise DamagedError(path, "its checksum does not fit")
            schema = file.schema_arrow
            check_claims(path, file.metadata, len(content))
            if len(set(schema.names)) < len(schema) or not all(map(is_stored_type, schema.types)):
                raise DamagedError(path, "its columns are not numbers and words under different names")
            if "format" in schema.names:
                refuse_newer(path, list_formats(path, file, content))
            yield file, content
    # pyarrow raises an OSError for malformed content
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DamagedError(path, reason(error)) from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Tell what failed in reading a file: what cannot be read is not damaged.

    Raises:
        DamagedError: if it is gone: another run may have removed it, or a person.
        UsageError: if it cannot be read, which says nothing of its content.
        ShortageError: if the machine lacks what reading takes.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedError(path, MISSING) from error
    except OSError as error:
        raise unreadable(path, error) from error


def read_content(path: Path) -> bytes:
    """Read a whole file, so that what fails afterwards is a matter of its content.

    Raises:
        DamagedError: if it is no regular file, or larger than any that a run writes.
        Exception: as :func:`reading`.
    """
    with reading(path), open_regular(path, MAX_FILE) as file:
        return file.read()


def check_claims(path: Path, metadata: pq.FileMetaData, size: int) -> None:
    """Raise a DamagedError for a part that says it holds far more than its bytes can, before any of it is read."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    rows = max(metadata.num_rows, sum(group.num_rows for group in groups))
    if 8 * rows * max(metadata.num_columns, 1) > largest_table(size):
        raise DamagedError(path, f"{rows:,} rows are more than its {size:,} bytes can hold")
    if any(len(name) > MAX_LENGTH for name in metadata.schema.names):
        raise DamagedError(path, "a column's name is longer than any that a run writes")
    used = {group.column(index).compression for group in groups for index in range(metadata.num_columns)}
    if not used <= CODECS.keys():
        raise DamagedError(path, f"its compression is {', '.join(sorted(used))}, and a run writes SNAPPY")


def largest_table(size: int, small: int = SMALL) -> int:
    """Return the most bytes in memory, 8 for each value, that files of ``size`` bytes may have; at least ``small``."""
    return max(small, MAX_EXPANSION * size)


def read_columns(path: Path, file: pq.ParquetFile, content: bytes, columns: list[str] | None) -> pa.Table:
    """Read the requested columns of an open part, whose file has this content.

    Raises:
        DamagedError: if they are larger than its bytes can hold: thousands of rows can repeat one long text.
    """
    schema, largest = file.schema_arrow, largest_table(len(content))
    names = [name for name in schema.names if columns is None or name in columns]
    texts = [name for name in names if is_text(schema.field(name).type)]
    if most_text_bytes(file.metadata, texts) > largest and text_bytes(content, texts) > largest:
        raise DamagedError(path, f"its texts are longer than its {len(content):,} bytes can hold")
    return file.read(columns=names, use_threads=len(content) > QUICK)


def list_formats(path: Path, file: pq.ParquetFile, content: bytes) -> list[object]:
    """Return the newest results format of each group of rows, or where that is not stored, of each row."""
    place = file.schema_arrow.names.index("format")
    groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
    stored = [group.column(place).statistics for group in groups]
    if all(one is not None and one.has_min_max for one in stored):
        return [one.max for one in stored]
    formats: list[object] = read_columns(path, file, content, ["format"])["format"].to_pylist()
    return formats


def most_text_bytes(metadata: pq.FileMetaData, texts: Sequence[str]) -> int:
    """Bound the bytes of texts in memory: each row may repeat all that is stored of a column."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    places = [index for index, name in enumerate(metadata.schema.names) if name in texts]
    stored = [(group.num_rows, group.column(place)) for group in groups for place in places]
    return sum(rows * column.total_compressed_size * CODECS[column.compression] for rows, column in stored)


def text_bytes(content: bytes, texts: Sequence[str]) -> int:
    """Count the bytes of texts in memory, reading each distinct one once."""
    with pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts) as file:
        columns = file.read(columns=texts).columns
    chunks = [chunk for column in columns for chunk in column.chunks]
    lengths = [pc.take(pc.binary_length(chunk.dictionary), chunk.indices) for chunk in chunks]
    return sum(pc.sum(length).as_py() or 0 for length in lengths)


def is_stored_type(kind: pa.DataType) -> bool:
    """Return whether a column type is one that a run writes: numbers, booleans, strings or null."""
    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    return is_text(kind) or any(check(kind) for check in checks)


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column type is text."""
    return any(check(kind) for check in (pa.types.is_string, pa.types.is_large_string))


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
    with open_arrays(path) as (file, _), np.load(file, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


@contextlib.contextmanager
def open_arrays(path: Path) -> Iterator[tuple[IO[bytes], ZipFile]]:
    """Open a file of arrays, as a file and as an archive, after checking that they are no larger than it can hold.

    Raises:
        DamagedError: if it is gone, or anything fails in the block: numpy and zipfile raise a dozen types for a
            malformed file.
        UsageError: if it cannot be read.
    """
    content = read_content(path)
    try:
        with ZipFile(io.BytesIO(content)) as archive:
            total = sum(member.file_size for member in archive.infolist())
            if total > largest_table(len(content)):
                raise DamagedError(path, f"its arrays have {total:,} bytes, more than it can hold")
            if any(member.compress_type not in (ZIP_STORED, ZIP_DEFLATED) for member in archive.infolist()):
                raise DamagedError(path, "it is compressed as a run compresses nothing")
            yield io.BytesIO(content), archive
    except DamagedError:
        raise
    except Exception as error:
        raise DamagedError(path, reason(error)) from error


def check_arrays(path: Path) -> None:
    """Verify the CRC of every array in a file; three times as fast as reading them.

    Raises:
        DamagedError: if one does not match, or the file is gone.
        UsageError: if the file cannot be read.
    """
    with open_arrays(path) as (_, archive):
        name = archive.testzip()
    if name is not None:
        raise DamagedError(path, f"the checksum of {name} does not fit")

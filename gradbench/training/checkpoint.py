"""Save a stack in progress: one file, whole or absent, checked before it is used.

A checkpoint is data, never code: it is loaded with ``weights_only``, and only if this machine's user wrote it.
"""

import contextlib
import hashlib
import io
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from gradbench import __version__
from gradbench.atomic import make_shared_folder, set_aside, write_atomically
from gradbench.config.hashing import canonical
from gradbench.errors import DamagedError, StorageError
from gradbench.storage.sanitize import open_regular


class StoppedError(Exception):
    """The stack is saved and trains no further, as was asked."""


class Checkpoint:
    """The checkpoint of one stack.

    The file is one line of JSON (its fingerprint, and the SHA-256 of the rest), then a ``torch.save`` of tensors.

    Args:
        path: the file.
        fingerprint: what must be equal for a checkpoint to be resumed: cells, torch version, type of device.
        seconds: save at most this often.
        stop: returns whether training should be saved and end now.
        warn: called with a line that a person should read: a damaged checkpoint, a disk that takes none.
    """

    def __init__(
        self,
        path: Path,
        fingerprint: Mapping[str, Any],
        seconds: float,
        stop: Callable[[], bool] = lambda: False,
        warn: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.path, self.seconds, self.stop, self.warn = path, seconds, stop, warn
        self.fingerprint = canonical({"gradbench": __version__, **fingerprint})
        self.writable = True
        self.saved = time.monotonic()

    def due(self) -> bool:
        """Return whether it is time to save again. Monotonic: a clock that jumps changes nothing."""
        return self.stop() or time.monotonic() - self.saved >= self.seconds

    def save(self, content: Mapping[str, Any]) -> None:
        """Replace the checkpoint by tensors, numbers and containers of them.

        Where it cannot be written training goes on: that is tried again when it is due, and told once.

        Raises:
            StoppedError: once that is done, where training should end.
        """
        buffer = io.BytesIO()
        torch.save(dict(content), buffer)
        body = buffer.getvalue()
        header = canonical({"fingerprint": self.fingerprint, "sha256": hashlib.sha256(body).hexdigest()})
        try:
            make_shared_folder(self.path.parent)
            write_atomically(self.path, lambda file: file.write(header.encode() + b"\n" + body))
            self.writable = True
        except (OSError, StorageError) as error:
            if self.writable:
                self.warn(
                    f"{error}. Training goes on, unsaved: a kill would cost all since the last checkpoint"
                )
            self.writable = False
        self.saved = time.monotonic()
        if self.stop():
            raise StoppedError

    def exists(self) -> bool:
        """Return whether there is a file."""
        return os.path.lexists(self.path)

    def load(self, device: torch.device, most: float = math.inf) -> dict[str, Any] | None:
        """Load what was saved, with its tensors on the device; ``None`` if there is nothing to resume.

        A file that is damaged, or that another user wrote, is set aside and not believed. One that cannot be read, or
        belongs to other cells, another gradbench or torch, or another kind of device is left to be overwritten.

        Args:
            device: device of the tensors.
            most: bytes that the checkpoint of this stack can have; a larger one is damaged, and is not read.
        """
        try:
            with open_regular(self.path, most) as file:
                owned = os.fstat(file.fileno()).st_uid == os.getuid()
                header, _, body = file.read().partition(b"\n")
        except FileNotFoundError:
            return None
        except DamagedError as error:
            self.refuse(f"is damaged ({error.reason})")
            return None
        except OSError as error:
            self.warn(f"the checkpoint {self.path} cannot be read ({error.strerror}): its stack starts anew")
            return None
        digest = hashlib.sha256(body).hexdigest()
        if not owned:
            self.refuse("was written by another user")
            return None
        if digest.encode() not in header:
            self.refuse("is damaged (its checksum does not fit)")
            return None
        if header != canonical({"fingerprint": self.fingerprint, "sha256": digest}).encode():
            return None
        try:
            with ZipFile(io.BytesIO(body)) as archive:
                if sum(member.file_size for member in archive.infolist()) > most:
                    raise ValueError("its tensors are larger than its stack's")
            content: dict[str, Any] = torch.load(io.BytesIO(body), map_location=device, weights_only=True)
        except Exception:  # whatever torch says of what is no tensor, number or container of them
            self.refuse("holds more than data")
            return None
        return content

    def refuse(self, why: str) -> None:
        """Set the file aside, where that can be, and say so."""
        kept = "not used"
        with contextlib.suppress(StorageError):
            kept = f"kept as {set_aside(self.path).name}"
        self.warn(f"the checkpoint {self.path} {why}: it is {kept}, its stack starts anew")

    def remove(self) -> None:
        """Remove the checkpoint: its stack is finished."""
        with contextlib.suppress(OSError):  # it is absent, or stays: the rows stand, nothing goes on from it
            self.path.unlink()

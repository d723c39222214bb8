"""Where a stack in progress is saved: one file, whole or absent, checked before it is believed.

A checkpoint is data, never code: it is loaded with ``weights_only``, and only if this machine's user wrote it.
"""

import hashlib
import io
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from gradbench.grid import canonical
from gradbench.parts import set_aside, write_atomically


class StoppedError(Exception):
    """The stack is saved and trains no further, as was asked."""


class Checkpoint:
    """The checkpoint of one stack.

    The file is one line of JSON (what it belongs to, and the SHA-256 of the rest), then a ``torch.save`` of tensors.

    Args:
        path: the file.
        belongs: what a checkpoint must agree in to be resumed: cells, torch version, kind of device.
        seconds: save at most this often.
        stop: whether training should be saved and end now.
    """

    def __init__(
        self,
        path: Path,
        belongs: Mapping[str, Any],
        seconds: float,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.path, self.seconds, self.stop = path, seconds, stop
        self.belongs = canonical(dict(belongs))
        self.saved = time.monotonic()

    def due(self) -> bool:
        """Return whether it is time to save again. Monotonic: a clock that jumps changes nothing."""
        return self.stop() or time.monotonic() - self.saved >= self.seconds

    def save(self, content: Mapping[str, Any]) -> None:
        """Replace the checkpoint by tensors, numbers and containers of them.

        Raises:
            StoppedError: once that is done, where training should end.
        """
        buffer = io.BytesIO()
        torch.save(dict(content), buffer)
        body = buffer.getvalue()
        header = canonical({"belongs": self.belongs, "sha256": hashlib.sha256(body).hexdigest()})
        self.path.parent.mkdir(exist_ok=True)
        write_atomically(self.path, lambda file: file.write(header.encode() + b"\n" + body))
        self.saved = time.monotonic()
        if self.stop():
            raise StoppedError

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """Return what was saved, with its tensors on the device; ``None`` where there is nothing to go on from.

        A file that is damaged, or that another user wrote, is set aside and not believed. One that belongs to
        other cells, another torch or another kind of device is left to be overwritten.
        """
        try:
            header, _, body = self.path.read_bytes().partition(b"\n")
            owned = self.path.stat().st_uid == os.getuid()
        except FileNotFoundError:
            return None
        expected = canonical({"belongs": self.belongs, "sha256": hashlib.sha256(body).hexdigest()})
        if owned and header == expected.encode():
            content: dict[str, Any] = torch.load(io.BytesIO(body), map_location=device, weights_only=True)
            return content
        if not owned or hashlib.sha256(body).hexdigest().encode() not in header:
            set_aside(self.path)
        return None

    def remove(self) -> None:
        """Remove the checkpoint: its stack is finished."""
        self.path.unlink(missing_ok=True)

"""A worker process: train one stack after another on one device, and write the results.

Messages to the parent are tuples whose first item names the event.
"""

import contextlib
import ctypes
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradbench import signals
from gradbench.config.hashing import canonical
from gradbench.config.identity import foreign_targets
from gradbench.config.instantiate import load_data
from gradbench.config.sources import imported_sha256
from gradbench.data import Data
from gradbench.errors import ExitError, StorageError, UsageError, exits_as_errors
from gradbench.functional.torch_internals import keep_uninitialized_memory
from gradbench.grid.cell import Cell
from gradbench.launchers import Measurement
from gradbench.launchers.rows import arrays_of, curves_of, failed_rows, finished_rows
from gradbench.local_code import REGISTERED
from gradbench.memory.stack_width import is_too_large
from gradbench.storage.provenance import now
from gradbench.storage.results import Results
from gradbench.storage.schema import part_name
from gradbench.trackers.tracker import make_tracker
from gradbench.training.checkpoint import Checkpoint, StoppedError
from gradbench.training.loop import Listener, train
from gradbench.training.state import State


def serve(pipe: Connection, folder: Path, device_name: str) -> None:
    """Train the received stacks, until ``None`` is received or the parent has ended.

    Receives tuples of cells. Sends ``("progress", step, losses)`` and ``("notify", line)``, then the outcome of the
    stack: see :func:`train_and_store`. Any message that arrives during training means: save the stack and exit.
    Receives measurements, too, and sends ``("measured", why it failed or "")`` after each.

    Args:
        pipe: connection to the parent.
        folder: the results folder.
        device_name: the device that this worker trains on.
    """
    # Ctrl-C reaches the whole process group, but the parent decides what happens
    signals.ignore()
    device = torch.device(device_name)
    configure_process(device)
    serve_stacks(pipe, folder, device)


def serve_in_thread(pipe: Connection, folder: Path, device_name: str) -> None:
    """Serve as :func:`serve` does, in a thread of a process that goes on with its own settings afterwards."""
    device, threads, keeps = torch.device(device_name), torch.get_num_threads(), keep_uninitialized_memory()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns_only = torch.is_deterministic_algorithms_warn_only_enabled()
    configure_process(device)
    try:
        serve_stacks(pipe, folder, device)
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warns_only)
        keep_uninitialized_memory(keeps)


def serve_stacks(pipe: Connection, folder: Path, device: torch.device) -> None:
    """Train the received stacks, and send what comes of each, until there are no more."""
    while (received := receive(pipe)) is not None:
        if isinstance(received, tuple):
            send(pipe, *train_and_store(received, folder, device, pipe))
        else:
            send(pipe, "measured", measure(received, folder, device, pipe.poll))


def train_and_store(
    cells: Sequence[Cell], folder: Path, device: torch.device, pipe: Connection
) -> tuple[str] | tuple[str, str | list[str]]:
    """Train a stack and write its results.

    Returns:
        ``("done", statuses)``: the rows are written, one status per cell;
        ``("failed", reason)``: the rows are written with the traceback;
        ``("too large",)``: the stack is predicted to exceed the device's memory, or did; nothing is kept;
        ``("stopped",)``: the parent asked to stop, and the checkpoint is saved;
        ``("no room", reason)``: the results cannot be written; the stack will be resumed from its checkpoint.
    """
    started, results = now(), Results(folder)

    def warn(line: str) -> None:
        send(pipe, "notify", line)

    checkpoint = checkpoint_of(cells, folder, device, pipe.poll, warn)
    try:
        with exits_as_errors():
            check_code(cells)
            data = load_recent(canonical(cells[0].config["data"]))
            check_unchanged(cells[0], data)
            if len(cells) > 1 and is_too_large(cells, data, device):
                return ("too large",)
            with make_tracker(cells, folder, warn, (StoppedError,)) as tracker:
                listeners: list[Listener] = [Progress(pipe), *([tracker] if tracker else [])]
                outcome = train(cells, data, device, listeners, checkpoint)
        rows = finished_rows(cells, outcome, data, device, started)
        results.write(rows, curves_of(cells, outcome), arrays_of(cells, outcome, data))
        checkpoint.remove()
        return "done", [row["status"] for row in rows]
    except StoppedError:
        return ("stopped",)
    except StorageError as error:
        return "no room", str(error)
    except Exception as error:  # a failed stack becomes rows in the table and never ends the sweep
        if isinstance(error, torch.OutOfMemoryError) and len(cells) > 1:
            checkpoint.remove()
            return ("too large",)
        rows = failed_rows(cells, traceback.format_exc(), device, started)
        with contextlib.suppress(StorageError):  # without a row the cells count as unfinished, which is true
            results.write_failures(rows)
        return "failed", describe_error(error)


def measure(measurement: Measurement, folder: Path, device: torch.device, stop: Callable[[], bool]) -> str:
    """Make a measurement; return why it failed, in a few words, or an empty text."""
    try:
        with exits_as_errors():
            measurement(folder, device, stop)
    except StoppedError:
        pass
    except ExitError as error:
        return f"its code {error}"
    except (StorageError, UsageError) as error:
        return str(error)
    except Exception as error:  # a user's own code, or the memory of the device
        return describe_error(error)
    return ""


def describe_error(error: Exception) -> str:
    """Return an exception's type and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


class Progress:
    """Tells the parent of a stack's progress."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def on_chunk(self, step: int, series: Mapping[str, np.ndarray]) -> None:
        """Send the step and the loss of each cell."""
        send(self.pipe, "progress", step, series["loss"][-1].tolist())

    def on_evaluation(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Send nothing."""

    def on_end(self, statuses: Sequence[str]) -> None:
        """Send nothing: the stack is not stored yet."""


def check_code(cells: Sequence[Cell]) -> None:
    """Import the code of the user's own, and refuse another source than the one that the cells' ids name.

    Code that only this process has is the code that was hashed.

    Raises:
        UsageError: if a source was edited since the cells were planned.
    """
    planned = {
        target: cell.sources[node]
        for cell in cells
        for node, target in foreign_targets(cell.config)
        if node in cell.sources and target not in REGISTERED
    }
    for target, sha256 in planned.items():
        if imported_sha256(target) != sha256:
            raise UsageError(
                f"the source of {target} has changed since the run was planned; type the command again"
            )


def check_unchanged(cell: Cell, data: Data) -> None:
    """Raise ``UsageError`` unless data are those that a cell was planned with, which its id names."""
    if data.fingerprint != cell.data_sha256:
        config = cell.config["data"]
        words = [
            f"data={config['name']}",
            *(f"data.{key}={config[key]}" for key in ("path", "source") if key in config),
        ]
        again = "type the command again"
        if "loader" in config:
            again += ", or seed what the function draws, if it returns other data each time"
        raise UsageError(f"{' '.join(words)} has changed since the run was planned; {again}")


def send(pipe: Connection, *message: Any) -> None:
    """Send a message to the parent; if it has ended, the next receive will report that."""
    with contextlib.suppress(OSError), SENDING:
        pipe.send(message)


SENDING = threading.Lock()
"""Held while a message is sent: a tracker's thread sends too."""


def checkpoint_of(
    cells: Sequence[Cell],
    folder: Path,
    device: torch.device,
    stop: Callable[[], bool],
    warn: Callable[[str], None],
) -> Checkpoint:
    """Return the checkpoint of a stack; one saved by other cells, torch version or device type is not resumed.

    Args:
        cells: cells of the stack.
        folder: the results folder.
        device: device the stack trains on.
        stop: returns whether training should be saved and end now.
        warn: called with a line for the user.
    """
    names = [cell.id for cell in cells]
    fingerprint = {"cells": names, "torch": torch.__version__, "device": device.type}
    fingerprint["state"] = [field.name for field in fields(State)]
    path = folder / "checkpoints" / part_name(names).replace(".parquet", ".pt")
    return Checkpoint(path, fingerprint, float(cells[0].runtime["checkpoint_seconds"]), stop, warn)


def receive(pipe: Connection) -> tuple[Cell, ...] | Measurement | None:
    """Receive the cells of the next stack or a measurement, or ``None`` if there are no more."""
    try:
        received: tuple[Cell, ...] | Measurement | None = pipe.recv()
    except EOFError:  # the parent has ended
        return None
    return received


def configure_process(device: torch.device) -> None:
    """Configure torch for one device: one CPU thread, deterministic algorithms, denormals flushed to zero."""
    torch.set_num_threads(1)
    # saturated networks are full of numbers below 1e-38, on which some processors are ten times slower
    torch.set_flush_denormal(True)
    if sys.platform == "linux":
        keep_freed_memory()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        keep_uninitialized_memory()  # gradbench never reads memory before writing it, so filling it would waste time


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>


def keep_freed_memory() -> None:
    """Make glibc keep freed memory.

    By default it returns large blocks to the system at once, and the page faults of the next step cost time.
    """
    with contextlib.suppress(AttributeError):  # a libc without mallopt
        adjust = ctypes.CDLL(None).mallopt
        adjust(M_MMAP_THRESHOLD, 32 * 2**20)
        adjust(M_TRIM_THRESHOLD, 256 * 2**20)


@lru_cache(maxsize=4)
def load_recent(config: str) -> Data:
    """Load the data of a config, given as JSON of its data group; the last four are cached, to bound memory."""
    return load_data({"data": json.loads(config)})

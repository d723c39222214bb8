"""A worker: trains one stack after another on one device, and writes what it finished.

It speaks to its parent through a pipe, in tuples whose first item says what happened.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from gradbench.config.hashing import canonical
from gradbench.config.instantiate import load_data
from gradbench.data import Data
from gradbench.errors import StorageError
from gradbench.functional.torch_internals import keep_uninitialized_memory
from gradbench.grid.cell import Cell
from gradbench.launchers.rows import arrays_of, curves_of, failed_rows, finished_rows
from gradbench.memory.stack_width import is_too_large
from gradbench.storage.provenance import now
from gradbench.storage.results import Results
from gradbench.storage.schema import part_name
from gradbench.training.checkpoint import Checkpoint, StoppedError
from gradbench.training.loop import train
from gradbench.training.state import State


def serve(pipe: Connection, folder: Path, device_name: str) -> None:
    """Train the stacks that arrive until ``None`` does, or the parent has gone.

    Receives tuples of cells. Sends ``("progress", step, losses)`` and ``("notify", line)``, then what became of the
    stack: see :func:`train_and_store`. Whatever arrives while a stack is trained means: save it and leave.

    Args:
        pipe: to the parent.
        folder: the results folder.
        device_name: the one device that this worker uses.
    """
    # they reach the whole process group; the parent decides what they mean
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    device = torch.device(device_name)
    configure_process(device)
    while (cells := receive_cells(pipe)) is not None:
        send(pipe, *train_and_store(cells, folder, device, pipe))


def train_and_store(
    cells: Sequence[Cell], folder: Path, device: torch.device, pipe: Connection
) -> tuple[str] | tuple[str, str | list[str]]:
    """Train a stack and write what became of it.

    Returns:
        ``("done", statuses)``; ``("failed", reason)``, whose traceback stands in the table; ``("too large",)`` for
        the device's memory, as predicted or as it turned out: nothing is kept; ``("stopped",)``, as the parent
        asked: the stack is saved; ``("no room", reason)`` where its results cannot be written: they are trained anew
        from the checkpoint.
    """
    started, results = now(), Results(folder)
    checkpoint = checkpoint_of(cells, folder, device, pipe.poll, lambda line: send(pipe, "notify", line))
    try:
        data = load_recent(canonical(cells[0].config["data"]))
        if len(cells) > 1 and is_too_large(cells, data, device):
            return ("too large",)
        outcome = train(
            cells, data, device, lambda step, losses: send(pipe, "progress", step, losses), checkpoint
        )
        rows = finished_rows(cells, outcome, device, started)
        results.write(rows, curves_of(cells, outcome), arrays_of(cells, outcome))
        checkpoint.remove()
        return "done", [row["status"] for row in rows]
    except StoppedError:
        return ("stopped",)
    except StorageError as error:
        return "no room", str(error)
    except Exception as error:  # one stack's failure is a row in the table, never the end of the sweep
        if isinstance(error, torch.OutOfMemoryError) and len(cells) > 1:
            checkpoint.remove()
            return ("too large",)
        rows = failed_rows(cells, traceback.format_exc(), device, started)
        with contextlib.suppress(StorageError):  # without a row the cell is unfinished, which it is
            results.write_failures(rows)
        return "failed", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def send(pipe: Connection, *message: Any) -> None:
    """Send a message; where the parent has gone, the end of the pipe says so soon enough."""
    with contextlib.suppress(OSError):
        pipe.send(message)


def checkpoint_of(
    cells: Sequence[Cell],
    folder: Path,
    device: torch.device,
    stop: Callable[[], bool],
    say: Callable[[str], None],
) -> Checkpoint:
    """Return where a stack in progress is saved; one of other cells, torch or kind of device is not gone on from."""
    names = [cell.id for cell in cells]
    fingerprint = {"cells": names, "torch": torch.__version__, "device": device.type}
    fingerprint["state"] = [field.name for field in fields(State)]
    path = folder / "checkpoints" / part_name(names).replace(".parquet", ".pt")
    return Checkpoint(path, fingerprint, float(cells[0].runtime["checkpoint_seconds"]), stop, say)


def receive_cells(pipe: Connection) -> tuple[Cell, ...] | None:
    """Return the next stack's cells, or ``None`` when there will be no more."""
    try:
        cells: tuple[Cell, ...] | None = pipe.recv()
    except EOFError:  # the parent has gone
        return None
    return cells


def configure_process(device: torch.device) -> None:
    """Set this process up for one device: one thread on the CPU, the same bits on every run."""
    torch.set_num_threads(1)
    # a network that saturates is full of numbers below 1e-38, with which some processors take ten times as long
    torch.set_flush_denormal(True)
    if sys.platform == "linux":
        keep_freed_memory()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        keep_uninitialized_memory()  # nothing here reads what it did not write


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>


def keep_freed_memory() -> None:
    """Have glibc keep what is freed: it gives large blocks back at once, and the next step faults them in again."""
    with contextlib.suppress(AttributeError):  # another libc
        adjust = ctypes.CDLL(None).mallopt
        adjust(M_MMAP_THRESHOLD, 32 * 2**20)
        adjust(M_TRIM_THRESHOLD, 256 * 2**20)


@lru_cache(maxsize=4)
def load_recent(config: str) -> Data:
    """Return the data of a config, given as JSON of its data group; loaded once per worker."""
    return load_data({"data": json.loads(config)})

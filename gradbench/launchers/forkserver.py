"""Worker processes: how they start, are spoken to, and die."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from gradbench.launchers.signals import signals_ignored

if TYPE_CHECKING:  # what is heavy is imported while the server imports it too
    from gradbench.grid.cell import Cell

P = ParamSpec("P")
T = TypeVar("T")

USES_FORKSERVER = sys.platform == "linux"
"""Whether workers are forked from a server; where forks are not to be trusted (macOS) each is a new program."""

PRELOADED = ["gradbench.launchers.preload"]
"""What the server that workers are forked from imports."""


@dataclass
class Worker:
    """A process, the pipe to it, and the stack it is at; ``None`` where it is idle."""

    process: BaseProcess
    pipe: Connection
    device: str
    stack: int | None = None

    def send(self, cells: "tuple[Cell, ...] | None") -> None:
        """Send a stack's cells, or ``None``: save what runs, and leave."""
        with contextlib.suppress(OSError):  # it has just died: the end of its pipe will say so
            self.pipe.send(cells)

    def join(self) -> None:
        """Wait for its end."""
        self.process.join()
        self.pipe.close()

    def exit_reason(self) -> str:
        """Return how it ended."""
        return describe_exit(self.process.exitcode)


def warm_up() -> None:
    """Start the server that workers are forked from: it imports for seconds, while this returns at once.

    A plain fork would inherit CUDA contexts and locked mutexes. The server has neither: it imports, and does nothing
    else. Whatever becomes of this process, the server ends with it.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    if USES_FORKSERVER:
        multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
        with signals_ignored():
            forkserver.ensure_running()


class WorkerStarter:
    """Starts workers that ignore Ctrl-C and SIGTERM from their first instant."""

    def __init__(self) -> None:
        self.context: ForkServerContext | SpawnContext = (
            multiprocessing.get_context("forkserver")
            if USES_FORKSERVER
            else multiprocessing.get_context("spawn")
        )
        warm_up()

    def start(self, folder: Path, device: str) -> Worker:
        """Return a new worker, which writes to a results folder and uses one device."""
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=run_worker, args=(theirs, folder, device), daemon=True)
        with contextlib.nullcontext() if USES_FORKSERVER else signals_ignored():
            process.start()
        theirs.close()  # so that a dead worker reads as the end of the pipe
        return Worker(process, ours, device)


def run_worker(pipe: Connection, folder: Path, device: str) -> None:
    """Be a worker: what that takes is imported in its own process."""
    from gradbench.launchers.worker import serve

    serve(pipe, folder, device)


def run_in_forkserver(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function where the workers are forked from: what is imported there this process need not import.

    Where that process is killed, the function is called here.

    Args:
        function: of a module; it, what it is given and what it returns or raises travel.
    """
    if not USES_FORKSERVER:
        return function(*args, **kwargs)
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run_and_send, args=(theirs, function, args, kwargs), daemon=True)
    process.start()
    theirs.close()  # so that its death reads as the end of the pipe
    try:
        returned, outcome = ours.recv()
    except (EOFError, ConnectionError):
        return function(*args, **kwargs)
    finally:
        process.kill()  # it has answered, or was interrupted, and does not hear the signal that would end it
        process.join()
        ours.close()
    if not returned:
        raise outcome
    return outcome  # type: ignore[no-any-return]


def _run_and_send(pipe: Connection, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Send what a function returned, or what it raised; where the parent has gone, nobody hears."""
    try:
        outcome = True, function(*args, **kwargs)
    except Exception as error:
        outcome = False, error
    with contextlib.suppress(OSError):
        pipe.send(outcome)


def describe_exit(exitcode: int | None) -> str:
    """Return how a process ended, as a person says it."""
    if exitcode is None or exitcode >= 0:
        return f"exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    return f"exit code {exitcode}, {name}{': often out of memory' if name == 'SIGKILL' else ''}"

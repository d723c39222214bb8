"""Worker processes: start them from a forkserver, send them stacks, describe how they end."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from gradbench import signals
from gradbench.errors import ExitError, ShortageError, exits_as_errors

if TYPE_CHECKING:  # at run time this import would delay the start of the server
    from gradbench.grid.cell import Cell
    from gradbench.launchers import Measurement

P = ParamSpec("P")
T = TypeVar("T")

USES_FORKSERVER = sys.platform == "linux"
"""Whether workers are forked from a server; on macOS, where forking is unsafe, each worker is spawned."""

KILLED = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
"""Exit codes of a process that was killed from outside; code of the user's own may end it in any other way."""

PRELOADED = ["gradbench.launchers.preload"]
"""Modules that the forkserver imports before it forks workers."""


class Process(Protocol):
    """What runs a worker: a process, or a thread of this one."""

    @property
    def exitcode(self) -> int | None:
        """The exit status, if it has ended as a process does."""

    def join(self) -> None:
        """Wait until it has ended."""

    def kill(self) -> None:
        """End it, if that can be."""


class Starter(Protocol):
    """Starts workers."""

    def start(self, folder: Path, device: str) -> "Worker":
        """Start a worker that writes to a results folder and trains on a device."""


@dataclass
class Worker:
    """A worker.

    Attributes:
        process: what runs it.
        pipe: connection to it.
        device: name of the device that it trains on.
        stack: index of the stack that it trains; ``None`` if it is idle.
    """

    process: Process
    pipe: Connection
    device: str
    stack: int | None = None

    def send(self, what: "tuple[Cell, ...] | Measurement | None") -> None:
        """Send the cells of a stack, a measurement, or ``None`` for: save what runs, and exit."""
        with contextlib.suppress(OSError):  # it has just died, which reading from its pipe will report
            self.pipe.send(what)

    def join(self) -> None:
        """Wait until the process has ended, and close the pipe."""
        self.process.join()
        self.pipe.close()

    def exit_reason(self) -> str:
        """Return how the process ended, in words."""
        return describe_exit(self.process.exitcode)


def warm_up() -> None:
    """Start the server that workers are forked from, and return at once while it imports for seconds.

    A fork of this process would inherit CUDA contexts and locked mutexes. The server has neither, because it only
    imports. It ends with this process, however this process ends.
    """
    if USES_FORKSERVER:
        multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
        resource_tracker.ensure_running()  # it unblocks signals once it runs
        with signals.blocked(), environment_of_workers():
            forkserver.ensure_running()


ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
"""Variables of the processes that are started: one thread each, and an import path without the working folder in front.

Otherwise a file there that is named like a module of Python or torch, such as profile.py, would be imported in place of
it. A forked worker's import path is that of this process.
"""


@contextlib.contextmanager
def environment_of_workers() -> Iterator[None]:
    """Set the variables of ``ENVIRONMENT`` for the processes that are started in the block, and not for this one."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def without_main_module() -> Iterator[None]:
    """Keep processes that are started in the block from running this process's script again.

    They need nothing of it, and a script that trains without asking for its ``__name__`` would start a run in each.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class WorkerStarter:
    """Start workers that ignore Ctrl-C and SIGTERM from their first instant."""

    def __init__(self) -> None:
        self.context: ForkServerContext | SpawnContext = (
            multiprocessing.get_context("forkserver")
            if USES_FORKSERVER
            else multiprocessing.get_context("spawn")
        )
        warm_up()

    def start(self, folder: Path, device: str) -> Worker:
        """Start a worker.

        Args:
            folder: results folder that it writes to.
            device: name of the device that it trains on.

        Raises:
            ShortageError: if the machine has no room for it.
        """
        process, pipe = start_process(self.context, run_worker, folder, device)
        return Worker(process, pipe, device)


def start_process(
    context: ForkServerContext | SpawnContext, function: Callable[..., None], *args: Any
) -> tuple[BaseProcess, Connection]:
    """Start a process that calls a function with a pipe and other arguments; return it and our end of the pipe.

    Raises:
        ShortageError: if the machine has no room for it.
    """
    try:
        ours, theirs = context.Pipe()
        with theirs:  # closed here, reading from a dead process's pipe raises EOFError
            given = function, dict(os.environ), theirs, *args
            process = context.Process(target=call_with_environment, args=given, daemon=True)
            with signals.blocked(), environment_of_workers(), without_main_module():
                process.start()
    except (EOFError, ConnectionError) as error:
        raise ShortageError(
            "cannot start a process (the server that forks them has ended); memory or processes may be too few, "
            "see: ulimit -a"
        ) from error
    except OSError as error:
        raise ShortageError(f"cannot start a process ({error.strerror}); see: ulimit -a") from error
    return process, ours


def call_with_environment(
    function: Callable[..., None], environment: dict[str, str], pipe: Connection, *args: Any
) -> None:
    """Call a function in a process whose variables are the caller's of now, not of when the server was started."""
    os.environ.update(environment | ENVIRONMENT)
    function(pipe, *args)


def run_worker(pipe: Connection, folder: Path, device: str) -> None:
    """Serve as a worker; its heavy imports happen in the worker's own process."""
    from gradbench.launchers.worker import serve

    serve(pipe, folder, device)


def call_here(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in this process."""
    return function(*args, **kwargs)


def run_in_forkserver(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a process forked from the server, which has imported torch so that this one need not.

    If that process is killed from outside, the function is called in this one.

    Args:
        function: a module-level function; it, its arguments and its result or exception are pickled.
        args: positional arguments of the function.
        kwargs: keyword arguments of the function.

    Raises:
        ShortageError: if the machine has no room for a process.
        ExitError: if the process has ended by itself, or crashed.
    """
    if not USES_FORKSERVER:
        return function(*args, **kwargs)
    context = multiprocessing.get_context("forkserver")
    process, ours = start_process(context, _run_and_send, function, args, kwargs)
    try:
        returned, outcome = ours.recv()
    except (EOFError, ConnectionError):
        process.join()
        if process.exitcode not in KILLED:
            raise ExitError(f"ended its process ({describe_exit(process.exitcode)})") from None
        return function(*args, **kwargs)
    finally:
        process.kill()  # it has sent its result or was interrupted, and ignores SIGINT and SIGTERM
        process.join()
        ours.close()
    if not returned:
        raise outcome
    return outcome  # type: ignore[no-any-return]


def _run_and_send(pipe: Connection, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Call a function and send ``(True, result)`` or ``(False, exception)``; a closed pipe is ignored."""
    signals.ignore()  # Ctrl-C reaches the whole process group, but the parent decides what happens
    try:
        with exits_as_errors():
            outcome = True, function(*args, **kwargs)
    except Exception as error:
        outcome = False, error
    with contextlib.suppress(OSError):
        pipe.send(outcome)


def describe_exit(exitcode: int | None) -> str:
    """Describe an exit code in words, for example ``exit code -9, SIGKILL: often out of memory``."""
    if exitcode is None or exitcode >= 0:
        return f"exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    return f"exit code {exitcode}, {name}{': often out of memory' if name == 'SIGKILL' else ''}"

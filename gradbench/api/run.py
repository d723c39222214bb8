"""Run a grid of cells: what the command line and Python have in common, and ``gradbench.run``."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradbench.errors import UsageError
from gradbench.launchers import forkserver

if TYPE_CHECKING:  # imported once the server is started, which takes longer
    from contextlib import AbstractContextManager

    from gradbench.api.progress import QuietDisplay
    from gradbench.api.results import Results
    from gradbench.launchers import Ending
    from gradbench.sweep.plan import Plan

PARALLEL = "launcher.parallel"
"""Key that ``--jobs`` is short for."""


def run(
    *words: str,
    results: str | Path | None = None,
    config_dir: str | Path | None = None,
    jobs: int | None = None,
    fail_fast: bool = False,
    quiet: bool = False,
    cost: bool = True,
    shard: str | None = None,
    **keys: Any,
) -> "Results":
    """Train every cell of a grid that is not finished yet, and return the results.

        gradbench.run("quick", "seed=0,1")
        gradbench.run(model="lstm", regularizer=["none", "clip_norm"], regularizer__threshold=[0.1, 1], seed=range(5))
        gradbench.run(model=Net, data=(x, y), regularizer=["none", "clip_norm"], seed=range(5))

    The same call again trains only what is not finished. Cells that fail are printed, and have the status ``failed``.
    A class or function that no other process can import, since a notebook, a script or a function defines it, trains
    in this process, one stack after another; its source is part of the cells' ids.

    Args:
        words: those of the command line: an experiment, and overrides.
        results: the results folder; by default one in ``results/``, named after experiment and overrides.
        config_dir: your own configs.
        jobs: worker processes, or tasks at a time (``launcher.parallel``); by default one per CPU core, or per GPU.
        fail_fast: stop at the first failure; what runs is saved.
        quiet: print failures only.
        cost: at the end, time what a step of each treatment costs: a few seconds.
        shard: train only a share of the stacks, such as ``"3/8"``; other machines train the others.
        keys: key of the config -> value, or values to sweep in a list, range or array; ``__`` stands for the dot.
            ``model`` takes a subclass of ``torch.nn.Module`` too, or a function that returns one; ``data`` takes arrays
            or tensors, as (x, y), (x, y, x_test, y_test) or {"x": x, "y": y}, a DataFrame, whose target is
            ``data__target``, or a ``gradbench.Data``.

    Raises:
        UsageError: for a mistake in the arguments, in one line.
        StorageError: if the results folder cannot be written.
        KeyboardInterrupt: after Ctrl-C, when what runs is saved; the same call goes on from there.
    """
    forkserver.warm_up()
    from gradbench.api.progress import display_for, notebook_or_terminal
    from gradbench.api.results import Results, to_path
    from gradbench.api.words import check_words, to_words

    check_words(words)
    if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
        raise UsageError(f"jobs must be a whole number >= 1, got {jobs!r}")
    for name, value in (("fail_fast", fail_fast), ("quiet", quiet), ("cost", cost)):
        if not isinstance(value, bool):
            raise UsageError(f"{name} must be True or False, got {value!r}")
    forget()
    given = to_words(keys)
    folder = to_path("results", results) if results is not None else None
    own = to_path("config_dir", config_dir) if config_dir is not None else None
    console = notebook_or_terminal()
    typed = [*words, *given.words]
    more = [] if jobs is None else [f"{PARALLEL}={jobs}"]
    call = forkserver.call_here if given.local else forkserver.run_in_forkserver
    plan = plan_grid([*typed, *more], folder, own, call, shard)
    trained = train(
        plan,
        command_of(typed, {"--config-dir": own, "--results": folder}),
        lambda stacks: display_for(stacks, console, quiet=quiet),
        (lambda line: None)
        if quiet
        else lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
        fail_fast=fail_fast,
        notes=given.notes,
        in_process=bool(given.local),
        cost=cost,
    )
    if not trained.complete:
        raise KeyboardInterrupt
    return Results(trained.plan.folder)


REMEMBERED = {
    "gradbench.config.instantiate": ("load_once",),
    "gradbench.config.sources": ("file_sha256", "source_sha256"),
    "gradbench.launchers.worker": ("load_recent",),
    "gradbench.training.weights": ("read_weights",),
}
"""Module -> functions that remember what they returned."""


def forget() -> None:
    """Drop what this process remembers of files and of code, which may have changed since the last run."""
    for module, functions in REMEMBERED.items():
        for name in functions if module in sys.modules else ():
            getattr(sys.modules[module], name).cache_clear()
    for module, name in (("gradbench.tracing.cache", "TRACE_CACHE"), ("gradbench.training.trial", "TRIED")):
        if module in sys.modules:
            getattr(sys.modules[module], name).clear()


def split_words(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split words into an experiment, or ``None``, and overrides; without any, it is ``quick``.

    Raises:
        UsageError: if there is more than one experiment.
    """
    names = [word for word in words if "=" not in word and not word.startswith("~")]
    overrides = [word for word in words if word not in names]
    if len(names) > 1:
        raise UsageError(f"one experiment at a time, got {', '.join(names)}; overrides look like key=value")
    return names[0] if names else None if overrides else "quick", overrides


def plan_grid(
    words: Sequence[str],
    results: Path | None,
    config_dir: Path | None,
    call: Callable[..., Any] = forkserver.call_here,
    shard: str | None = None,
) -> "Plan":
    """Plan a grid; see :func:`gradbench.sweep.plan.make_plan`.

    Args:
        words: an experiment, and overrides.
        results: the results folder.
        config_dir: the user's own configs.
        call: calls a function that needs torch.
        shard: the share of the stacks to train, as it is typed.

    Raises:
        UsageError: for a mistake in the words.
    """
    from gradbench.sweep.plan import make_plan
    from gradbench.sweep.shards import parse_shard

    share = None if shard is None else parse_shard(shard)
    return make_plan(*split_words(words), results, config_dir, call, share)


def command_of(words: Sequence[str], options: Mapping[str, Path | None]) -> str:
    """Return the command line of a run."""
    given = [text for option, value in options.items() if value for text in (option, str(value))]
    return shlex.join(["gradbench", "run", *words, *given])


@dataclass(frozen=True)
class Trained:
    """What came of training a plan.

    Attributes:
        plan: the plan, with the statuses from before.
        statuses: status -> number of cells that were trained.
        ending: how the launcher ended.
    """

    plan: "Plan"
    statuses: dict[str, int]
    ending: "Ending"

    @property
    def complete(self) -> bool:
        """Whether everything was trained, or failed."""
        return self.ending.value == "complete"


def train(
    plan: "Plan",
    command: str,
    display: "Callable[[Sequence[Any]], AbstractContextManager[QuietDisplay]]",
    note: Callable[[str], None],
    *,
    fail_fast: bool = False,
    on_idle_core: Callable[[], None] | None = None,
    notes: Sequence[str] = (),
    in_process: bool = False,
    cost: bool = True,
    detach: bool = False,
) -> Trained:
    """Repair the results folder, train the cells of a plan that are not finished, and time their steps.

    Args:
        plan: the plan.
        command: command line that is recorded in the folder.
        display: makes the display of the progress of some stacks.
        note: called with each line for the user before training starts.
        fail_fast: stop at the first failure.
        on_idle_core: called at most once, when a core becomes idle.
        notes: lines for the user before those of the folder.
        in_process: train in this process, which alone has the code.
        cost: time what a step costs, where the folder does not have it.
        detach: leave once everything is submitted.
    """
    from gradbench.profiling.after_sweep import list_measurements
    from gradbench.storage.sanitize import escape_controls
    from gradbench.sweep.execute import execute, prepare_folder

    plan, found = prepare_folder(plan)
    for line in (*notes, *found):
        note(escape_controls(line))
    with display(plan.todo()) as watcher:
        ending = execute(
            *(plan, command, watcher),
            fail_fast=fail_fast,
            on_idle_core=on_idle_core,
            in_process=in_process,
            # several shards would time the same, and disturb each other where they share a machine
            measurements=list_measurements(plan) if cost and not plan.shard else (),
            detach=detach,
        )
    return Trained(plan, dict(watcher.statuses), ending)

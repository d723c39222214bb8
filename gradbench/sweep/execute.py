"""Execute a plan: repair the results folder, train the unfinished cells, unify the tables."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gradbench import __version__
from gradbench.errors import StorageError, UsageError
from gradbench.storage import cleanup, repair
from gradbench.storage.grids import commands_by_cells
from gradbench.storage.locks import Reservations
from gradbench.storage.plans import read_stacks, write_plan
from gradbench.storage.results import FINISHED, Results

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from gradbench.launchers import Cells, Ending, Measurement, Watcher
from gradbench.sweep.estimate import expected_seconds
from gradbench.sweep.plan import Plan, expected_cost


def prepare_folder(plan: Plan) -> tuple[Plan, list[str]]:
    """Mend what the plan's cells have lost in its results folder, and collect warnings.

    Returns:
        The plan with updated statuses, and lines to show to the user before training starts.

    Raises:
        StorageError: if the folder cannot be written.
        UsageError: if it cannot be read.
    """
    from gradbench.storage.provenance import WARNED_OF, provenance_warnings

    results, lines = Results(plan.folder), []
    cells = {cell.id for cell in plan.cells}
    if damages := repair.find_damage(plan.folder):
        try:
            with Reservations(plan.folder) as reservations, reservations.exclusive():
                lines = repair.mend(plan.folder, repair.find_damage(plan.folder), cells)
        except (StorageError, UsageError):
            if any(damage.cells & cells for damage in damages):
                raise
            grids = commands_by_cells(plan.folder)
            lines = [repair.describe_damage(plan.folder, one, cells, "it stays", grids) for one in damages]
        plan = replace(plan, statuses=results.statuses())
    stored = results.cells(WARNED_OF)
    return plan, lines + plan.notes + provenance_warnings(stored, plan.cells, plan.devices[0])


def execute(
    plan: Plan,
    command: str,
    watcher: "Watcher",
    *,
    fail_fast: bool,
    on_idle_core: Callable[[], None] | None = None,
    in_process: bool = False,
    measurements: "Sequence[Measurement]" = (),
    detach: bool = False,
) -> "Ending":
    """Train the unfinished cells of a plan.

    Args:
        plan: the plan of a sweep.
        command: command line that is recorded in ``experiment.yaml``.
        watcher: receives the events.
        fail_fast: save running stacks and stop at the first failure.
        on_idle_core: called at most once, when a core becomes idle because no stack is waiting.
        in_process: train in this process, which alone has the code.
        measurements: made when everything is trained.
        detach: leave once everything is submitted, where a launcher submits.

    Raises:
        UsageError: if the results folder cannot be used.
    """
    from gradbench.launchers import Ending, Work

    results, todo, ending = Results(plan.folder), plan.todo(), Ending.COMPLETE
    if todo:
        plan.launcher.check(in_process=in_process, detach=detach)
    grid = {
        "experiment": plan.experiment.name,
        "question": plan.experiment.question,
        "command": command,
        "gradbench": __version__,
        "plan": plan.id,
        "spec": dict(plan.experiment.source),
        "cells": [cell.id for cell in plan.cells],
    }
    # a finished sweep needs nothing written: its folder may be read-only
    with contextlib.suppress(*(() if todo else (StorageError, UsageError))):
        results.make_folder()
        with Reservations(plan.folder) as reservations:
            with reservations.exclusive():
                results.create(grid)
                write_plan(plan.folder, plan.id, plan.stacks)
            cleanup.remove_stale_files(plan.folder)
            cleanup.remove_stale_checkpoints(plan.folder, plan.statuses)
            if todo or measurements:
                work = Work(
                    stacks=todo,
                    numbers=[plan.numbers[cells[0].id] for cells in todo],
                    costs=[expected_cost(cells) for cells in todo],
                    expect_seconds=partial(expected_seconds, plan),
                    plan=plan.id,
                    folder=plan.folder,
                    devices=plan.devices,
                    fail_fast=fail_fast,
                    on_idle_core=on_idle_core,
                    in_process=in_process,
                    measurements=measurements,
                )
                ending = plan.launcher.run(work, watcher, reservations, detach=detach)
            if ending is not Ending.DETACHED:
                with reservations.exclusive():
                    repair.remove_stale_curves(plan.folder)
                    results.unify_schemas()
                cleanup.remove_stale_files(plan.folder)
                cleanup.remove_stale_checkpoints(plan.folder, results.statuses())
    return ending


def execute_task(
    folder: Path,
    plan: str,
    numbers: Sequence[int],
    kind: str,
    workers: int,
    display: "Callable[[Sequence[Cells]], AbstractContextManager[Watcher]]",
) -> bool:
    """Train some stacks of a plan that is stored in a results folder, those cells excepted that are finished.

    Args:
        folder: the results folder.
        plan: id of the plan.
        numbers: numbers of the stacks.
        kind: type of device to train on; every one of it that this process sees has a worker.
        workers: number of workers on CPU cores.
        display: makes the display of the progress of some stacks.

    Returns:
        ``False`` if it was interrupted; what was trained is saved.

    Raises:
        DamagedError: if the folder has no such plan or stack.
        UsageError: if the folder cannot be used, or there is no such device.
    """
    from gradbench.launchers import Ending, Work
    from gradbench.launchers.forkserver import run_in_forkserver
    from gradbench.launchers.local import Local

    Results(folder).check()
    stacks, statuses = read_stacks(folder, plan, numbers), Results(folder).statuses()
    left = {
        number: cells
        for number, stack in stacks.items()
        if (cells := [cell for cell in stack.cells if statuses.get(cell.id) not in FINISHED])
    }
    order = sorted(left, key=lambda number: -expected_cost(left[number]))
    devices = run_in_forkserver(list_devices, kind)
    with Reservations(folder) as reservations, display([left[number] for number in order]) as watcher:
        work = Work(
            stacks=[left[number] for number in order],
            numbers=order,
            costs=[expected_cost(left[number]) for number in order],
            expect_seconds=lambda: None,
            plan=plan,
            folder=folder,
            devices=devices,
        )
        launcher = Local(workers if kind == "cpu" else None)
        return not left or launcher.run(work, watcher, reservations, detach=False) is Ending.COMPLETE


def list_devices(kind: str) -> list[str]:
    """Return the names of this machine's devices of a kind; the part of a task that needs torch."""
    from gradbench.functional.devices import resolve

    return list(map(str, resolve(kind)))

"""Execute a plan: repair the results folder, train the unfinished cells, unify the tables."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gradbench import __version__
from gradbench.errors import StorageError, UsageError
from gradbench.storage import cleanup, repair
from gradbench.storage.grids import commands_by_cells
from gradbench.storage.locks import Reservations
from gradbench.storage.plans import write_plan
from gradbench.storage.results import Results

if TYPE_CHECKING:
    from gradbench.launchers import Measurement, Watcher
from gradbench.sweep.plan import Plan


def prepare_folder(plan: Plan) -> tuple[Plan, list[str]]:
    """Mend what the plan's cells have lost in its results folder, and collect warnings.

    Returns:
        The plan with updated statuses, and lines to show to the user before training starts.

    Raises:
        StorageError: if the folder cannot be written.
        UsageError: if it cannot be read.
    """
    from gradbench.storage.provenance import provenance_warnings

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
    return plan, lines + plan.notes + provenance_warnings(results.cells(), plan.cells, plan.devices[0])


def execute(
    plan: Plan,
    command: str,
    watcher: "Watcher",
    jobs: int | None,
    *,
    fail_fast: bool,
    on_idle_core: Callable[[], None] | None = None,
    in_process: bool = False,
    measurements: "Sequence[Measurement]" = (),
) -> bool:
    """Train the unfinished cells of a plan.

    Args:
        plan: the plan of a sweep.
        command: command line that is recorded in ``experiment.yaml``.
        watcher: receives the events.
        jobs: number of workers; ``None`` for one per CPU core, or one per GPU.
        fail_fast: save running stacks and stop at the first failure.
        on_idle_core: called at most once, when a core becomes idle because no stack is waiting.
        in_process: train in this process, which alone has the code.
        measurements: made when everything is trained.

    Returns:
        ``False`` if the sweep was interrupted.

    Raises:
        UsageError: if the results folder cannot be used.
    """
    from gradbench.launchers import local

    results, todo, complete = Results(plan.folder), plan.todo(), True
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
                write_plan(plan.folder, plan.id, plan.stacks)
                results.create(grid)
            cleanup.remove_stale_files(plan.folder)
            cleanup.remove_stale_checkpoints(plan.folder, plan.statuses)
            if todo or measurements:
                complete = local.run(
                    *(todo, plan.folder, plan.devices, jobs, watcher, reservations),
                    fail_fast=fail_fast,
                    on_idle_core=on_idle_core,
                    in_process=in_process,
                    measurements=measurements,
                )
            with reservations.exclusive():
                repair.remove_stale_curves(plan.folder)
                results.unify_schemas()
            cleanup.remove_stale_checkpoints(plan.folder, results.statuses())
    return complete

"""Execute a plan: repair the results folder, train the unfinished cells, unify the tables."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from gradbench import __version__
from gradbench.storage import cleanup
from gradbench.storage.locks import Reservations
from gradbench.storage.results import Results

if TYPE_CHECKING:
    from gradbench.launchers import Watcher
from gradbench.sweep.plan import Plan


def prepare_folder(plan: Plan) -> tuple[Plan, list[str]]:
    """Quarantine damaged files of the plan's results folder, and collect warnings.

    Returns:
        The plan with updated statuses, and lines to show to the user before training starts.

    Raises:
        StorageError: if the folder cannot be written.
    """
    from gradbench.storage.provenance import provenance_warnings

    results, lines = Results(plan.folder), []
    if results.damaged_files():
        with Reservations(plan.folder) as reservations, reservations.exclusive():
            lines = results.quarantine_damaged()
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
) -> bool:
    """Train the unfinished cells of a plan.

    Args:
        plan: the plan of a sweep.
        command: command line that is recorded in ``experiment.yaml``.
        watcher: receives the events.
        jobs: number of workers; ``None`` for one per CPU core, or one per GPU.
        fail_fast: save running stacks and stop at the first failure.
        on_idle_core: called at most once, when a core becomes idle because no stack is waiting.

    Returns:
        ``False`` if the sweep was interrupted.

    Raises:
        UsageError: if the results folder cannot be used.
    """
    from gradbench.launchers import local

    results = Results(plan.folder)
    results.create(
        {
            "experiment": plan.experiment.name,
            "question": plan.experiment.question,
            "command": command,
            "gradbench": __version__,
            "spec": dict(plan.experiment.source),
            "cells": [cell.id for cell in plan.cells],
        }
    )
    todo, complete = plan.todo(), True
    with Reservations(plan.folder) as reservations:
        if reservations.alone:
            cleanup.remove_stale_files(plan.folder)
        if todo:
            complete = local.run(
                *(todo, plan.folder, plan.devices, jobs, watcher, reservations),
                fail_fast=fail_fast,
                on_idle_core=on_idle_core,
            )
        with reservations.exclusive():
            results.unify_schemas()
    return complete

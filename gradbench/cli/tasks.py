"""The commands about a run that trains elsewhere: ``status``, ``cancel``, and what a cluster's task calls, ``task``."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from gradbench.cli.completion import complete_folders
from gradbench.cli.console import err, out, print_line, print_note
from gradbench.signals import INTERRUPTED

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="RESULTS", help="A results folder.", autocompletion=complete_folders, show_default=False
    ),
]


def status(folder: Folder) -> None:
    """Show what a results folder was asked for, what is finished, and what trains or waits in a cluster's queue.

    [bold]Examples[/]

    [cyan]gradbench status results/quick[/]
    """
    from gradbench.api.status import MAX_FAILURES, read_status

    found = read_status(folder)
    table = Table(title=f"{folder}", title_justify="left")
    for column in ("asked for", "cells", *found.statuses):
        table.add_column(column, overflow="fold")
    for grid in found.grids:
        table.add_row(
            escape(grid.command), str(grid.cells), *(str(grid.counts[name]) for name in found.statuses)
        )
    out.print(table)
    if found.submissions:
        table = Table("job", "submitted", "tasks", "in the queue", title="Tasks", title_justify="left")
        for one in found.submissions:
            table.add_row(str(one.job or "unknown"), one.submitted, str(one.tasks), escape(one.queue))
        out.print(table)
    for line in found.notes:
        print_note(line)
    for failure in found.failures[:MAX_FAILURES]:
        print_line(f"failed: {failure.cell}: {failure.reason}")
    if found.failures:
        more = len(found.failures) - MAX_FAILURES
        rest = f" (and {more} more)" if more > 0 else ""
        print_line(
            f"what a failed cell printed{rest}: gradbench show {found.failures[0].cell} --results {folder}"
        )
    for line in found.next_commands:
        print_line(line)


def cancel(folder: Folder) -> None:
    """Cancel the tasks that train or wait for a results folder, and nobody else's; what trains is saved.

    [bold]Examples[/]

    [cyan]gradbench cancel results/quick[/]
    """
    from gradbench.api.status import cancel_tasks

    states = Counter(task.state.lower() for task in cancel_tasks(folder))
    if not states:
        print_line(f"{folder} has no tasks in a queue")
        return
    said = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    print_line(
        f"cancelled tasks: {said}; what is finished stays, and the command of the run goes on from there"
    )


def task(
    folder: Path,
    plan: str,
    stacks: Annotated[str, typer.Option("--stacks")],
    kind: Annotated[str, typer.Option("--kind")] = "cpu",
    workers: Annotated[int, typer.Option("--workers", min=1)] = 1,
) -> None:
    """Train some stacks of a plan: what the task of a cluster calls."""
    from gradbench import signals
    from gradbench.api.progress import LineDisplay
    from gradbench.launchers import forkserver
    from gradbench.sweep.execute import execute_task

    signals.hear_once()
    forkserver.warm_up()
    numbers = [int(number) for number in stacks.split(",")]
    if not execute_task(folder, plan, numbers, kind, workers, lambda cells: LineDisplay(cells, err)):
        raise typer.Exit(INTERRUPTED)

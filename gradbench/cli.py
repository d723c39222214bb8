"""The command line: parses, calls, prints."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gradbench import __version__
from gradbench.errors import UsageError

app = typer.Typer(
    name="gradbench",
    help="Clip the gradients, penalise them, or leave them alone, and how strongly? Train a grid, read an answer.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console()
err = Console(stderr=True)

ConfigDir = Annotated[
    Path | None,
    typer.Option("--config-dir", help="Your own configs: a folder with model/, regularizer/, … and experiments/."),
]


def complete_words(incomplete: str) -> list[str]:
    """Complete experiments, group names and their options."""
    from gradbench.config import Configs

    configs = Configs()
    words = list(configs.experiments)
    for group, options in configs.groups.items():
        before, _, last = incomplete.rpartition(",")
        prefix = f"{before}," if before.startswith(f"{group}=") else f"{group}="
        words += [prefix + option for option in options] if incomplete.startswith(group) else [f"{group}="]
    return [word for word in words if word.startswith(incomplete)]


def complete_folders(incomplete: str) -> list[str]:
    """Complete results folders."""
    return [str(path.parent) for path in Path("results").glob("*/cells") if str(path).startswith(incomplete)]


def complete_kinds(incomplete: str) -> list[str]:
    """Complete what ``info`` can list."""
    return [kind for kind in ("models", "regularizers", "data", "optimizers", "experiments") if kind.startswith(incomplete)]


def show_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        out.print(f"gradbench {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Clip the gradients, penalise them, or leave them alone, and how strongly? Train a grid, read an answer."""


@app.command()
def run(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[EXPERIMENT] [OVERRIDE]…",
            help="An experiment's name (or a YAML file), and overrides in Hydra's grammar.",
            autocompletion=complete_words,
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and train nothing.")] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Worker processes. Default: one per core, or per GPU.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option("--results", help="Results folder. Default: results/ and the experiment's name.")
    ] = None,
    config_dir: ConfigDir = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Start nothing further after a failure.")] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write tables only.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print failures only.")] = False,
) -> None:
    """Train every cell of a grid that is not finished yet, then write the report.

    [bold]Examples[/]

    The default experiment:
    [cyan]gradbench run quick[/]

    One model, three thresholds:
    [cyan]gradbench run model=lstm regularizer=clip_norm regularizer.threshold=0.1,1,10[/]

    Clipping at three thresholds and a penalty at two lambdas, five seeds each: 25 cells.
    [cyan]gradbench run model=lstm regularizer=clip_norm,gp regularizer.threshold=0.1,1,10 regularizer.lambda=1,10 'seed=range(5)'[/]

    Part of an experiment, with another budget:
    [cyan]gradbench run quick model=mlp steps=1000[/]

    What would be trained, and for how long:
    [cyan]gradbench run quick --dry-run[/]

    A key that one regularizer lacks applies to the cells that have it. The same command again trains only what is
    not finished. Exit status: 0 all cells completed or diverged, 1 some failed, 2 usage, 130 interrupted.
    """
    from gradbench import sweep
    from gradbench.progress import watch

    names = [word for word in words or [] if "=" not in word and not word.startswith("~")]
    overrides = [word for word in words or [] if word not in names]
    if len(names) > 1:
        raise UsageError(f"one experiment at a time, got {', '.join(names)}; overrides look like key=value")
    plan = sweep.make_plan(names[0] if names else None if overrides else "quick", overrides, results, config_dir)
    if dry_run:
        print_plan(plan, jobs)
        return
    sweep.validate(plan)
    todo = plan.todo()
    command = shlex.join(["gradbench", "run", *(words or [])])
    with watch(todo, err, quiet) as watcher:
        sweep.execute(plan, command, watcher, jobs, fail_fast)
    if not quiet:
        print_outcome(plan, dict(watcher.statuses))
    if not no_report:
        write_report(plan.folder, quiet)
    if watcher.statuses["failed"]:
        raise typer.Exit(1)


def print_plan(plan: "sweep.Plan", jobs: int | None) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Print what a sweep would train."""
    from gradbench import sweep
    from gradbench.launchers.local import jobs_for
    from gradbench.progress import title

    counts, todo = plan.counts(), plan.todo()
    table = Table("stack", "cells to train", "steps", title=f"{plan.experiment.name}: {len(plan.cells)} cells", title_justify="left")
    for cells in todo:
        table.add_row(escape(title(cells)), str(len(cells)), str(cells[0].config["steps"]))
    out.print(table)
    done = counts["completed"] + counts["diverged"]
    workers = jobs_for(plan.devices, len(todo), jobs)
    seconds = sweep.expected_seconds(plan)
    expected = "unknown: nothing like these cells has been trained here yet" if seconds is None else duration(seconds / workers)
    out.print(
        f"{done} cells done, {len(plan.cells) - done} to run ({counts['failed']} of them failed before), "
        f"{len(todo)} of {len(plan.stacks)} stacks, {workers} workers on {plan.devices[0].type}",
        f"expected time: {expected}",
        f"results: {plan.folder}",
        sep="\n",
        highlight=False,
        markup=False,
    )


def duration(seconds: float) -> str:
    """Return a time span as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def print_outcome(plan: "sweep.Plan", trained: dict[str, int]) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Print how many cells ended how."""
    before = len(plan.cells) - sum(trained.values())
    parts = [f"{count} {status}" for status, count in sorted(trained.items())]
    if before:
        parts.append(f"{before} were finished before")
    out.print(f"{len(plan.cells)} cells: {', '.join(parts)} · tables in {plan.folder}", highlight=False, markup=False)


def write_report(folder: Path, quiet: bool = False) -> None:
    """Write the report of a results folder, print the answers and where the page is."""
    from gradbench import report

    page = report.build(folder)
    if quiet:
        return
    table = Table("model", "answer", "metric", "evidence", title="Answer", title_justify="left")
    for answer in report.answers(folder):
        table.add_row(*(escape(text) for text in (answer.model, answer.treatment, answer.value, answer.sentence)))
    out.print(table)
    out.print(f"report: {page}", highlight=False, markup=False, soft_wrap=True)


@app.command("report")
def report_command(
    folder: Annotated[
        Path,
        typer.Argument(metavar="[RESULTS]", help="A results folder.", autocompletion=complete_folders),
    ] = Path("results/quick"),
) -> None:
    """Rebuild every table, figure and page from the stored tables alone.

    [bold]Examples[/]

    [cyan]gradbench report[/]

    [cyan]gradbench report results/lstm-sweep[/]
    """
    write_report(folder)


@app.command()
def info(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[models|regularizers|data|optimizers|experiments]",
            help="What to list; everything without it.",
            autocompletion=complete_kinds,
            show_default=False,
        ),
    ] = None,
    config_dir: ConfigDir = None,
) -> None:
    """List what there is to choose from, with every key and its default.

    [bold]Examples[/]

    [cyan]gradbench info[/]

    [cyan]gradbench info regularizers[/]
    """
    from gradbench.catalogue import catalogue

    for section in catalogue(kind, config_dir):
        table = Table("name", "what it is", "keys", title=section.title, title_justify="left")
        for entry in section.entries:
            table.add_row(entry.name, escape(entry.summary), escape(entry.keys))
        out.print(table)


@app.command()
def show(
    cell: Annotated[str, typer.Argument(metavar="CELL", help="A cell's id, or how it begins.", show_default=False)],
    results: Annotated[
        Path | None, typer.Option("--results", help="Look in this results folder only.", autocompletion=complete_folders)
    ] = None,
) -> None:
    """Show one cell: config, status, curve, and the command that reruns it.

    [bold]Examples[/]

    [cyan]gradbench show 3f2a[/]

    [cyan]gradbench show 3f2a9c0d11e84b57 --results results/quick[/]
    """
    from gradbench.inspection import find_cell, sections

    for title, rows in sections(*find_cell(cell, results)):
        table = Table(show_header=False, title=title, title_justify="left")
        for row in rows:
            table.add_row(*(escape(text) for text in row))
        out.print(table)


def main() -> None:
    """Run the command line; a user's mistake is one line and exit status 2."""
    try:
        app()
    except UsageError as error:
        err.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("interrupted: everything finished is kept; the same command goes on", highlight=False)
        sys.exit(130)


if __name__ == "__main__":
    main()

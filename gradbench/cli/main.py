"""The commands of ``gradbench``: parse arguments, call the other packages, print the results."""

import contextlib
import errno
import gc
import resource
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.markup import escape
from rich.table import Table

from gradbench import __version__
from gradbench.cli import tasks
from gradbench.cli.completion import complete_folders, complete_kinds, complete_words
from gradbench.cli.console import err, out, print_line, print_note
from gradbench.errors import MAX_LENGTH, ShortageError, StorageError, UsageError, excerpt, shortage
from gradbench.signals import FAREWELL, INTERRUPTED
from gradbench.storage.sanitize import escape_controls

if TYPE_CHECKING:
    from gradbench.report import Report
    from gradbench.report.claims.verdicts import Verdict
    from gradbench.sweep.plan import Plan

SUMMARY = (
    "Clip the gradients, penalise them, or leave them alone, and how strongly? Train a grid, read an answer."
)

ClickUsageError: Any = typer.BadParameter.__base__
"""Typer's base class of errors for unknown options and invalid values; Typer does not export it."""

FAILED = 1

app = typer.Typer(
    name="gradbench",
    help=SUMMARY,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
ConfigDir = Annotated[
    Path | None,
    typer.Option(
        "--config-dir", help="Your own configs: a folder with model/, regularizer/, experiments/, …"
    ),
]


def complete_run(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the positional arguments of ``run`` and ``cost``."""
    folder = context.params.get("config_dir")
    return complete_words(incomplete, context.params.get("words") or [], Path(folder) if folder else None)


def results_argument(text: str) -> Any:
    """Declare a positional argument that takes results folders; ``text`` is its help."""
    return typer.Argument(
        metavar="[RESULTS]…", help=text, autocompletion=complete_folders, show_default=False
    )


def show_version(wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        out.print(f"gradbench {__version__}", highlight=False)
        raise typer.Exit


@app.callback(invoke_without_command=True, help=SUMMARY)
def root(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Print the help if no command is given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
    elif context.invoked_subcommand != "info":
        refuse_small_limit()


MIN_MEMORY = 2 << 30
"""Bytes of address space below which NumPy's and SciPy's libraries do not load: they crash, or try forever."""


def refuse_small_limit() -> None:
    """Raise ``ShortageError`` if this process may not have the memory that its libraries need."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if resource.RLIM_INFINITY != limit < MIN_MEMORY:
        raise ShortageError(
            f"memory is limited to {limit >> 20} MiB, and gradbench needs at least {MIN_MEMORY >> 20}; "
            "allow more: ulimit -v unlimited"
        )


@app.command()
def run(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[EXPERIMENT] [OVERRIDE]…",
            help="An experiment's name (or a YAML file), and overrides in Hydra's grammar.",
            autocompletion=complete_run,
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and train nothing.")] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", min=1, help="Short for launcher.parallel: worker processes, or tasks at a time."
        ),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option("--results", help="Results folder. Default: results/ and the experiment's name."),
    ] = None,
    config_dir: ConfigDir = None,
    shard: Annotated[
        str | None,
        typer.Option("--shard", help="Train one of several shares of the stacks, such as 3/8."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave once a cluster has all tasks in its queue.")
    ] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first failure; what runs is saved.")
    ] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write tables only.")] = False,
    no_cost: Annotated[
        bool, typer.Option("--no-cost", help="Do not time, at the end, what a step of each treatment costs.")
    ] = False,
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

    A third of it, on each of three machines that share the folder:
    [cyan]gradbench run quick --shard 1/3[/]

    A key that one regularizer lacks applies to the cells that have it. The same command again trains only what
    is not finished. Exit status: 0 all cells completed or diverged, 1 some failed, 2 usage, 130 interrupted.
    """  # noqa: E501 - a command stands on one line
    from gradbench.api.run import PARALLEL, command_of, plan_grid, train
    from gradbench.launchers import Ending, forkserver

    typed = words or []
    planned = typed if jobs is None else [*typed, f"{PARALLEL}={jobs}"]
    if dry_run:
        with gc_paused():
            from gradbench.config.composite import names_code

            call: Callable[..., Any] = forkserver.call_here
            if config_dir is not None or any(names_code(word.partition("=")[0]) for word in typed):
                forkserver.warm_up()  # code of the user's own is tried out in a process that it may end
                call = forkserver.run_in_forkserver
            plan = plan_grid(planned, results, config_dir, call, shard)
        print_plan(plan)
        for note in plan.notes:
            print_note(note)
        return
    forkserver.warm_up()  # the server imports torch while this process imports the rest and composes configs
    with gc_paused():
        from gradbench.api.progress import display_for, pluralize

        plan = plan_grid(planned, results, config_dir, forkserver.run_in_forkserver, shard)
    command = command_of(typed, {"--config-dir": config_dir, "--results": results})
    trained = train(
        plan,
        command,
        lambda stacks: display_for(stacks, err, quiet=quiet),
        print_note,
        fail_fast=fail_fast,
        on_idle_core=None if no_report else import_report,
        cost=not no_cost,
        detach=detach,
    )
    plan, failed = trained.plan, trained.statuses.get("failed", 0) > 0
    if trained.ending is Ending.DETACHED:
        folder = shlex.quote(str(plan.folder))
        print_line(
            f"everything is in the queue: gradbench status {folder} shows it, gradbench cancel {folder} ends it"
        )
        print_line(f"the same command follows what trains, and writes the report: {command}")
        return
    if not quiet:
        print_outcome(plan, trained.statuses)
    if plan.shard and (left := plan.count_left()):
        if not quiet:
            print_line(
                f"{pluralize(left, 'cell')} of the plan left, for other shards; when they have ended, type:"
            )
            print_line(command)
        no_report = True
    if not no_report:
        try:
            write_report(plan.folder, quiet=quiet, optional=not plan.todo())
        except (StorageError, UsageError):
            # after a failure or an interrupt there may be nothing to report on, and the reason has been printed
            if trained.complete and not failed:
                raise
    if not trained.complete:
        raise typer.Exit(INTERRUPTED)
    if failed:
        raise typer.Exit(FAILED)


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Disable garbage collection during the block, and exclude the objects made in it from later collections.

    Those are modules, configs and cells, which live until the process ends.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def import_report() -> None:
    """Import the report package, which takes a second, while workers still train."""
    import gradbench.report  # noqa: F401 - imported for its effect on the module cache


def print_plan(plan: "Plan") -> None:
    """Print the plan of a sweep: stacks, cells, steps, workers, expected time."""
    from gradbench.api.progress import pluralize, stack_kind
    from gradbench.sweep.estimate import expected_seconds

    todo = plan.todo()
    stacks: Counter[tuple[str, int]] = Counter()
    waiting: Counter[tuple[str, int]] = Counter()
    for cells in todo:
        row = stack_kind(cells), cells[0].config["steps"]
        stacks[row] += 1
        waiting[row] += len(cells)
    heading = f"{plan.experiment.name}: {pluralize(len(plan.cells), 'cell')}"
    table = Table("to train", "stacks", "cells", "steps", title=heading, title_justify="left")
    for (what, steps), number in stacks.items():
        table.add_row(escape(what), str(number), str(waiting[what, steps]), str(steps))
    if todo:
        out.print(table)
    counts = plan.counts()
    done = counts["completed"] + counts["diverged"]
    stacks_in_all = pluralize(len(plan.own_stacks), "stack") + say_shard(plan)
    workers = plan.launcher.count_workers(plan.devices, len(todo))
    seconds = expected_seconds(plan)
    unknown = "unknown: nothing like these cells has been trained here yet"
    for line in (
        f"{pluralize(done, 'cell')} done, {len(plan.cells) - done} to run ({counts['failed']} of them failed before), "
        f"{len(todo)} of {stacks_in_all}, {plan.launcher.describe(plan.devices, len(todo))}",
        f"expected time: {unknown if seconds is None else format_duration(seconds / workers)}",
        f"results: {plan.folder}",
    ):
        print_line(line)


def format_duration(seconds: float) -> str:
    """Format a duration: ``45 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def print_outcome(plan: "Plan", trained: dict[str, int]) -> None:
    """Print the number of cells by status, and where the tables are."""
    from gradbench.api.progress import pluralize

    cells = [cell for stack in plan.own_stacks for cell in stack.cells]
    parts = [f"{number} {status}" for status, number in sorted(trained.items())]
    if before := sum(map(plan.is_finished, cells)):
        parts.append(f"{before} finished before")
    if left := len(cells) - before - sum(trained.values()):
        parts.append(f"{left} not finished")
    number = pluralize(len(cells), "cell") + say_shard(plan)
    print_line(f"{': '.join(filter(None, (number, ', '.join(parts))))} · tables in {plan.folder}")


def say_shard(plan: "Plan") -> str:
    """Return `` of shard 3/8``; empty where the whole plan is trained."""
    return f" of shard {plan.shard}" if plan.shard else ""


def write_report(folder: Path, *, quiet: bool = False, optional: bool = False) -> None:
    """Write the report of a results folder; unless quiet, print its answers and the path of its page.

    Args:
        folder: the results folder.
        quiet: print nothing.
        optional: where the report cannot be written, say so and print the answers all the same.
    """
    from gradbench.api import results

    def note(error: StorageError) -> None:
        print_note(f"the report is not written anew: {error}")

    built, judged = results.write_report(folder, note if optional else None)
    if not quiet:
        print_claims(judged)
        print_report(built)


def print_claims(judged: "Sequence[Verdict]") -> None:
    """Print claims: each with its conditions, its verdict, its figure and the command that made its results."""
    from gradbench.report.claims.output import summarize, terminal_tables

    for block in terminal_tables(judged):
        table = Table(*block.columns, title=escape(block.title), title_justify="left")
        for row in block.rows:
            table.add_row(*map(escape, row))
        out.print(table)
        for line in block.lines:
            print_line(line)
        out.print()
    if judged:
        print_line(summarize(judged))


def print_report(built: "Report") -> None:
    """Print the answers of a report and the path of its page."""
    table = Table(title="Answer", title_justify="left", show_lines=True)
    table.add_column(
        "trained", overflow="fold", max_width=24
    )  # a name that is cut could not be told from another
    table.add_column("what to do, and why", overflow="fold")
    for answer in built.answers:
        said = [f"[bold]{escape(answer.advice)}[/]", escape(answer.value), *map(escape, answer.evidence)]
        table.add_row(
            "\n".join(filter(None, map(escape, (answer.group, answer.context)))),
            "\n".join(filter(None, said)),
        )
    out.print(table)
    groups_of: dict[str, list[str]] = {}
    for answer in built.answers:
        groups_of.setdefault(answer.command, []).append(answer.group)
    for command, groups in groups_of.items():
        if command:
            print_line(f"next for {', '.join(groups)}: {command}")
    for remark in built.remarks:
        print_line(remark)
    if built.page.is_file():
        print_line(f"report: {built.page}")


@app.command("report")
def report_command(
    folders: Annotated[
        list[Path] | None,
        results_argument(
            "A results folder, results/quick by default; several are compared, the first with each other."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Where a comparison goes. Default: results/compare- and the folders' names."
        ),
    ] = None,
) -> None:
    """Rebuild every table, figure and page from the stored tables alone, or compare folders side by side.

    [bold]Examples[/]

    [cyan]gradbench report[/]

    [cyan]gradbench report results/lstm-sweep[/]

    What did another version, device or learning rate change?
    [cyan]gradbench report results/quick results/quick-lr --out results/what-changed[/]
    """
    chosen = folders or [Path("results/quick")]
    if len(chosen) > 1:
        from gradbench import report

        print_report(report.compare(chosen, out))
    elif out is not None:
        raise UsageError(
            "--out is for a comparison of several folders; one folder's report lies in the folder"
        )
    else:
        write_report(chosen[0])


@app.command()
def claims(
    folders: Annotated[
        list[Path] | None,
        results_argument("Results folders, or folders of them. Default: results/article."),
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(
            "--into",
            help="A Markdown file that also gets the table, between its lines <!-- claims --> and <!-- /claims -->.",
        ),
    ] = None,
    config_dir: ConfigDir = None,
) -> None:
    """Judge each claim of an experiment by its results: effect, interval, n, verdict, figure, command.

    Claims are those of the file that the results folder keeps. Written to claims.csv in each folder given.

    [bold]Examples[/]

    [cyan]gradbench claims[/]

    [cyan]gradbench claims results/recurrent[/]

    [cyan]gradbench claims results/article-small --into notes.md[/]
    """
    from gradbench.report.claims.output import csv_folder, update_document, write_csv
    from gradbench.report.claims.verdicts import judge_folders

    every = []
    for folder in folders or [Path("results/article")]:
        found, notes = judge_folders(folder, config_dir)
        for note in notes:
            print_note(note)
        print_claims(found)
        print_line(f"claims: {write_csv(csv_folder(folder), found)}")
        every += found
    if into:
        update_document(into, every)
        print_line(f"table: {into}")


@app.command()
def info(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[models|regularizers|data|optimizers|schedules|launchers|experiments]",
            help="Group to list (default: all).",
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
    from gradbench.cli.catalog import catalog_sections

    for section in catalog_sections(kind, config_dir):
        table = Table("name", "what it is", "keys", title=section.title, title_justify="left")
        for entry in section.entries:
            table.add_row(entry.name, escape(entry.summary), escape(entry.keys))
        out.print(table)


@app.command()
def show(
    cell: Annotated[
        str, typer.Argument(metavar="CELL", help="Cell id, or a unique prefix of it.", show_default=False)
    ],
    results: Annotated[
        Path | None,
        typer.Option("--results", help="Look in this results folder only.", autocompletion=complete_folders),
    ] = None,
) -> None:
    """Show one cell: config, status, curve, and the command that reruns it.

    [bold]Examples[/]

    [cyan]gradbench show 3f2a[/]

    [cyan]gradbench show 3f2a9c0d11e84b57 --results results/quick[/]
    """
    from gradbench.cli.show import copyable_texts, find_cell, sections

    found, row = find_cell(cell, results)
    for title, rows in sections(found, row):
        table = Table(show_header=False, title=title, title_justify="left")
        if (
            rows and len(rows[0]) > 2
        ):  # a curve, whose columns fit on a narrow terminal without lines between them
            table.box, table.padding, table.pad_edge = None, (0, 1, 0, 0), False
        for _ in rows[0] if rows else ():
            table.add_column(overflow="fold")  # a truncated id could not be copied
        for entry in rows:
            table.add_row(*map(escape, entry))
        out.print(table)
    for title, text in copyable_texts(found, row):
        out.print(escape(title), style="table.title", soft_wrap=True)
        print_line(text)


@app.command()
def merge(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS", help="Results folders.", autocompletion=complete_folders, show_default=False
        ),
    ],
    into: Annotated[
        Path,
        typer.Option("--into", help="The folder to write: new, empty, or results, which stay."),
    ],
) -> None:
    """Put results folders together, of machines that share no folder.

    A finished cell outranks a failed one. Cells whose config or status differs are refused before anything is
    written. Of metric values that differ the folder named first is kept, and a line says so. Folders other than
    --into stay as they are; after a kill, type the same command again.

    [bold]Examples[/]

    [cyan]gradbench merge results/laptop results/server --into results/both[/]

    [cyan]gradbench merge from-server/quick --into results/quick[/]
    """
    import shlex

    from gradbench.storage.merge import merge as merge_folders

    for line in merge_folders(folders, into):
        print_line(escape_controls(line))
    print_line(f"next: gradbench report {shlex.quote(str(into))}")


@app.command("compact")
def compact_command(
    folders: Annotated[
        list[Path] | None, results_argument("Results folders. Default: results/quick.")
    ] = None,
) -> None:
    """Unite the many small files of a large sweep's tables into few, which are read faster.

    No value changes. After a kill, type the same command again.

    [bold]Examples[/]

    [cyan]gradbench compact results/lstm-sweep[/]
    """
    from gradbench.storage.compact import compact

    for folder in folders or [Path("results/quick")]:
        for line in compact(folder):
            print_line(escape_controls(f"{folder}: {line}"))


@app.command()
def cost(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[OVERRIDE]…",
            help="Overrides in Hydra's grammar; regularizer=a,b leaves out the others.",
            autocompletion=complete_run,
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds",
            min=1,
            help="Number of timing rounds. Default: as many as fit into a minute, from 6 to 20.",
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option("--width", min=1, help="Cells per stack. Default: as many as a sweep trains together."),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option("--results", help="Where the files go. Default: results/cost- and the overrides."),
    ] = None,
    config_dir: ConfigDir = None,
) -> None:
    """Measure what every regularizer costs beside none: time of a step, memory of a stack.

    Each round times a few steps of each regularizer, in shuffled order. Intervals are 95 %, of the median over
    rounds. Memory is the stack's peak, evaluation included, beside what is predicted before a stack starts.

    [bold]Examples[/]

    [cyan]gradbench cost[/]

    [cyan]gradbench cost model=wgan model.hidden=128[/]

    [cyan]gradbench cost model=lstm regularizer=clip_norm,gp --rounds 10 --width 4[/]
    """
    from gradbench.profiling import output
    from gradbench.profiling.cases import make_cases
    from gradbench.profiling.measure import measure_costs

    comparison = make_cases(words or [], width, results, config_dir)
    output.create_folder(comparison.folder)  # before minutes are spent
    with err.status("starting") as status:
        rows = measure_costs(comparison, rounds, status.update)
    out.print(output.make_table(rows))
    for path in output.write_files(rows, comparison.folder):
        print_line(str(path))


app.command()(tasks.status)
app.command()(tasks.cancel)
app.command(hidden=True)(tasks.task)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit; a user's mistake prints one line and exits with status 2."""
    try:
        status = app(arguments, standalone_mode=False) or 0
    except UsageError as error:
        status = print_error(str(error))
    except StorageError as error:
        status = print_error(str(error), FAILED)
    except ClickUsageError as error:
        status = print_error(f"{error.format_message().rstrip('.')}; {advise(error)}")
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except Exception as error:
        lacking = shortage(error)
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            status = print_error(
                f"{excerpt(str(error.filename), 40)} is too long for a path; give a shorter one"
            )
        elif lacking is None:
            raise
        else:
            status = print_error(lacking, FAILED)
    if status == INTERRUPTED:
        err.print(FAREWELL, highlight=False)
    sys.exit(status)


def advise(error: Any) -> str:
    """Return what to type instead of an option that there is not."""
    option = str(getattr(error, "option_name", ""))
    if option in ("-m", "--multirun"):
        return "leave it out, a list is swept as it is: regularizer=none,clip_norm"
    usage = f"{error.ctx.command_path if error.ctx else 'gradbench'} --help shows what there is"
    return f"{usage}; overrides have no dashes: {option.lstrip('-')}=…" if len(option) > 2 else usage


def print_error(message: str, status: int = 2) -> int:
    """Print an error as one line on stderr, and return the exit status."""
    line = excerpt(escape_controls(message.replace("\n", " ")), MAX_LENGTH)
    err.print(f"[red]error:[/] {escape(line)}", highlight=False, soft_wrap=True)
    return status


if __name__ == "__main__":
    main()

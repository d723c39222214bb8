"""Display a sweep's progress: bars on a terminal and in a notebook, plain lines elsewhere, only failures when quiet."""

import html
import io
import math
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from gradbench.config.composite import networks_of
from gradbench.launchers import Cells

REFRESH_SECONDS = 0.25
"""Seconds, at least, between two updates of what a notebook shows."""


def stack_kind(cells: Cells) -> str:
    """Return a stack's model, the networks that it is given and its regularizers, in a few words."""
    names = dict.fromkeys(str(cell.config["regularizer"]["name"]) for cell in cells)
    config = cells[0].config
    return f"{' '.join([config['model']['name'], *networks_of(config)])} · {', '.join(names)}"


def stack_title(cells: Cells) -> str:
    """Return a stack's model, regularizers and number of cells."""
    return f"{stack_kind(cells)} · {pluralize(len(cells), 'cell')}"


def pluralize(number: int, noun: str) -> str:
    """Return ``1 cell``, ``2 cells``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def median_loss(losses: Sequence[float]) -> str:
    """Format the median loss of the cells that have not diverged."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    return f"loss {statistics.median(finite):.3g}" if finite else "all diverged"


class QuietDisplay:
    """Print failures only; count the cells by status."""

    def __init__(self, stacks: Sequence[Cells], console: Console) -> None:
        self.stacks, self.console = list(stacks), console
        self.statuses: Counter[str] = Counter()

    def __enter__(self) -> "QuietDisplay":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def started(self, stack: int) -> None:
        """Print nothing."""

    def progress(self, stack: int, step: int, losses: list[float]) -> None:
        """Print nothing."""

    def finished(self, stack: int, statuses: list[str]) -> None:
        """Count the cells."""
        self.statuses.update(statuses)

    def failed(self, stack: int, reason: str) -> None:
        """Print one line with the stack that failed and the reason."""
        self.statuses["failed"] += len(self.stacks[stack])
        what = escape(f"{stack_title(self.stacks[stack])}: {reason}")
        self.console.print(f"[red]failed[/] {what}", highlight=False, soft_wrap=True)

    def retried(self, stack: int, reason: str) -> None:
        """Notify that the stack is resumed from its checkpoint."""
        self.notify(f"{stack_title(self.stacks[stack])}: {reason}; it goes on from its checkpoint")

    def split(self, stack: int, pieces: Sequence[Cells], reason: str) -> None:
        """Add the pieces to the stacks, and notify."""
        self.stacks += pieces
        sizes = " and ".join(str(len(piece)) for piece in pieces)
        self.notify(f"{stack_title(self.stacks[stack])}: {reason}; it goes on as {sizes}")

    def notify(self, line: str) -> None:
        """Print nothing, because it is no failure."""


class LineDisplay(QuietDisplay):
    """Print one line per finished stack, for logs."""

    def __init__(self, stacks: Sequence[Cells], console: Console) -> None:
        super().__init__(stacks, console)
        self.start = time.monotonic()
        self.ended = 0

    def finished(self, stack: int, statuses: list[str]) -> None:
        """Print the stack's statuses and the seconds since the start."""
        super().finished(stack, statuses)
        self.ended += 1
        diverged = statuses.count("diverged")
        self.console.print(
            f"[{self.ended}/{len(self.stacks)}] {stack_title(self.stacks[stack])} · {diverged} diverged · "
            f"{time.monotonic() - self.start:.0f} s",
            markup=False,
            highlight=False,
        )

    def failed(self, stack: int, reason: str) -> None:
        """Print the failure."""
        self.ended += 1
        super().failed(stack, reason)

    def split(self, stack: int, pieces: Sequence[Cells], reason: str) -> None:
        """Count the stack as ended; its pieces are counted on their own."""
        self.ended += 1
        super().split(stack, pieces, reason)

    def notify(self, line: str) -> None:
        """Print the line."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveDisplay(QuietDisplay):
    """Show a bar for the sweep with the time left, and one per running stack with its current loss."""

    def __init__(self, stacks: Sequence[Cells], console: Console) -> None:
        super().__init__(stacks, console)
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self.tasks: dict[int, TaskID] = {}
        self.ended = 0
        work = sum(len(cells) * cells[0].config["steps"] for cells in stacks)
        self.all = self.bars.add_task("cell steps", total=work, note="")
        self.note()

    def __enter__(self) -> "LiveDisplay":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        for task in self.tasks.values():
            self.bars.remove_task(task)
        self.bars.stop()

    def note(self) -> None:
        """Update the number of stacks done, running and waiting."""
        waiting = len(self.stacks) - self.ended - len(self.tasks)
        self.bars.update(
            self.all, note=f"stacks: {self.ended} done, {len(self.tasks)} running, {waiting} waiting"
        )

    def started(self, stack: int) -> None:
        """Add a bar for the stack, unless it is retried and already has one."""
        cells = self.stacks[stack]
        if stack not in self.tasks:
            self.tasks[stack] = self.bars.add_task(
                stack_title(cells), total=cells[0].config["steps"], note="starting"
            )
        self.note()

    def progress(self, stack: int, step: int, losses: list[float]) -> None:
        """Advance the bars of the stack and of the sweep."""
        task = self.tasks[stack]
        before = self.bars.tasks[self.bars.task_ids.index(task)].completed
        self.bars.update(task, completed=step, note=median_loss(losses))
        self.bars.advance(self.all, (step - before) * len(self.stacks[stack]))

    def end(self, stack: int) -> None:
        """Remove the stack's bar, and count all of its steps as done."""
        task = self.tasks.pop(stack)
        bar = self.bars.tasks[self.bars.task_ids.index(task)]
        self.bars.advance(self.all, ((bar.total or 0) - bar.completed) * len(self.stacks[stack]))
        self.bars.remove_task(task)
        self.ended += 1
        self.note()

    def finished(self, stack: int, statuses: list[str]) -> None:
        """Count the cells, and remove the bar."""
        super().finished(stack, statuses)
        self.end(stack)

    def failed(self, stack: int, reason: str) -> None:
        """Print the failure above the bars, and remove the stack's bar."""
        super().failed(stack, reason)
        self.end(stack)

    def split(self, stack: int, pieces: Sequence[Cells], reason: str) -> None:
        """Remove the stack's bar, and subtract its steps, which the pieces will repeat."""
        task = self.tasks.pop(stack)
        bar = self.bars.tasks[self.bars.task_ids.index(task)]
        self.bars.advance(self.all, -bar.completed * len(self.stacks[stack]))
        self.bars.remove_task(task)
        self.ended += 1
        super().split(stack, pieces, reason)
        self.note()

    def notify(self, line: str) -> None:
        """Print the line above the bars."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


class NotebookDisplay(LiveDisplay):
    """Show the same bars in a notebook, in an output of the cell that is replaced as they advance."""

    def __init__(self, stacks: Sequence[Cells], console: Console) -> None:
        self.shown: Any = None
        self.drawn = -math.inf
        super().__init__(stacks, console)

    def __enter__(self) -> "NotebookDisplay":
        if self.stacks:
            output: Any = import_module("IPython.display")  # only where there is a notebook
            self.shown = output.display(self, display_id=True)
        return self

    def __exit__(self, *_: object) -> None:
        for task in self.tasks.values():
            self.bars.remove_task(task)
        self.drawn = -math.inf
        self.draw()

    def note(self) -> None:
        """Update the number of stacks done, running and waiting, and what is shown."""
        super().note()
        self.draw()

    def progress(self, stack: int, step: int, losses: list[float]) -> None:
        """Advance the bars of the stack and of the sweep."""
        super().progress(stack, step, losses)
        self.draw()

    def draw(self) -> None:
        """Show the bars as they are now, a few times per second."""
        if self.shown is not None and time.monotonic() - self.drawn >= REFRESH_SECONDS:
            self.drawn = time.monotonic()
            self.shown.update(self)

    def __repr__(self) -> str:
        """Return the bars as text."""
        console = Console(file=io.StringIO(), width=100, color_system=None, force_jupyter=False)
        console.print(self.bars.get_renderable())
        return str(console.file.getvalue())  # type: ignore[attr-defined]

    def _repr_html_(self) -> str:
        """Return the bars as HTML."""
        return f"<pre>{html.escape(repr(self))}</pre>"


def notebook_or_terminal() -> Console:
    """Return a console for what is printed: a notebook's cell, or this process's stderr."""
    notebook = Console()
    return notebook if notebook.is_jupyter else Console(stderr=True)


def display_for(stacks: Sequence[Cells], console: Console, *, quiet: bool) -> QuietDisplay:
    """Return the display that fits the console."""
    if quiet:
        return QuietDisplay(stacks, console)
    if console.is_jupyter:
        return NotebookDisplay(stacks, console)
    return LiveDisplay(stacks, console) if console.is_terminal else LineDisplay(stacks, console)

"""Measure how the cost of a step and of a sweep grows: a figure and a table, with slopes of log cost over log size.

    python experiments/throughput/scaling.py [--rounds 5]

K cells. A step is gradbench's own, telemetry and optimizer included, in CPU seconds on one thread; a sweep is a whole
command from a cold process, in wall-clock seconds. Everything is measured in interleaved rounds, so that other load on
the machine affects all alike; a point is the median, its bar the range. A slope is a least-squares fit to all points
of a line: 1 is proportional, 0 is free, and -1 over workers is perfect.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from peak import RESULTS, stepper

from gradbench.config.instantiate import load_data
from gradbench.cpu_count import cores
from gradbench.launchers.worker import configure_process
from gradbench.report.figures.style import FAINT, KNOWN, RC, Look
from gradbench.sweep.plan import make_plan

CELLS = (1, 2, 4, 10, 30, 100, 300, 1000)
WIDTHS = {"mlp": (1, 2, 4, 8, 16, 32, 64), "wgan": (1, 2, 4, 8, 16, 32), "lstm": (1, 2, 4, 8, 16)}
HIDDEN = (16, 32, 64, 128, 256, 512)
UNROLL = (5, 10, 20, 40, 80)
TOGETHER = 4
"""Width of the stacks in which hidden units or sequence lengths grow."""

SWEEP = ("model=lstm", "seed=range(16)", "steps=120", "stack_width.cpu=2", "--no-report", "--quiet")
"""The sweep that different numbers of workers run: eight stacks. Its start-up counts, as in every sweep."""

PANELS = {
    "cells": ("cells, in the stacks of a sweep", "step of all cells, ms"),
    "width": ("stack width K", "step of one cell, ms"),
    "hidden": (f"hidden units (K = {TOGETHER})", "step of all cells, ms"),
    "unroll": (f"tokens per step of the LSTM (K = {TOGETHER})", "step of all cells, ms"),
    "workers": ("worker processes", "whole sweep, s"),
}
"""Quantity that grows -> axis labels of its panel."""

LOOKS = {
    "mlp": KNOWN["clip_norm"],
    "wgan": KNOWN["gp"],
    "lstm": KNOWN["weight_clip"],
    "lstm, gp": KNOWN["spectral_norm"],
    "16 lstm": KNOWN["none"],
}


@dataclass
class Stack:
    """A stack, and the seconds of one of its steps in each round."""

    run: Callable[[], float]
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Point:
    """One point of a line.

    Attributes:
        panel: quantity that grows.
        line: name of the line.
        size: value of the quantity.
        parts: stacks that make up the cost, with their weights.
    """

    panel: str
    line: str
    size: int
    parts: Sequence[tuple[Stack, float]]

    def costs(self) -> np.ndarray:
        """Return the cost in each round."""
        weighted = np.array([weight * np.asarray(stack.seconds) for stack, weight in self.parts])
        costs: np.ndarray = weighted.sum(axis=0)
        return costs


class Bench:
    """The stacks to measure; points share equal stacks."""

    def __init__(self) -> None:
        self.stacks: dict[tuple[tuple[str, ...], int], Stack] = {}

    def stack(self, words: Sequence[str], width: int) -> Stack:
        """Return the stack of ``width`` cells that differ in their seeds."""
        key = (tuple(words), width)
        if key not in self.stacks:
            # With a small learning rate no cell diverges; a diverged cell would leave its stack.
            cells = make_plan(None, [*words, f"seed=range({width})", "optimizer.lr=0.001"]).cells
            self.stacks[key] = Stack(stepper(cells, load_data(cells[0].config)))
        return self.stacks[key]

    def sweep(self, model: str, cells: int) -> list[tuple[Stack, float]]:
        """Return the stacks that a sweep makes of ``cells`` cells, one of each width with its count."""
        stacks = make_plan(None, [f"model={model}", f"seed=range({cells})"]).stacks
        widths = Counter(len(stack.cells) for stack in stacks)
        return [(self.stack([f"model={model}"], width), float(count)) for width, count in widths.items()]

    def points(self) -> list[Point]:
        """Return all points of the panels that show steps."""
        found = [Point("cells", model, n, self.sweep(model, n)) for model in WIDTHS for n in CELLS]
        for model, widths in WIDTHS.items():
            found += [Point("width", model, K, [(self.stack([f"model={model}"], K), 1 / K)]) for K in widths]
            for hidden in HIDDEN:
                stack = self.stack([f"model={model}", f"model.hidden={hidden}"], TOGETHER)
                found.append(Point("hidden", model, hidden, [(stack, 1.0)]))
        for line, regularizer in (("lstm", "none"), ("lstm, gp", "gp")):
            for unroll in UNROLL:
                words = ["model=lstm", f"regularizer={regularizer}", f"model.unroll={unroll}"]
                found.append(Point("unroll", line, unroll, [(self.stack(words, TOGETHER), 1.0)]))
        return found

    def measure(self, rounds: int) -> None:
        """Measure every stack in each round, after a warm-up round."""
        for number in range(rounds + 1):
            for stack in self.stacks.values():
                seconds = stack.run()
                if number > 0:
                    stack.seconds.append(seconds)


def sweeps(rounds: int) -> list[Point]:
    """Measure whole sweeps with 1, 2, 4, … workers, and with one worker per core."""
    counts = sorted({cores(), *(2**power for power in range(10) if 2**power < cores())})
    found = {jobs: Stack(lambda jobs=jobs: sweep_seconds(jobs)) for jobs in counts}  # type: ignore[misc]
    for _ in range(rounds):
        for stack in found.values():
            stack.seconds.append(stack.run())
    return [Point("workers", "16 lstm", jobs, [(stack, 1.0)]) for jobs, stack in found.items()]


def sweep_seconds(jobs: int) -> float:
    """Return the wall-clock seconds of the sweep with ``jobs`` workers."""
    program = str(Path(sys.executable).with_name("gradbench"))
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "run", *SWEEP, "--jobs", str(jobs), "--results", f"{folder}/results"]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


def tabulated(points: Sequence[Point]) -> pd.DataFrame:
    """Tabulate the points: seconds of a step or a sweep, and the slope of the line, one row each."""
    table = pd.DataFrame(
        {
            "panel": point.panel,
            "line": point.line,
            "size": point.size,
            "seconds": np.median(point.costs()),
            "fastest": point.costs().min(),
            "slowest": point.costs().max(),
            "rounds": len(point.costs()),
        }
        for point in points
    )
    slopes = {
        name: slope(rows["size"].to_list(), rows.seconds.to_list())
        for name, rows in table.groupby(["panel", "line"])
    }
    return table.assign(slope=[slopes[name] for name in zip(table.panel, table.line, strict=True)])


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the least-squares slope of log cost over log size; NaN for a single size."""
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(costs, float))
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum()) if (x * x).sum() > 0 else float("nan")


def draw(table: pd.DataFrame) -> Figure:
    """Draw a panel per quantity, with logarithmic axes and slopes in the legends."""
    with mpl.rc_context(RC):
        figure = Figure(figsize=(10.0, 6.2), layout="constrained")
        axes = figure.subplots(2, 3).flat
        for (panel, (size, cost)), ax in zip(PANELS.items(), axes, strict=False):
            draw_panel(ax, table[table.panel == panel], 1.0 if panel == "workers" else 1e3)
            ax.set(xlabel=size, ylabel=cost)
        note = axes[len(PANELS)]
        note.axis("off")
        lines = (
            "Slope: least squares of log cost",
            "over log size, all points of a line.",
            "1 is proportional, 0 is free;",
            "−1 over workers is perfect.",
            "",
            f"Points: medians of {table.rounds.min()} or more",
            "interleaved rounds; bars: ranges.",
            "Steps on one CPU thread, in CPU time;",
            "sweeps from a cold process, in wall time.",
        )
        note.text(0.02, 0.95, "\n".join(lines), va="top", transform=note.transAxes, linespacing=1.5)
    return figure


def draw_panel(ax: Axes, table: pd.DataFrame, unit: float) -> None:
    """Draw the lines of one panel, their costs times ``unit``."""
    for line, rows in table.groupby("line", sort=False):
        look: Look = LOOKS[str(line)]
        steepness = f", slope {rows.slope.iloc[0]:.2f}".replace("-", "−") if len(rows) > 1 else ""
        ax.plot(
            rows["size"],
            rows.seconds * unit,
            color=look.color,
            marker=look.marker,
            linestyle=look.dash,
            label=f"{line}{steepness}",
        )
        ax.vlines(rows["size"], rows.fastest * unit, rows.slowest * unit, color=look.color, linewidth=0.8)
    ax.set(xscale="log", yscale="log")
    sizes = sorted(set(table["size"]))
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    low, high = table.fastest.min() * unit, table.slowest.max() * unit
    span = max(high / low, 4.0)
    ax.set_ylim(low / span**0.08, high * span ** (0.08 + 0.1 * table.line.nunique()))  # room for the legend
    if span < 30:
        ax.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    ax.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    ax.tick_params(which="minor", color=FAINT)
    ax.legend(loc="upper left", borderaxespad=0.2)


def write(table: pd.DataFrame, folder: Path) -> None:
    """Write the table and the figure."""
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "scaling.csv", index=False, float_format="%.4g")
    figure = draw(table)
    with mpl.rc_context(RC):
        figure.savefig(folder / "scaling.png", metadata={"Software": None})
        figure.savefig(folder / "scaling.svg", metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, draw, store."""
    parser = argparse.ArgumentParser(description="Measure how the cost of steps and sweeps grows.")
    parser.add_argument("--rounds", type=int, default=5, help="of steps; sweeps take three fifths of them")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where scaling.csv, .png and .svg go")
    options = parser.parse_args(arguments)
    configure_process(torch.device("cpu"))
    bench = Bench()
    points = bench.points()
    bench.measure(options.rounds)
    points += sweeps(max(1, options.rounds * 3 // 5))
    table = tabulated(points)
    write(table, options.folder)
    shown = table.groupby(["panel", "line"], sort=False)["slope"].first()
    print(shown.round(2).to_string())


if __name__ == "__main__":
    main()

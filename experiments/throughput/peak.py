"""Measure the share of one core's peak FLOP/s that a training step of ``quick`` reaches.

    python experiments/throughput/peak.py [--rounds 7]

K cells. The peak is the best of square float32 matrix products of several sizes, measured between the steps. A step is
gradbench's training step on a stack of ``quick``, telemetry and optimizer included, on one thread. Its operations are
those of its matrix products: 2 per multiply-add, counted by ``torch.utils.flop_counter``; where a fused kernel hides
them, those of the plain script for the same cells. Elementwise work does not count. ``products`` is the share of a
step's time that torch's profiler attributes to matrix products, so ``share / products`` is the share of the peak that
the products alone reach; the remaining time goes into passes over memory and calls of operations.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
from omegaconf import OmegaConf
from peer_cell import Treatment, load_once
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from gradbench.data import Data
from gradbench.grid.cell import Cell
from gradbench.launchers.worker import configure_process
from gradbench.sweep.plan import make_plan
from gradbench.training.bind import init_state
from gradbench.training.draws import CHUNK, draw_chunk
from gradbench.training.setup import build_stack
from gradbench.training.step import EagerStepper
from gradbench.training.telemetry import Telemetry

RESULTS = Path(__file__).resolve().parents[2] / "results" / "throughput"
TARGETS = {"lstm": 0.55, "mlp": 0.35, "wgan": 0.35}
PRODUCTS = {
    *("aten::bmm", "aten::baddbmm", "aten::mm", "aten::addmm"),
    *("aten::mkldnn_rnn_layer", "aten::mkldnn_rnn_layer_backward"),
}
SIZES = (512, 1024, 2048)
STEPS = 10
"""Steps per measurement; a divisor of CHUNK."""


@dataclass
class Subject:
    """A stack of ``quick`` that is measured.

    Attributes:
        operations: floating-point operations of all cells per step.
        run: function that runs :data:`STEPS` steps and returns the seconds of one.
        products: seconds of one step in matrix products.
        calls: number of operations called in one step, nested calls included.
    """

    model: str
    regularizer: str
    width: int
    operations: int
    run: Callable[[], float]
    products: float
    calls: float
    seconds: list[float] = field(default_factory=list)


def settings_of(model: str) -> dict[str, Any]:
    """Return the settings of a model's plain script."""
    settings: Any = OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("peer.yaml")))
    return dict(settings[model])


def operations(settings: dict[str, Any], model: str, treatment: Treatment, data: Data) -> int:
    """Count the floating-point operations of the matrix products in one step of one cell."""
    script, counts = import_module(f"peer_{model}"), []
    for steps in (2, 3):  # setup and the final evaluation cancel out in the difference
        shortened = settings | {"steps": steps, "eval_every": steps}
        with FlopCounterMode(display=False) as counter:
            # In float64 nn.LSTM consists of products that are counted; in float32 it is one opaque kernel.
            script.train(shortened, data, treatment, 0, torch.float64)
        torch.backends.mkldnn.set_flags(True)  # type: ignore[no-untyped-call]  # a penalty's script switches it off
        counts.append(counter.get_total_flops())
    return int(counts[1] - counts[0])


def stepper(cells: Sequence[Cell], data: Data) -> Callable[[], float]:
    """Return a function that runs :data:`STEPS` steps of a stack and returns the CPU seconds of one."""
    context = build_stack(cells, data, torch.device("cpu"))
    state, telemetry = init_state(context), Telemetry(context)
    eager, draws = EagerStepper(context), draw_chunk(context, 0)

    def run() -> float:
        nonlocal draws
        if state.step % CHUNK == 0:
            draws = draw_chunk(context, state.step)
        started = time.process_time()
        for _ in range(STEPS):
            eager.advance(state, draws, telemetry)
        seconds = time.process_time() - started
        telemetry.flush(state)
        return seconds / STEPS

    return run


def executed(run: Callable[[], float]) -> int:
    """Count the floating-point operations of the matrix products in one step, except those in fused kernels."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops()) // STEPS


def profiled(run: Callable[[], float]) -> tuple[float, float]:
    """Return the seconds of one step in matrix products, and its number of calls of operations."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    events = profiler.key_averages()
    products = sum(event.self_cpu_time_total for event in events if event.key in PRODUCTS)
    return products / 1e6 / STEPS, sum(event.count for event in events) / STEPS


def subjects() -> list[Subject]:
    """Return the widest stack of each step program of ``quick``."""
    found = []
    for model in ("mlp", "wgan", "lstm"):
        settings = settings_of(model)
        data = load_once(model, settings["data"])
        stacks = make_plan("quick", [f"model={model}"]).stacks
        widest = {stack.cells[0].program: stack for stack in sorted(stacks, key=lambda s: len(s.cells))}
        for stack in widest.values():
            penalty = stack.cells[0].config["regularizer"]["family"] == "penalty"
            K, kind = len(stack.cells), "gp" if penalty else "none, clipping"
            run = stepper(stack.cells, data)
            run()  # warm up: tracing, allocation
            if model == "lstm" and not penalty:
                count = K * operations(settings, model, Treatment("none", 1.0), data)
            else:
                count = executed(run)
            found.append(Subject(model, kind, K, count, run, *profiled(run)))
    return found


def peak() -> float:
    """Return the floating-point operations per second of the fastest square product."""
    best = 0.0
    for n in SIZES:
        a, b = torch.randn(n, n), torch.randn(n, n)
        for _ in range(4):
            started = time.process_time()
            torch.mm(a, b)
            best = max(best, 2 * n**3 / (time.process_time() - started))
    return best


def measure(rounds: int) -> pd.DataFrame:
    """Measure all stacks, one row each: medians over interleaved rounds, relative to the fastest product of all."""
    configure_process(torch.device("cpu"))
    measured, best = subjects(), peak()
    for _ in range(rounds):
        for subject in measured:
            best = max(best, peak())
            subject.seconds.append(subject.run())
    return pd.DataFrame(
        {
            "model": subject.model,
            "regularizer": subject.regularizer,
            "width": subject.width,
            "step_ms": 1e3 * median(subject.seconds),
            "fastest_ms": 1e3 * min(subject.seconds),
            "slowest_ms": 1e3 * max(subject.seconds),
            "megaflop": subject.operations / 1e6,
            "peak_gflops": best / 1e9,
            "products": subject.products / median(subject.seconds),
            "calls": subject.calls,
            "share": subject.operations / median(subject.seconds) / best,
            "target": TARGETS[subject.model],
        }
        for subject in measured
    )


def show(table: pd.DataFrame, console: Console) -> None:
    """Print the shares."""
    shown = Table(
        title=f"A step of a stack against one core's matrix-product peak, {table.peak_gflops[0]:.0f} GFLOP/s in float32"
    )
    for column in ("stack", "width", "ms", "range", "calls", "in products", "MFLOP", "share", "target"):
        shown.add_column(column, justify="left" if column == "stack" else "right")
    for row in table.itertuples():
        spread = f"{row.fastest_ms:.1f}-{row.slowest_ms:.1f}"
        numbers = [
            f"{row.step_ms:.1f}",
            spread,
            f"{row.calls:.0f}",
            f"{row.products:.0%}",
            f"{row.megaflop:.0f}",
            f"{row.share:.0%}",
            f"{row.target:.0%}",
        ]
        shown.add_row(f"{row.model}, {row.regularizer}", str(row.width), *numbers)
    console.print(shown)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure the share of the matrix-product peak.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where peak.csv goes")
    given = parser.parse_args()
    result = measure(given.rounds)
    show(result, Console())
    given.folder.mkdir(parents=True, exist_ok=True)
    result.to_csv(given.folder / "peak.csv", index=False, float_format="%.4g")

"""Measure time, memory and telemetry of the stacks, as a table."""

import math
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from gradbench.config.hashing import canonical
from gradbench.config.instantiate import load_once
from gradbench.errors import ExitError, UsageError, exits_as_errors
from gradbench.launchers.worker import configure_process
from gradbench.memory.estimate import measure_peak, predict_footprint
from gradbench.profiling.cases import NONE, Cases
from gradbench.profiling.rounds import FEWEST_ROUNDS, ROUNDS
from gradbench.profiling.timing import make_runner, time_rounds
from gradbench.stats.intervals import NO_VALUES, median_interval
from gradbench.storage.provenance import provenance
from gradbench.sweep.plan import own_code
from gradbench.training.setup import build_stack

ROUNDS_SECONDS = 60.0
"""Time for the rounds unless their number is given; slow steps have fewer rounds for it."""


def measure_costs(cases: Cases, count: int | None, on_progress: Callable[[str], None]) -> pd.DataFrame:
    """Measure each regularizer, and return one row for each.

    Columns: ``step_seconds`` of the whole stack (median over rounds), ``step_ratio`` to ``none`` (median of the ratios
    within rounds, with its 95 % interval ``_low``, ``_high``), peak ``memory_bytes`` and ``predicted_bytes``,
    ``telemetry_share`` of a step (with interval), and the settings of the measurement. Telemetry is timed for ``none``
    and for transforms; a penalty records the same as ``none``, and has NaN.

    Args:
        cases: stacks to measure.
        count: number of rounds; by default as many as fit into a minute, from 6 to 20.
        on_progress: called with a short description of each stage.

    Raises:
        UsageError: if code of the user's own asks for the end of this process.
    """
    try:
        with exits_as_errors():
            return measure_stacks(cases, count, on_progress)
    except ExitError as error:
        named = own_code(cells[0] for cells in cases.stacks.values())
        raise UsageError(f"{named or 'a measurement'} {error}") from error


def measure_stacks(cases: Cases, count: int | None, on_progress: Callable[[str], None]) -> pd.DataFrame:
    """Do what :func:`measure_costs` does; code of the user's own may end this process."""
    configure_process(cases.device)
    runners, silent, predicted, peak = {}, {}, {}, {}
    for name, cells in cases.stacks.items():
        on_progress(f"memory of {name}")
        data = load_once(canonical(cells[0].config["data"]))
        predicted[name] = predict_footprint(cells[:1], data, cases.device.type).peak_bytes(len(cells))
        context, peak[name] = measure_peak(cells, data, cases.device)
        runners[name] = make_runner(context)
        if name == NONE or any(player.transforms for player in context.players):
            silent[name] = make_runner(build_stack(cells, data, cases.device, with_telemetry=False))
    on_progress("warm-up")
    began = time.perf_counter()
    time_rounds(runners, silent, 1, lambda _: None)
    affordable = math.floor(ROUNDS_SECONDS / (time.perf_counter() - began))
    count = min(max(affordable, FEWEST_ROUNDS), ROUNDS) if count is None else count
    timings = time_rounds(runners, silent, count, lambda done: on_progress(f"round {done} of {count}"))
    origin = provenance(str(cases.device))
    common = {"width": cases.width, "rounds": count} | {
        key: origin[key] for key in ("device", "device_name", "torch", "gradbench", "git_commit")
    }
    rows = []
    for name, cells in cases.stacks.items():
        seconds = timings.steps[name]
        telemetry = timings.telemetry.get(name)
        telemetry_share = NO_VALUES if telemetry is None else median_interval(telemetry / seconds)
        rows.append(
            {
                "model": cells[0].config["model"]["name"],
                "regularizer": name,
                "family": cells[0].config["regularizer"]["family"],
                "step_seconds": float(np.median(seconds)),
                **median_interval(seconds / timings.steps[NONE]).columns("step_ratio"),
                "memory_bytes": peak[name],
                "predicted_bytes": predicted[name],
                **telemetry_share.columns("telemetry_share"),
                "steps": runners[name].steps,
            }
            | common
        )
    return pd.DataFrame(rows)

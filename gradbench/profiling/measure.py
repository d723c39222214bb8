"""From a comparison to its table, figure and files."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from gradbench.config.hashing import canonical
from gradbench.config.instantiate import load_once
from gradbench.launchers.worker import settle
from gradbench.memory.estimate import measure_peak, predict_footprint
from gradbench.profiling.cases import NONE, Cases
from gradbench.profiling.timing import make_runner, median_interval, time_rounds
from gradbench.stats.intervals import Interval
from gradbench.storage.provenance import provenance
from gradbench.training.setup import build_stack


def measure_costs(comparison: Cases, count: int, told: Callable[[str], None]) -> pd.DataFrame:
    """Return one row per regularizer.

    Columns: ``step_seconds`` of the whole stack (median over rounds), ``step_ratio`` to ``none`` (median of the
    ratios within each round, with its 95 % interval ``_low``, ``_high``), ``memory_bytes`` and
    ``predicted_bytes`` at the stack's peak, ``telemetry_share`` of a step (with interval; timed for ``none`` and
    for what changes gradients, NaN elsewhere: a penalty records what ``none`` does), and how it was measured.

    Args:
        comparison: what is compared.
        count: of rounds.
        told: is called with what happens now, in a few words.
    """
    settle(comparison.device)
    runners, silent, predicted, peak = {}, {}, {}, {}
    for name, cells in comparison.stacks.items():
        told(f"memory of {name}")
        data = load_once(canonical(cells[0].config["data"]))
        predicted[name] = predict_footprint(cells[:1], data, comparison.device.type).peak_bytes(len(cells))
        context, peak[name] = measure_peak(cells, data, comparison.device)
        runners[name] = make_runner(context)
        if name == NONE or any(player.transforms for player in context.players):
            silent[name] = make_runner(build_stack(cells, data, comparison.device, with_telemetry=False))
    timings = time_rounds(runners, silent, count, lambda done: told(f"round {done} of {count}"))
    origin = provenance(str(comparison.device))
    common = {"width": comparison.width, "rounds": count} | {
        key: origin[key] for key in ("device", "device_name", "torch", "gradbench", "git_commit")
    }
    nothing = Interval(np.nan, np.nan, np.nan, 0)
    rows = []
    for name, cells in comparison.stacks.items():
        seconds = timings.steps[name]
        share = timings.telemetry.get(name)
        rows.append(
            {
                "model": cells[0].config["model"]["name"],
                "regularizer": name,
                "family": cells[0].config["regularizer"]["family"],
                "step_seconds": float(np.median(seconds)),
                **interval_columns("step_ratio", median_interval(seconds / timings.steps[NONE])),
                "memory_bytes": peak[name],
                "predicted_bytes": predicted[name],
                **interval_columns(
                    "telemetry_share", nothing if share is None else median_interval(share / seconds)
                ),
                "steps": runners[name].steps,
            }
            | common
        )
    return pd.DataFrame(rows)


def interval_columns(name: str, interval: Interval) -> dict[str, float]:
    """Return an interval's parts as columns."""
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}

"""One sweep from the words of a command line to finished tables: the plan, and its execution."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gradbench import __version__
from gradbench.config import Config, Configs, Experiment, Words
from gradbench.errors import UsageError
from gradbench.factory import load_data
from gradbench.grid import Cell, Stack, canonical, expand, stacks
from gradbench.results import FINISHED, Results

if TYPE_CHECKING:
    import torch

    from gradbench.launchers import Watcher

RESULTS = Path("results")
"""Where runs are written, beneath the working directory."""


@dataclass(frozen=True)
class Plan:
    """What a sweep would do.

    Attributes:
        experiment: its question and grid.
        folder: where results go.
        cells: the whole grid.
        stacks: the whole grid as stacks; the ones with unfinished cells are trained.
        statuses: cell -> status, of the cells that have one.
        devices: where it trains.
    """

    experiment: Experiment
    folder: Path
    cells: list[Cell]
    stacks: list[Stack]
    statuses: dict[str, str]
    devices: "list[torch.device]"

    def todo(self) -> list[tuple[Cell, ...]]:
        """Return what is left of each stack, the largest first."""
        left = [tuple(cell for cell in stack.cells if not self.is_finished(cell)) for stack in self.stacks]
        return sorted(filter(None, left), key=lambda cells: -expected_cost(cells))

    def is_finished(self, cell: Cell) -> bool:
        """Return whether a cell need not be trained."""
        return self.statuses.get(cell.id) in FINISHED

    def counts(self) -> Counter[str]:
        """Return how many cells of the grid have which status; ``to run`` for those with none."""
        return Counter(self.statuses.get(cell.id, "to run") for cell in self.cells)


def expected_cost(cells: Sequence[Cell]) -> float:
    """Return a rough order of how long cells take together, in no unit: long stacks should start first."""
    config = cells[0].config
    weight = {"lstm": 8.0, "wgan": 3.0}.get(config["model"]["name"], 1.0)
    return len(cells) * config["steps"] * weight * (2.5 if config["regularizer"]["family"] == "penalty" else 1.0)


def make_plan(
    experiment_name: str | None,
    words: list[str],
    results: Path | None = None,
    config_dir: Path | None = None,
) -> Plan:
    """Return the plan of a command line.

    Args:
        experiment_name: by name or by path; ``None`` for a grid made of overrides alone.
        words: overrides in Hydra's grammar.
        results: the results folder; by default one below ``results/``, named after experiment and overrides.
        config_dir: the user's own config folder.

    Raises:
        UsageError: for anything a user can get wrong.
    """
    from gradbench.devices import resolve  # torch is imported once the words are known to be fine

    configs = Configs(config_dir)
    experiment = configs.experiment(experiment_name) if experiment_name else Experiment("sweep")
    parsed = configs.parse(words)
    cells = expand(configs, experiment, parsed, fingerprint)
    devices = resolve(only_value("device", [cell.runtime["device"] for cell in cells]))
    folder = results or RESULTS / folder_name(experiment, parsed)
    grouped = stacks(cells, devices[0].type)
    return Plan(experiment, folder, cells, grouped, Results(folder).statuses(), devices)


@cache
def _fingerprint(data: str) -> str:
    return load_data(json.loads(data)).fingerprint


def fingerprint(config: Config) -> str:
    """Return the fingerprint of the data that a config asks for; each data set is loaded once."""
    return _fingerprint(canonical({"data": config["data"]}))


def only_value(key: str, values: Sequence[str]) -> str:
    """Return the one value that all cells have of a key that says how they are run."""
    different = sorted(set(values))
    if len(different) > 1:
        raise UsageError(f"{key} cannot be swept, got {', '.join(different)}; run the sweep once per {key}")
    return different[0]


def folder_name(experiment: Experiment, words: Words) -> str:
    """Return a name that the same words always give, and other words do not: nothing is mixed or overwritten."""
    axes = [axis for axis in words.axes if axis.key.split(".")[0] not in ("device", "stack_width")]
    if not axes and not words.deletions:
        return experiment.name
    named = "-".join("+".join(map(str, axis.values)) for axis in axes if axis.key in ("model", "regularizer"))
    text = canonical([sorted([axis.key, list(axis.values)] for axis in axes), sorted(words.deletions)])
    parts = [experiment.name, named, hashlib.sha256(text.encode()).hexdigest()[:6]]
    return re.sub(r"[^\w+.-]", "_", "-".join(filter(None, parts)))


def validate(plan: Plan) -> None:
    """Build what each kind of stack is made of, so that a mistake shows before anything is trained.

    Raises:
        UsageError: where a model, regularizer or optimizer cannot be made.
    """
    from gradbench.program import build, build_regularizer

    programs = {(cell.program, cell.regularizer_program): cell for cell in plan.cells}
    for cell in programs.values():
        build(cell.config, load_data(cell.config))
        build_regularizer(cell.config)


def execute(plan: Plan, command: str, watcher: "Watcher", jobs: int | None, fail_fast: bool) -> None:
    """Train what the plan says is left.

    Raises:
        UsageError: where the results folder cannot be used.
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
    todo = plan.todo()
    if todo:
        try:
            local.run(todo, plan.folder, plan.devices, jobs, watcher, fail_fast)
        finally:
            results.harmonise()


def expected_seconds(plan: Plan) -> float | None:
    """Return about how long the plan takes, from cells like these that stand in results folders beside it.

    ``None`` where nothing like these cells has been trained yet.
    """
    known: dict[tuple[str, str], list[float]] = {}
    for folder in {plan.folder, *plan.folder.parent.glob("*")}:
        if (folder / "cells").is_dir():
            table = Results(folder).cells(columns=None)
            if "step_seconds" in table:
                for row in table[["model", "regularizer.family", "step_seconds"]].dropna().itertuples(index=False):
                    known.setdefault((row[0], row[1]), []).append(row[2])
    total = 0.0
    for cell in plan.cells:
        if plan.is_finished(cell):
            continue
        key = (cell.config["model"]["name"], cell.config["regularizer"]["family"])
        if key not in known:
            return None
        total += float(np.median(known[key])) * cell.config["steps"]
    return total

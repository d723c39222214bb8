"""Check at the plan what an experiment asks: its scales and claims are about keys, metrics and cells that there are."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from gradbench.claims.checks import check_claims
from gradbench.claims.metrics import select_cells
from gradbench.claims.schema import STEP_RATIO, Claim, parse_claims
from gradbench.config.compose import GROUPS, Configs, Experiment, leaves
from gradbench.config.composite import REGULARIZER, TARGET, node_of
from gradbench.config.hashing import canonical
from gradbench.config.hints import options_with
from gradbench.config.metric import reported_names
from gradbench.config.overrides import Axis, Overrides
from gradbench.errors import UsageError, nearest
from gradbench.grid.cell import RUNTIME, Cell
from gradbench.grid.expand import expand


def note_stopwatch(experiment: Experiment) -> list[str]:
    """Return a line on claims that read step times of stacks that differ in more than the treatment."""
    claims = parse_claims(experiment.source, experiment.name)
    named = ", ".join(claim.id for claim in claims if claim.metric == "step_seconds")
    if not named:
        return []
    return [
        f"claim {named}: step_seconds is the stopwatch of whole stacks, which differ in more than their treatment; "
        f"metric: {STEP_RATIO} reads steps that are timed side by side"
    ]


def check_experiment(configs: Configs, experiment: Experiment, cells: Sequence[Cell]) -> None:
    """Refuse scales and claims about columns, options and metrics that no cell has, or could have without restriction.

    Raises:
        UsageError: for a name that is unknown.
    """
    claims = parse_claims(experiment.source, experiment.name)
    if not claims and not experiment.scales:
        return
    columns = dict.fromkeys(key.removesuffix(".name") for cell in cells for key, _ in leaves(cell.config))

    def is_key(column: str) -> bool:
        group, _, name = column.partition(".")
        part, _, of_part = name.partition(".")
        if group == REGULARIZER and of_part and part in configs.groups[group]:
            name = of_part
        return column in columns or bool(name and options_with(configs, group, name))

    def is_settable(axis: Axis) -> bool:
        key = axis.key
        is_known = key in configs.groups or key.partition(".")[0] in RUNTIME or node_of(key) is not None
        return axis.added or is_known or any(one.startswith(f"{key}.") for one in columns) or is_key(key)

    for name, axes in experiment.scales.items():
        for axis in axes:
            if not is_settable(axis):
                hint = nearest(axis.key, columns)
                raise UsageError(
                    f"experiment '{experiment.name}': scale={name} sets {axis.key}, which no cell has{hint}"
                )

    def options(column: str) -> set[str]:
        chosen = {cell.choices[column] for cell in cells if column in cell.choices}
        return {*configs.groups[column], *chosen} if column in GROUPS else set()

    models = {canonical(cell.config["model"]): cell.config["model"] for cell in cells}
    check_claims(claims, reported_names(models.values()), is_key, options, columns)
    check_sides(configs, experiment, claims, cells)


def check_sides(
    configs: Configs, experiment: Experiment, claims: Sequence[Claim], cells: Sequence[Cell]
) -> None:
    """Refuse a claim of which a side has no cell, neither here nor in the whole grid: words may leave cells out.

    Raises:
        UsageError: for the first side without a cell.
    """
    sides = [(claim, side) for claim in claims for side in ("treatment", "control") if getattr(claim, side)]
    columns = {column for claim, side in sides for column in (*claim.among, *getattr(claim, side))}

    def without_cells(found: Sequence[Cell]) -> list[tuple[Claim, str]]:
        table = table_of(found, sorted(columns))
        return [
            (claim, side)
            for claim, side in sides
            if select_cells(select_cells(table, claim.among), getattr(claim, side)).empty
        ]

    missing = without_cells(cells)
    if not missing:
        return
    try:
        whole = expand(configs, experiment, Overrides(), lambda _config: "")
    except UsageError:  # it has cells only with words that are typed
        return
    lacking = without_cells(whole)
    for claim, side in missing:
        if (claim, side) in lacking:
            selector = [*claim.among.items(), *getattr(claim, side).items()]
            wanted = ", ".join(f"{column}: {' or '.join(map(str, one))}" for column, one in selector)
            raise UsageError(
                f"claim {claim.id}: no cell of the grid is its {side}, which has {wanted}; add such cells to the grid "
                "of the experiment, or mend the claim"
            )


def table_of(cells: Sequence[Cell], columns: Sequence[str]) -> pd.DataFrame:
    """Return the different rows of some columns of the table that cells will have."""
    rows = {tuple(value_at(cell.config, column) for column in columns) for cell in cells}
    return pd.DataFrame(list(rows), columns=list(columns), dtype=object)


def value_at(config: Mapping[str, Any], column: str) -> Any:
    """Return what the table of cells has in a column that is a config key: of a node that names code, the name."""
    value: Any = config
    for part in (f"{column}.name" if column in GROUPS else column).split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping):
        return value.get(TARGET)
    return json.dumps(value) if isinstance(value, list) else value

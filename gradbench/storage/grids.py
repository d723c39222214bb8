"""The file ``experiment.yaml`` of a results folder: every grid that the folder was asked for.

Its top is the grid that was asked for last, but for one all of whose cells another holds. The rest stand in the list
``other_grids``, the latest first. Each has a question, a command, a spec and the ids of its cells.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from operator import methodcaller
from pathlib import Path
from typing import Any

import yaml

from gradbench.atomic import reason, set_aside, unreadable, write_atomically
from gradbench.config.checked_yaml import load_yaml
from gradbench.config.hashing import digest
from gradbench.config.overrides import MAX_VALUES
from gradbench.errors import DamagedError
from gradbench.storage.provenance import now
from gradbench.storage.sanitize import is_cell, is_command, is_offered, open_regular

MAX_EXPERIMENT, MAX_STORED = 2**23, 3 * MAX_VALUES
"""Bytes of ``experiment.yaml``, and values in it: it lists the cells of a sweep beside its experiment."""

DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""PyYAML's emitter in C, where it was built with one: ten times as fast."""

OTHERS, STATED = "other_grids", "claims_stated"

Grid = dict[str, Any]


def read_experiment(folder: Path) -> Grid:
    """Read a results folder's ``experiment.yaml`` as a mapping; empty where there is none.

    Raises:
        DamagedError: it is no YAML or no regular file, or larger than any that a run writes.
        UsageError: it cannot be read.
    """
    path = folder / "experiment.yaml"
    try:
        with open_regular(path, MAX_EXPERIMENT) as file:
            content = load_yaml(file.read().decode("utf-8"), MAX_STORED)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise unreadable(path, error) from error
    except DamagedError:
        raise
    except Exception as error:  # PyYAML raises exceptions of any type on a tag that does not fit its value
        raise DamagedError(path, reason(error)) from error
    return content if isinstance(content, dict) else {}


def list_grids(experiment: Mapping[str, Any]) -> list[Grid]:
    """List the grids in the content of ``experiment.yaml``, that at its top first."""
    others = experiment.get(OTHERS)
    top = {key: value for key, value in experiment.items() if key != OTHERS}
    return [top, *(grid for grid in (others if isinstance(others, list) else []) if isinstance(grid, dict))]


def cells_of(grid: Mapping[str, Any]) -> set[str]:
    """Return the ids of a grid's cells."""
    listed = grid.get("cells")
    return set(filter(is_cell, listed)) if isinstance(listed, list) else set()


def commands_of(experiment: Mapping[str, Any]) -> list[str]:
    """Return the commands that together made a results folder.

    The command of a grid all of whose cells are in another one adds nothing, and is left out.
    """
    grids = list_grids(experiment)
    found = [
        str(grid["command"])
        for grid in grids
        if is_command(grid.get("command"))
        and not any(cells_of(grid) < cells_of(other) for other in grids if cells_of(grid))
    ]
    return list(dict.fromkeys(found))


def remember_grid(folder: Path, grid: Mapping[str, Any]) -> None:
    """Write a grid to ``experiment.yaml``, as :func:`remember_grids` does; claims that are new are stated now."""
    time = now()
    stated = {STATED: {digest(claim): time for claim in claims}} if (claims := claims_of(plain(grid))) else {}
    remember_grids(folder, [{**grid, **stated}])


def remember_grids(folder: Path, new: Sequence[Mapping[str, Any]]) -> None:
    """Write grids to ``experiment.yaml``, the latest last, and keep those that are there.

    Where the file would grow larger than what is read, the oldest are left out. A file that is no YAML is set aside.

    Raises:
        UsageError: if the file cannot be read.
        StorageError: if it cannot be written.
    """
    path = folder / "experiment.yaml"
    try:
        content = read_experiment(folder)
    except DamagedError:
        set_aside(path)
        content = {}
    grids = list_grids(content) if content else []
    for grid in new:
        grids = add_grid(grids, plain(grid))
    while grids and (written := join_grids(grids)) != content:
        if len(grids) == 1 or count_values(written) <= MAX_STORED:
            text = yaml.dump(written, Dumper=DUMPER, sort_keys=False, allow_unicode=True).encode()
            if len(grids) == 1 or len(text) <= MAX_EXPERIMENT:
                write_atomically(path, methodcaller("write", text))
                return
        grids.pop()


def plain(grid: Mapping[str, Any]) -> Grid:
    """Return a grid as JSON has it: tuples are lists, keys are text, and what JSON lacks is text."""
    content: Grid = json.loads(json.dumps(dict(grid), default=str, skipkeys=True))
    return content


def add_grid(grids: Sequence[Grid], new: Grid) -> list[Grid]:
    """Add a grid to those of a folder: on top, but for one all of whose cells another holds.

    One with the same command or the same cells is replaced, unless it makes a claim that the new one does not: a rule
    that was edited after the runs stays beside what it became. A claim keeps the earliest time at which it was stated.
    """
    claims, cells = claims_of(new), cells_of(new)
    known = [stated_of(grid) for grid in (new, *grids)]
    times = {
        name: min(found)
        for name in map(digest, claims)
        if (found := [stated[name] for stated in known if name in stated])
    }
    new = new | ({STATED: times} if times else {})
    kept = [
        old
        for old in grids
        if (old.get("command") != new.get("command") and cells_of(old) != cells)
        or any(claim not in claims for claim in claims_of(old))
    ]
    contained = any(cells < cells_of(old) for old in kept) and cells
    return [*kept[:1], new, *kept[1:]] if contained else [new, *kept]


def claims_of(grid: Mapping[str, Any]) -> list[Any]:
    """Return the claims of a grid as they are written."""
    spec = grid.get("spec")
    claims = spec.get("claims") if isinstance(spec, dict) else None
    return claims if isinstance(claims, list) else []


def stated_of(grid: Mapping[str, Any]) -> dict[str, str]:
    """Return when each claim of a grid first stood in the file, by the claim's hash; later than its runs, or before."""
    stated = grid.get(STATED)
    return {str(name): str(time) for name, time in stated.items()} if isinstance(stated, dict) else {}


def join_grids(grids: Sequence[Grid]) -> Grid:
    """Return the content of ``experiment.yaml`` with these grids."""
    return grids[0] | ({OTHERS: list(grids[1:])} if len(grids) > 1 else {})


def count_values(content: object) -> int:
    """Count the values in nested containers, keys included."""
    inner = content if isinstance(content, list) else ()
    if isinstance(content, dict):
        inner = [part for pair in content.items() for part in pair]
    return 1 + sum(map(count_values, inner))


def commands_by_cells(folder: Path) -> list[tuple[set[str], object]]:
    """Return the cells and the command of each grid; none where the file is no YAML."""
    try:
        return [(cells_of(grid), grid.get("command")) for grid in list_grids(read_experiment(folder))]
    except DamagedError:
        return []


def commands_that_train(
    folder: Path, rows: Mapping[str, object], grids: Sequence[tuple[set[str], object]]
) -> list[str]:
    """Return commands that train cells again: of a grid that holds them, else those of the cells themselves.

    Commands that may not be pasted are left out.

    Args:
        folder: the results folder.
        rows: cell id -> its command in the table of cells.
        grids: those of the folder, from :func:`commands_by_cells`.
    """
    commands = []
    for cell, own in rows.items():
        command = next((command for cells, command in grids if cell in cells and is_offered(command)), None)
        if command is None and is_offered(own):
            command = shlex.join([*shlex.split(str(own)), "--results", str(folder)])
        commands += [str(command)] if command else []
    return list(dict.fromkeys(commands))

"""Cells: what a grid asks for, one by one, and which of them train together."""

import copy
import hashlib
import itertools
import json
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gradbench.config import Axis, Config, Configs, Experiment, Words, leaves, resolve
from gradbench.errors import UsageError, nearest

FORMAT = 1
"""Version of the results format; part of every cell's id."""

RUNTIME = ("device", "stack_width")
"""Top-level keys that say how a cell is run, never what it is."""

LOCATIONS = ("path", "root", "download")
"""Keys of the data group that say where the data lies; its fingerprint says what it is."""

SHARED_PASS = ("none", "clipping", "projection")
"""Regularizer families whose cells can share forward and backward."""


@dataclass(frozen=True)
class Cell:
    """One fully resolved point of a grid.

    Args:
        config: nested, resolved; without the runtime keys.
        data_sha256: fingerprint of the data it trains on.
        choices: group -> option.
        settings: leaves that differ from what the choices compose to, and words like ``~key``: with the choices,
            enough to compose the same config again.
        runtime: how it is run.
    """

    config: Mapping[str, Any]
    data_sha256: str
    choices: Mapping[str, str]
    settings: tuple[str, ...]
    runtime: Mapping[str, Any]

    @cached_property
    def id(self) -> str:
        """16 hex digits: a hash of the resolved config, the data's content and the results format alone."""
        config = dict(self.config)
        config["data"] = {key: value for key, value in config["data"].items() if key not in LOCATIONS}
        return digest([FORMAT, self.data_sha256, config])

    @property
    def seed(self) -> int:
        """Seed of everything random in this cell."""
        return int(self.config["seed"])

    @property
    def lr(self) -> float:
        """Learning rate."""
        return float(self.config["optimizer"]["lr"])

    @property
    def strength(self) -> float:
        """Threshold or lambda; NaN where the regularizer has none."""
        regularizer = self.config["regularizer"]
        key = regularizer["strength"]
        return float(regularizer[key]) if key else math.nan

    @cached_property
    def regularizer_program(self) -> str:
        """The regularizer without its strength: cells that agree in it run the same hooks."""
        regularizer = dict(self.config["regularizer"])
        regularizer.pop(regularizer["strength"] or "", None)
        return canonical(regularizer)

    @cached_property
    def program(self) -> str:
        """What cells must agree in to share a stack: all but strength, learning rate and seed."""
        config = copy.deepcopy(dict(self.config))
        del config["seed"], config["optimizer"]["lr"]
        shares = config["regularizer"]["family"] in SHARED_PASS
        config["regularizer"] = "shared" if shares else self.regularizer_program
        return canonical([config, self.data_sha256, self.runtime["stack_width"]])

    @property
    def words(self) -> list[str]:
        """The overrides that compose this cell alone."""
        return [*(f"{group}={option}" for group, option in self.choices.items()), *self.settings]

    def command(self, *options: str) -> str:
        """Return the shell command that runs this cell alone."""
        return shlex.join(["gradbench", "run", *self.words, *options])


def canonical(value: Any) -> str:
    """Return JSON in which equal values are equal text, whatever the order of keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest(value: Any) -> str:
    """Return 16 hex digits of the canonical JSON's SHA-256."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


# ---- expansion: an experiment and overrides -> cells ---------------------------------------------------------


def expand(
    configs: Configs, experiment: Experiment, words: Words, fingerprint: Callable[[Config], str]
) -> list[Cell]:
    """Return the cells of an experiment under overrides: no duplicates, in the order of the grid.

    An override of a group that a product sweeps restricts it, an override of any other key replaces its axis. An
    axis applies to the cells whose config has its key.

    Args:
        configs: where groups are composed.
        experiment: the grid.
        words: the command line's overrides.
        fingerprint: of the data that a resolved config asks for.

    Raises:
        UsageError: for an axis that no cell has, a grid that overrides leave empty, or a value out of range.
    """
    products = restrict(experiment, words, set(configs.groups))
    cells: dict[str, Cell] = {}
    used: set[str] = set()
    known: set[str] = set()
    for product in products:
        for cell, keys in expand_product(configs, product, words.deletions, fingerprint, known):
            cells.setdefault(cell.id, cell)
            used |= keys
    for axis in itertools.chain(*products):
        if axis.key not in used and axis.key not in configs.groups:
            hint = nearest(axis.key, known)
            raise UsageError(f"no cell has the key {axis.key}{hint} (to add a new key, write +{axis.key}=…)")
    return list(cells.values())


def restrict(experiment: Experiment, words: Words, groups: set[str]) -> list[list[Axis]]:
    """Return an experiment's products under overrides."""
    kept = []
    for product in experiment.products:
        axes = {axis.key: axis for axis in product}
        for axis in words.axes:
            before = axes.get(axis.key)
            if before is not None and axis.key in groups:
                common = tuple(value for value in axis.values if value in before.values)
                axes[axis.key] = Axis(axis.key, common)
            else:
                axes[axis.key] = axis
        if all(axis.values for axis in axes.values()):
            kept.append(list(axes.values()))
    if not kept:
        given = " ".join(f"{axis.key}={','.join(map(str, axis.values))}" for axis in words.axes if axis.key in groups)
        raise UsageError(
            f"nothing of experiment '{experiment.name}' is left under {given}: an override of a group it sweeps "
            f"restricts it; leave out '{experiment.name}' to run your own grid"
        )
    return kept


def expand_product(
    configs: Configs,
    product: Sequence[Axis],
    deletions: tuple[str, ...],
    fingerprint: Callable[[Config], str],
    known: set[str],
) -> Iterable[tuple[Cell, set[str]]]:
    """Yield each cell of one product, and the axes' keys that it has; add every key seen to ``known``."""
    groups = [axis for axis in product if axis.key in configs.groups]
    others = [axis for axis in product if axis.key not in configs.groups]
    for options in itertools.product(*(axis.values for axis in groups)):
        chosen = tuple(f"{axis.key}={option}" for axis, option in zip(groups, options, strict=True))
        base, choices = configs.compose((*chosen, *deletions))
        has = dict(leaves(base))
        known |= has.keys()
        axes = [axis for axis in others if axis.added or axis.key in has]
        for values in itertools.product(*(axis.values for axis in axes)):
            config = copy.deepcopy(base)
            for axis, value in zip(axes, values, strict=True):
                put(config, axis.key, fit(axis, value, has.get(axis.key)))
            config = resolve(config)
            check(config)
            settings = [
                setting(axis.key, value, added=axis.key not in has)
                for axis, value in zip(axes, values, strict=True)
                if axis.key.split(".")[0] not in RUNTIME and has.get(axis.key, ...) != value
            ]
            runtime = {key: config.pop(key) for key in RUNTIME}
            yield (
                Cell(config, fingerprint(config), choices, (*settings, *deletions), runtime),
                {axis.key for axis in axes},
            )


def put(config: Config, key: str, value: Any) -> None:
    """Set a dotted key."""
    *path, last = key.split(".")
    for part in path:
        config = config.setdefault(part, {})
        if not isinstance(config, dict):
            raise UsageError(f"{key} leads through {part}, which is a value and not a group of keys")
    config[last] = value


def fit(axis: Axis, value: Any, default: Any) -> Any:
    """Return a value as the type of its default, so that 1 and 1.0 are one cell.

    Raises:
        UsageError: where it is of another kind.
    """
    if isinstance(default, str) and default.startswith("${") and isinstance(value, int | float):
        default = float(value)
    if isinstance(default, bool):
        fits = isinstance(value, bool)
    elif isinstance(default, float):
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        value = float(value) if fits else value
    elif isinstance(default, int):
        fits = isinstance(value, int) and not isinstance(value, bool)
        if isinstance(value, float) and value.is_integer():
            fits, value = True, int(value)
    elif isinstance(default, list):
        fits = isinstance(value, list)
        value = [float(item) if isinstance(item, int) else item for item in value] if fits else value
    else:
        fits = True
    if not fits:
        kinds = {bool: "true or false", float: "a number", int: "a whole number", list: "a list like [0.9,0.99]"}
        raise UsageError(f"{axis.key} must be {kinds[type(default)]}, got {value}; the default is {default}")
    return value


def setting(key: str, value: Any, added: bool) -> str:
    """Return one override word in Hydra's grammar."""
    return f"{'+' if added else ''}{key}={literal(value)}"


def literal(value: Any) -> str:
    """Return a value in Hydra's grammar, quoted where it must be."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(literal(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        # inside quotes only the quote, and backslashes before it, need escaping
        return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value) + "'"
    return repr(value)


# ---- values that no cell may have --------------------------------------------------------------------------------

RULES: dict[str, tuple[str, Callable[[Any], bool], str]] = {
    "regularizer.threshold": ("> 0", lambda v: v > 0, "use regularizer=none to switch clipping off"),
    "regularizer.lambda": (">= 0 and finite", lambda v: 0 <= v < math.inf, "use regularizer=none to switch it off"),
    "optimizer.lr": ("> 0 and finite", lambda v: 0 < v < math.inf, "give a learning rate like 0.1"),
    "seed": (">= 0", lambda v: v >= 0, "give a whole number like 0"),
    "steps": (">= 1", lambda v: v >= 1, "give a whole number like 300"),
    "eval_every": (">= 1", lambda v: v >= 1, "give a whole number like 50"),
    "record_every": (">= 1", lambda v: v >= 1, "1 records every step"),
    "divergence.factor": ("> 1", lambda v: v > 1, "inf counts only losses that are not finite"),
    "divergence.patience": (">= 1", lambda v: v >= 1, "give a number of steps like 50"),
    "stack_width.cpu": (">= 1", lambda v: v >= 1, "give a number of cells like 16"),
    "stack_width.cuda": (">= 1", lambda v: v >= 1, "give a number of cells like 256"),
    "stack_width.mps": (">= 1", lambda v: v >= 1, "give a number of cells like 64"),
    "precision": (
        "one of float32, float64, bfloat16",
        lambda v: v in ("float32", "float64", "bfloat16"),
        "float32 is the default",
    ),
}
"""Key -> what it must be, the test (NaN fails each), and what to type instead."""


def check(config: Config) -> None:
    """Refuse values that no cell may have.

    Raises:
        UsageError: naming the key, the value, what was expected and what to type.
    """
    for group in ("model", "regularizer", "optimizer", "data"):
        if not isinstance(config.get(group), dict) or "_target_" not in config[group]:
            raise UsageError(f"the config has no {group} with a _target_; choose one with {group}=…")
    values = dict(leaves(config))
    for key, (expected, allowed, remedy) in RULES.items():
        if key in values:
            try:
                fine = allowed(values[key])
            except TypeError:
                fine = False
            if not fine:
                raise UsageError(f"{key} must be {expected}, got {values[key]}; {remedy}")


# ---- stacks: cells that train together ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Stack:
    """Cells that share every tensor shape and the same step program."""

    cells: tuple[Cell, ...]

    @cached_property
    def id(self) -> str:
        """Hash of the ids of its cells."""
        return digest(sorted(cell.id for cell in self.cells))


def stacks(cells: Iterable[Cell], kind: str) -> list[Stack]:
    """Group cells into stacks, by what they are alone: not by their order, nor by a stopwatch.

    Args:
        cells: the whole grid, finished cells included.
        kind: of device: ``cpu``, ``cuda`` or ``mps``; decides how wide a stack may be.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.program, []).append(cell)
    grouped = []
    for program in sorted(groups):
        members = sorted(
            groups[program],
            key=lambda cell: (cell.regularizer_program, cell.strength, cell.lr, cell.seed, cell.id),
        )
        width = int(members[0].runtime["stack_width"][kind])
        count = math.ceil(len(members) / width)
        bounds = [round(index * len(members) / count) for index in range(count + 1)]
        grouped += [Stack(tuple(members[a:b])) for a, b in itertools.pairwise(bounds)]
    return grouped

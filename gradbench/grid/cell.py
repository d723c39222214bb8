"""A cell: one fully resolved point of a grid, its id, and the command that runs it alone."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from sys import intern
from typing import Any

from gradbench import FORMAT
from gradbench.config.compose import Config
from gradbench.config.composite import regularizers_of
from gradbench.config.hashing import canonical, digest
from gradbench.config.identity import identity

RUNTIME = ("device", "checkpoint_seconds", "stack_width", "tracker", "launcher")
"""Top-level keys that determine how a cell is run, not what it computes."""

SHARED_PASS = ("none", "clipping", "projection")
"""Regularizer families whose cells can share forward and backward passes; each penalty needs its own."""


def schedule_numbers(config: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a config's schedule, by key: what may differ between the cells of a stack."""
    numbers = {key: value for key, value in config["schedule"].items() if type(value) in (int, float)}
    return {key: float(value) for key, value in numbers.items()}


@dataclass(frozen=True)
class Cell:
    """One fully resolved point of a grid.

    Args:
        config: nested, resolved, without the runtime keys.
        data_sha256: fingerprint of its training data.
        choices: group -> option.
        settings: overrides that, added to the choices, compose the same config again.
        runtime: values of the runtime keys.
        options: command-line options needed to compose it: ``--config-dir``.
        neutral: dotted key -> the value at which it changes nothing.
        sources: node of the config -> hash of the source of its target, for targets outside gradbench.
    """

    config: Mapping[str, Any]
    data_sha256: str
    choices: Mapping[str, str]
    settings: tuple[str, ...]
    runtime: Mapping[str, Any]
    options: tuple[str, ...] = ()
    neutral: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> Config:
        """The part of the config that determines what it computes, as a new nested dict."""
        return identity(self.config, self.neutral, self.sources)

    @cached_property
    def id(self) -> str:
        """16 hex digits: a hash of the identity, the data's fingerprint and the results format."""
        return digest([FORMAT, self.data_sha256, self.identity])

    @property
    def seed(self) -> int:
        """Seed of everything random in this cell."""
        return int(self.config["seed"])

    @property
    def lr(self) -> float:
        """Learning rate."""
        return float(self.config["optimizer"]["lr"])

    @property
    def schedule_numbers(self) -> dict[str, float]:
        """Numbers of its schedule, by key: they differ from cell to cell as the learning rate does."""
        return schedule_numbers(self.config)

    @property
    def strengths(self) -> tuple[float, ...]:
        """Threshold or lambda of each regularizer that it composes, or of its single one; NaN where there is none."""
        regularizers = regularizers_of(self.config["regularizer"]).values()
        return tuple(float(one[one["strength"]]) if one["strength"] else math.nan for one in regularizers)

    @cached_property
    def regularizer_program(self) -> str:
        """The regularizer without its strengths, as JSON: cells with equal values run the same hooks."""
        node = self.config["regularizer"]
        program = identity({"regularizer": node}, self.neutral, self.sources)["regularizer"]
        for at, one in regularizers_of(node).items():
            own = program[at.rstrip(".")] if at else program
            own.pop(one["strength"] or "", None)
        return intern(canonical(program))

    @cached_property
    def program(self) -> str:
        """All but strength, learning rate, numbers of the schedule and seed, as JSON.

        Cells with equal values can share a stack.
        """
        regularizer = "shared" if self.shares_pass else self.regularizer_program
        return intern(
            canonical(
                [self.setting | {"regularizer": regularizer}, self.data_sha256, self.runtime["stack_width"]]
            )
        )

    @property
    def shares_pass(self) -> bool:
        """Whether its forward and backward pass can be that of cells of other regularizers."""
        return self.config["regularizer"]["family"] in SHARED_PASS

    @property
    def setting(self) -> Config:
        """What a program is made of beside the regularizer and the data, as a new dict."""
        config = {key: value for key, value in self.identity.items() if key not in ("seed", "regularizer")}
        config["optimizer"] = {key: value for key, value in config["optimizer"].items() if key != "lr"}
        if "schedule" in config:
            numbers = self.schedule_numbers
            config["schedule"] = {
                key: value for key, value in config["schedule"].items() if key not in numbers
            }
        return config

    @cached_property
    def setting_id(self) -> str:
        """16 hex digits: equal for cells that differ in regularizer, strength, learning rate and seed at most."""
        return intern(digest([self.setting, self.data_sha256]))

    @cached_property
    def step_program(self) -> str:
        """16 hex digits: equal for cells whose steps cost the same; strength, learning rate and seed may differ."""
        return intern(digest([self.setting_id, self.regularizer_program]))

    @property
    def words(self) -> list[str]:
        """The overrides that compose this cell alone."""
        return [*(f"{group}={option}" for group, option in self.choices.items()), *self.settings]

    def command(self) -> str:
        """Return the shell command that runs this cell alone."""
        return shlex.join(["gradbench", "run", *self.words, *self.options])

"""Build what all cells of a stack share: model, optimizer, schedule, batches per update and precision."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gradbench.config.composite import CHAIN, PLAYERS, regularizers_of
from gradbench.config.instantiate import find_function, instantiate_group
from gradbench.data import Data
from gradbench.errors import UsageError, nearest
from gradbench.grid.cell import schedule_numbers
from gradbench.models import Player, Task
from gradbench.optimizers import Optimizer, Schedule
from gradbench.regularizers import Regularizer
from gradbench.training.points import offered

BOTH = "both"
"""The value of ``regularizer.players`` that means all of them."""

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
"""Precision -> type of parameters, gradients and norms; bfloat16 is autocast over float32."""


@dataclass(frozen=True)
class Program:
    """What all cells of a stack share.

    Attributes:
        model: what is trained.
        optimizer: of all players.
        schedule: of the learning rate; ``None`` where it is constant.
        accumulate: batches per update, whose mean gradient it takes.
        precision: of the arithmetic.
    """

    model: Task
    optimizer: Optimizer
    schedule: Schedule | None
    accumulate: int
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        """Type of parameters, gradients and norms."""
        return DTYPES[self.precision]


def build(config: Mapping[str, Any], data: Data) -> Program:
    """Build the program of a resolved config.

    Raises:
        UsageError: where model, optimizer or schedule cannot be made.
    """
    model = instantiate_group(config, "model", sizes=data.sizes, arrays=data.arrays)
    optimizer = instantiate_group(config, "optimizer")
    schedule = instantiate_group(config, "schedule", without=schedule_numbers(config))
    return Program(model, optimizer, schedule, int(config["accumulate"]), str(config["precision"]))


def build_regularizer(config: Mapping[str, Any], player: Player | None = None) -> Regularizer:
    """Build the regularizer of a resolved config, without its strengths, which are numbers per cell.

    Args:
        config: resolved.
        player: leave out what does not act on it.

    Raises:
        UsageError: where it cannot be made.
    """
    parts = build_parts(config, player)
    if len(parts) == 1:
        return parts[0]
    composed: Regularizer = find_function(CHAIN)(*parts)
    return composed


def build_regularizers(config: Mapping[str, Any], task: Task) -> dict[str, Regularizer]:
    """Build what acts on each of a model's players, by name.

    Raises:
        UsageError: where it cannot be made, for players or points that there are not, or a penalty that cannot be
            measured.
    """
    players, model = task.players, config["model"]["name"]
    names = [player.name for player in players]
    for at, node in regularizers_of(config["regularizer"]).items():
        chosen = node.get(PLAYERS)
        if chosen not in (None, *names, *([BOTH] if len(names) > 1 else [])):
            known = (
                f"{', '.join(names)} or {BOTH}; write one of them"
                if len(names) > 1
                else f"one network, {names[0]}; leave it out"
            )
            raise UsageError(f"regularizer.{at}{PLAYERS}={chosen}: model={model} has {known}")
    found = {player.name: build_regularizer(config, player) for player in players}
    for player in players:
        check_points(config, found[player.name], task)
        if found[player.name].penalties and not player.regularized:
            measured = next(one.name for one in players if one.regularized)
            raise UsageError(
                f"regularizer={config['regularizer']['name']}: model={model} measures a penalty of its {measured} "
                f"alone, not of its {player.name}; leave out {PLAYERS} for what adds a penalty"
            )
    return found


def check_points(config: Mapping[str, Any], regularizer: Regularizer, task: Task) -> None:
    """Raise ``UsageError`` for a penalty at points that the model does not offer."""
    at, known, model = list(regularizers_of(config["regularizer"])), offered(task), config["model"]["name"]
    for index, part in regularizer.penalties:
        if part.points in (None, *known):
            continue
        where = "at one place alone" if len(known) < 2 else f"at {', '.join(known[:-1])} or {known[-1]}"
        what = f"write one of them{nearest(str(part.points), known)}" if len(known) > 1 else "leave it out"
        raise UsageError(
            f"regularizer.{at[index]}points={part.points}: model={model} measures a penalty {where}; {what}"
        )


def acts_on(node: Mapping[str, Any], player: Player) -> bool:
    """Return whether a regularizer acts on a player: as it says, or as the model says."""
    chosen = node.get(PLAYERS)
    return player.regularized if chosen is None else chosen in (player.name, BOTH)


def build_parts(config: Mapping[str, Any], player: Player | None = None) -> list[Regularizer]:
    """Build the regularizers that a resolved config composes, or its single one.

    Arguments and errors are those of :func:`build_regularizer`; what does not act on the player has no hooks.
    """
    found = []
    for at, node in regularizers_of(config["regularizer"]).items():
        without = {node["strength"]} if node["strength"] else ()
        try:
            one = instantiate_group({**config, "regularizer": node}, "regularizer", without=without)
        except UsageError as error:
            raise UsageError(str(error).replace("regularizer.", f"regularizer.{at}")) from error
        found.append(one if player is None or acts_on(node, player) else Regularizer())
    return found

"""Build what all cells of a stack share: model, optimizer, schedule, batches per update and precision."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gradbench.config.composite import regularizers_of
from gradbench.config.instantiate import instantiate_group
from gradbench.data import Data
from gradbench.errors import UsageError
from gradbench.grid.cell import schedule_numbers
from gradbench.models import Task
from gradbench.optimizers import Optimizer, Schedule
from gradbench.regularizers import Regularizer
from gradbench.regularizers.chain import chain

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


def build_regularizer(config: Mapping[str, Any]) -> Regularizer:
    """Build the regularizer of a resolved config, without its strengths, which are numbers per cell.

    Raises:
        UsageError: where it cannot be made.
    """
    parts = build_parts(config)
    return parts[0] if len(parts) == 1 else chain(*parts)


def build_parts(config: Mapping[str, Any]) -> list[Regularizer]:
    """Build the regularizers that a resolved config composes, or its single one; raises as :func:`build_regularizer`."""
    found = []
    for at, node in regularizers_of(config["regularizer"]).items():
        without = {node["strength"]} if node["strength"] else ()
        try:
            found.append(instantiate_group({**config, "regularizer": node}, "regularizer", without=without))
        except UsageError as error:
            raise UsageError(str(error).replace("regularizer.", f"regularizer.{at}")) from error
    return found

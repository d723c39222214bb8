"""Build what all cells of a stack share: model, optimizer and precision."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gradbench.config.instantiate import instantiate_group
from gradbench.data import Data
from gradbench.models import Model
from gradbench.optimizers import Optimizer
from gradbench.regularizers import Regularizer

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
"""Precision -> type of parameters, gradients and norms; bfloat16 is autocast over float32."""


@dataclass(frozen=True)
class Program:
    """A model, its optimizer, and the precision of its arithmetic."""

    model: Model
    optimizer: Optimizer
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        """Type of parameters, gradients and norms."""
        return DTYPES[self.precision]


def build(config: Mapping[str, Any], data: Data) -> Program:
    """Build the program of a resolved config.

    Raises:
        UsageError: where model or optimizer cannot be made.
    """
    model = instantiate_group(config, "model", sizes=data.sizes, arrays=data.arrays)
    return Program(model, instantiate_group(config, "optimizer"), str(config["precision"]))


def build_regularizer(config: Mapping[str, Any]) -> Regularizer:
    """Build the regularizer of a resolved config, without its strength, which is a number per cell.

    Raises:
        UsageError: where it cannot be made.
    """
    regularizer: Regularizer = instantiate_group(
        config, "regularizer", without=config["regularizer"]["strength"]
    )
    return regularizer

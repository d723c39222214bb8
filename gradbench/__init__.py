"""gradbench: clip the gradients, penalise them, or leave them alone, and how strongly?

``gradbench.run(…)`` runs a grid, ``gradbench.load(folder)`` opens its results. What code of your own imports is here,
too, under names that stay when files move: ``gradbench.SupervisedTask``, ``gradbench.Data``, ``gradbench.Regularizer``,
… The guide shows each of them at work: ``gradbench/README.md``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradbench.api.results import Results, load
    from gradbench.api.run import run
    from gradbench.data import Data
    from gradbench.errors import UsageError
    from gradbench.functional.flat_params import Layout
    from gradbench.models import Player, Task
    from gradbench.models.classification import ClassificationTask
    from gradbench.models.language_modelling import LanguageModellingTask
    from gradbench.models.regression import RegressionTask
    from gradbench.models.supervised import SupervisedTask
    from gradbench.models.wgan import WassersteinGAN
    from gradbench.optimizers import Optimizer
    from gradbench.regularizers import Regularizer

__version__ = "0.1.0"

FORMAT = 2
"""Version of the results format; part of every cell's id."""

PUBLIC = {
    "run": "gradbench.api.run",
    "load": "gradbench.api.results",
    "Results": "gradbench.api.results",
    "Task": "gradbench.models",
    "Player": "gradbench.models",
    "SupervisedTask": "gradbench.models.supervised",
    "ClassificationTask": "gradbench.models.classification",
    "RegressionTask": "gradbench.models.regression",
    "LanguageModellingTask": "gradbench.models.language_modelling",
    "WassersteinGAN": "gradbench.models.wgan",
    "Data": "gradbench.data",
    "Regularizer": "gradbench.regularizers",
    "Optimizer": "gradbench.optimizers",
    "Layout": "gradbench.functional.flat_params",
    "UsageError": "gradbench.errors",
}
"""Name -> the module that has it, which is imported when the name is first used."""

__all__ = [
    "ClassificationTask",
    "Data",
    "LanguageModellingTask",
    "Layout",
    "Optimizer",
    "Player",
    "RegressionTask",
    "Regularizer",
    "Results",
    "SupervisedTask",
    "Task",
    "UsageError",
    "WassersteinGAN",
    "load",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in PUBLIC:
        raise AttributeError(f"module 'gradbench' has no attribute '{name}'")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted({*globals(), *PUBLIC})

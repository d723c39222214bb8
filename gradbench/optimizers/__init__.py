"""Optimizers and learning rate schedules on stacked parameters, with a learning rate per cell.

To add an optimizer, write one file with a function that returns an :class:`Optimizer`, and one YAML in
``conf/optimizer``; a schedule is a function in ``schedules.py`` that returns a :data:`Schedule`, and one YAML in
``conf/schedule``. Neither knows models, regularizers or files.
"""

from gradbench.optimizers.adam import adam
from gradbench.optimizers.lion import lion
from gradbench.optimizers.muon import muon
from gradbench.optimizers.optimizer import Optimizer, State
from gradbench.optimizers.rmsprop import rmsprop
from gradbench.optimizers.schedules import Schedule
from gradbench.optimizers.sgd import sgd

__all__ = ["Optimizer", "Schedule", "State", "adam", "lion", "muon", "rmsprop", "sgd"]

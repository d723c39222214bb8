"""What a stack is made of, and what changes from step to step.

K cells, P parameters of a player, U different seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradbench.functional.flat_params import Layout, Tensors
from gradbench.grid.cell import Cell
from gradbench.models import Model
from gradbench.optimizers import Optimizer
from gradbench.regularizers import State as Memory
from gradbench.training.divergence import Divergence, Life
from gradbench.training.regularize import Span


@dataclass(frozen=True)
class Update:
    """What one update of a player's parameters gave.

    Attributes:
        loss: [K].
        penalty: [K].
        life: what it left of the cells.
        carry: what the next update is given, [K, ...] each.
        norm: of the gradient of loss and penalty, [K].
        parameters: [K, P], after the step.
        moments: what the optimizer keeps, [K, P] each.
        memory: what transforms keep, per span.
        gradient: [K, P]; ``None`` where a transform bends it and nobody compares.
        used_norm: of what a transform made of it, [K]; of a regularized player, and where anything is recorded. NaN
            where that was bent and is not compared.
        bent: [K, P], what a transform made of the gradient; ``None`` where none does more than rescale it.
        row: what is recorded, series by series, [K] each; ``None`` where nothing is.
    """

    loss: Tensor
    penalty: Tensor
    life: Life
    carry: Tensors
    norm: Tensor
    parameters: Tensor
    moments: Tensors
    memory: list[Memory]
    gradient: Tensor | None = None
    used_norm: Tensor | None = None
    bent: Tensor | None = None
    row: list[Tensor] | None = None

    @property
    def used(self) -> Tensor:
        """What was used of the gradient, [K, P]; a pass over memory where it was only rescaled."""
        if self.bent is not None:
            return self.bent
        assert self.gradient is not None
        assert self.used_norm is not None
        return self.gradient * (self.used_norm / self.norm).nan_to_num(nan=1.0)[:, None]


@dataclass(frozen=True)
class StackedPlayer:
    """A player's part of a step, for all K cells.

    Attributes:
        transforms: whether any cell's regularizer acts on gradients.
        straight: whether a step is the gradient that is used times the learning rate, and nothing else.
        batch: ``(parameters of every player, data, draws) -> batches`` of all updates of a step, [K, steps, ...].
        update: ``(compares, own, moments, others, batch, carry, strength, memory, lr [K, 1], t, life, ceiling [K]) ->
            Update``; ``own`` are the player's parameters [K, P], which the update may write over, as it may the
            moments; ``others`` are the other players' parameters; t counts updates from 1; ``compares`` says whether
            bent gradients are compared with what they were; life and ceiling are those of the module ``divergence``.
    """

    name: str
    steps: int
    regularized: bool
    transforms: bool
    straight: bool
    batch: Callable[[Tensors, Tensors, Tensors], Tensors]
    update: Callable[..., Update]


@dataclass(frozen=True)
class Setup:
    """What does not change from step to step.

    Attributes:
        cells: the whole stack.
        places: [K], where in it the cells stand that are trained: all, until some have diverged.
    """

    cells: Sequence[Cell]
    places: list[int]
    steps: int
    eval_every: int
    record_every: int
    divergence: Divergence
    model: Model
    optimizer: Optimizer
    players: list[StackedPlayer]
    layouts: dict[str, Layout]
    spans: list[Span]
    seeds: list[int]  # U
    seed_of_cell: Tensor  # [K], index into seeds
    strength: Tensor  # [K], NaN where a regularizer has none
    lr: Tensor  # [K, 1]
    data: Tensors
    arrays: Mapping[str, np.ndarray]
    dtype: torch.dtype
    evaluate: Callable[[Tensors], Tensors]  # parameters -> metrics [K], arrays [K, ...]

    @property
    def device(self) -> torch.device:
        """Where the stack trains."""
        return self.lr.device


@dataclass
class State:
    """What changes from step to step: all that a checkpoint must hold, since random numbers are drawn by step.

    Attributes:
        life: of the cells; nobody looks at the parameters of one that is not alive any more.
        ceiling: [K], the loss above which a cell is on its way to divergence.
        last: the regularized player's last update.
    """

    step: int
    parameters: Tensors
    moments: dict[str, Tensors]
    memory: list[Memory]
    carry: Tensors
    life: Life
    ceiling: Tensor
    last: Update | None = None

    @property
    def alive(self) -> Tensor:
        """Which cells have not diverged, [K]."""
        return self.life["alive"]

    def content(self) -> dict[str, Any]:
        """Return the state as containers of tensors, for a checkpoint. The last update is made anew each step."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "last"}

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take over what :meth:`content` gave."""
        for name, value in content.items():
            setattr(self, name, value)

    def pick(self, kept: Sequence[int], spans: Sequence[Span]) -> "State":
        """Return the state of some of the cells, given as ascending indices."""
        index = torch.tensor(kept, device=self.alive.device)

        def of(value: Any) -> Any:
            return (
                {name: of(item) for name, item in value.items()} if isinstance(value, dict) else value[index]
            )

        memory = []
        for span, state in zip(spans, self.memory, strict=True):
            inside = [k - span.cells.start for k in kept if span.cells.start <= k < span.cells.stop]
            if inside:
                memory.append({name: tensor[inside] for name, tensor in state.items()})
        per_cell = ("parameters", "moments", "carry", "life", "ceiling")
        return State(step=self.step, memory=memory, **{name: of(getattr(self, name)) for name in per_cell})

    def update(self, player: str, update: Update) -> None:
        """Take over the results of one player's update."""
        self.parameters = self.parameters | {player: update.parameters}
        self.moments = self.moments | {player: update.moments}
        self.memory, self.carry, self.life = update.memory, update.carry, update.life

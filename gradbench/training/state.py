"""The parts of a stack: those that are fixed, and those that change from step to step.

K cells, P parameters of a player, U different seeds, S strengths: as many as any of the cells' regularizers has.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gradbench.config.identity import WEIGHTS
from gradbench.functional.flat_params import Layout, Tensors, Weights
from gradbench.grid.cell import Cell
from gradbench.models import INTERACTION, Task
from gradbench.optimizers import Optimizer
from gradbench.regularizers import State as RegularizerState
from gradbench.training.divergence import Divergence, DivergenceState
from gradbench.training.interaction import Interact
from gradbench.training.regularize import RegularizerGroup


class PlayerState(NamedTuple):
    """What an update of a player changes, and may write over.

    Attributes:
        parameters: [K, P].
        optimizer_state: tensors [K, ...].
        buffers: of the network, by name, [K, ...] each.
    """

    parameters: Tensor
    optimizer_state: Tensors
    buffers: Tensors

    @property
    def weights(self) -> Weights:
        """Parameters and buffers."""
        return Weights(self.parameters, self.buffers)


class UpdateInputs(NamedTuple):
    """The inputs of an update beside the state of its player.

    Attributes:
        others: the other players' weights, by name.
        batch: tensors [K, B, ...]; [K, batches, B, ...] where an update takes several.
        carry: what the last update handed on, such as a recurrent state, [K, ...] each.
        strength: thresholds or lambdas, [K, S]; NaN where a regularizer has none, or fewer than S.
        regularizer_state: of each group's regularizer, tensors [k, ...].
        lr: learning rate, [K, 1]; a schedule's share of it is found in the update.
        schedule: numbers of the schedule, by key, [K, 1] each, float64.
        t: number of this update of the player, counted from 1; [], float64.
        noise_key: what each cell's noise inside modules, such as dropout, is drawn from; [K], int64.
        divergence_state: before the update.
        loss_limit: [K].
    """

    others: dict[str, Weights]
    batch: Tensors
    carry: Tensors
    strength: Tensor
    regularizer_state: list[RegularizerState]
    lr: Tensor
    schedule: Tensors
    t: Tensor
    noise_key: Tensor
    divergence_state: DivergenceState
    loss_limit: Tensor


@dataclass(frozen=True)
class Update:
    """The result of one update of a player's parameters.

    Attributes:
        own: the player's state after the step.
        loss: [K].
        penalty: [K].
        divergence_state: after the update.
        carry: handed on to the next update, [K, ...] each.
        norm: L2 norm of the gradient of loss and penalty, [K].
        regularizer_state: of each group's regularizer.
        gradient: [K, P]; ``None`` where a transform changes its direction and the two are not compared.
        used_norm: norm of the transformed gradient, [K], of a regularized player with telemetry. NaN where the
            transform changes directions and is not compared.
        transformed: the transformed gradient [K, P], where it was compared; ``None`` elsewhere.
        row: recorded series in the order of ``telemetry.series_of``, [K] each; ``None`` without telemetry.
    """

    own: PlayerState
    loss: Tensor
    penalty: Tensor
    divergence_state: DivergenceState
    carry: Tensors
    norm: Tensor
    regularizer_state: list[RegularizerState]
    gradient: Tensor | None = None
    used_norm: Tensor | None = None
    transformed: Tensor | None = None
    row: list[Tensor] | None = None

    @property
    def used(self) -> Tensor:
        """The gradient that the optimizer was given, [K, P]; computed from norms where it was only rescaled."""
        if self.transformed is not None:
            return self.transformed
        assert self.gradient is not None
        assert self.used_norm is not None
        return self.gradient * (self.used_norm / self.norm).nan_to_num(nan=1.0)[:, None]


@dataclass(frozen=True)
class PlayerStep:
    """A player's part of a training step, for all K cells.

    Attributes:
        name: the player's.
        steps: updates per training step.
        batches: batches per training step.
        regularized: whether it is the player that regularizers act on by default: all its series are recorded.
        transforms: whether any cell's regularizer transforms gradients.
        is_plain_sgd: whether a step is the transformed gradient times the learning rate, and nothing else.
        is_scheduled: whether the learning rate changes, and is recorded.
        due: ``step -> penalties`` that are paid at a training step, counted from 0: indices of their strengths.
        batch: ``(weights of every player, transitions [K, ...], data, draws, noise key [K], t of the first update) ->
            batches`` of all updates of a step, [K, batches, ...].
        update: ``(compares, due, own, inputs) -> Update``; ``compares`` says whether gradients whose direction is
            changed are compared with what they were.
    """

    name: str
    steps: int
    batches: int
    regularized: bool
    transforms: bool
    is_plain_sgd: bool
    is_scheduled: bool
    due: Callable[[int], frozenset[int]]
    batch: Callable[[dict[str, Weights], Tensors, Tensors, Tensors, Tensor, Tensor], Tensors]
    update: Callable[[bool, frozenset[int], PlayerState, UpdateInputs], Update]


@dataclass(frozen=True)
class StackContext:
    """The part of a stack that does not change from step to step.

    Attributes:
        cells: the whole stack.
        cell_indices: [K], indices into ``cells`` of those that are trained: all, until some have diverged.
        steps: training steps.
        eval_every: steps between evaluations.
        record_every: steps between rows of the table of curves.
        divergence: the rule by which a cell has diverged.
        model: what is trained.
        optimizer: shared by all players.
        players: in the order in which they are trained.
        layouts: of each player's flat parameters.
        weights: that all cells start from, by name; ``None`` where their seeds draw them.
        groups: cells that share a regularizer.
        seeds: the U different seeds.
        seed_of_cell: [K], index into ``seeds``.
        strength: thresholds or lambdas, [K, S]; NaN where a regularizer has none, or fewer than S.
        lr: learning rate, [K, 1].
        schedule: numbers of the schedule, by key, [K, 1] each, float64.
        data: on the device.
        arrays: the same data on the host.
        dtype: of parameters, gradients and norms.
        noise_keys: player or ``interaction`` -> what each cell's noise inside modules is drawn from, [K], int64.
        is_traced: whether all that a step runs is traced; else its course may depend on values.
        interact: the interactions of a training step; ``None`` for a model that has no environment.
        evaluate: ``(weights of every player, carry) -> metrics`` [K] and arrays [K, ...].
        sample: ``(weights of every player, carry) -> what their networks make``, [K, ...] each.
    """

    cells: Sequence[Cell]
    cell_indices: list[int]
    steps: int
    eval_every: int
    record_every: int
    divergence: Divergence
    model: Task
    optimizer: Optimizer
    players: list[PlayerStep]
    layouts: dict[str, Layout]
    weights: Mapping[str, Tensor] | None
    groups: list[RegularizerGroup]
    seeds: list[int]
    seed_of_cell: Tensor
    strength: Tensor
    lr: Tensor
    schedule: Tensors
    data: Tensors
    arrays: Mapping[str, np.ndarray]
    dtype: torch.dtype
    noise_keys: Tensors
    is_traced: bool
    interact: Interact | None
    evaluate: Callable[[dict[str, Weights], Tensors], Tensors]
    sample: Callable[[dict[str, Weights], Tensors], Tensors]

    @property
    def draws_per_step(self) -> dict[str, int]:
        """Purpose of random numbers -> how many draws a training step takes: one per batch, one for interactions."""
        return {player.name: player.batches for player in self.players} | (
            {INTERACTION: 1} if self.interact else {}
        )

    @property
    def is_exact(self) -> bool:
        """Whether each cell's numbers are the same, bit for bit, in a stack of any width.

        A user's own code is not known to keep them.
        """
        own_code = any(set(cell.sources) - {WEIGHTS} for cell in self.cells)
        rounds = self.device.type != "cpu" or self.cells[0].config["precision"] == "bfloat16"
        return self.model.width_tolerance == 0 and not own_code and not rounds

    @property
    def device(self) -> torch.device:
        """The device that the stack trains on."""
        return self.lr.device


@dataclass
class State:
    """The part of a stack that changes from step to step: all that a checkpoint holds, as draws depend on the step.

    Attributes:
        step: training steps taken.
        parameters: player -> [K, P]; those of a cell that has diverged mean nothing.
        buffers: player -> buffers and frozen parameters of its network, by name, [K, ...] each.
        optimizer_state: player -> tensors [K, ...].
        regularizer_state: player -> of each group's regularizer, tensors [k, ...].
        carry: handed from update to update, [K, ...] each.
        divergence_state: of the K cells.
        loss_limit: [K], the loss above which a cell is about to have diverged.
        last: the regularized player's last update; not in checkpoints.
    """

    step: int
    parameters: Tensors
    buffers: dict[str, Tensors]
    optimizer_state: dict[str, Tensors]
    regularizer_state: dict[str, list[RegularizerState]]
    carry: Tensors
    divergence_state: DivergenceState
    loss_limit: Tensor
    last: Update | None = None

    @property
    def active(self) -> Tensor:
        """Which cells have not diverged, [K]."""
        return self.divergence_state["active"]

    @property
    def weights(self) -> dict[str, Weights]:
        """Every player's parameters and buffers."""
        return {name: Weights(vectors, self.buffers[name]) for name, vectors in self.parameters.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state as containers of tensors, for a checkpoint."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "last"}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        for name, value in saved.items():
            setattr(self, name, value)

    def pick(self, kept: Sequence[int], groups: Sequence[RegularizerGroup]) -> "State":
        """Return the state of some of the cells, given as ascending indices."""
        index = torch.tensor(kept, device=self.active.device)

        def of(value: Any) -> Any:
            return (
                {name: of(item) for name, item in value.items()} if isinstance(value, dict) else value[index]
            )

        regularizer_state: dict[str, list[RegularizerState]] = {name: [] for name in self.regularizer_state}
        for place, group in enumerate(groups):
            inside = [k - group.cells.start for k in kept if group.cells.start <= k < group.cells.stop]
            for player, states in self.regularizer_state.items() if inside else ():
                picked = {name: tensor[inside] for name, tensor in states[place].items()}
                regularizer_state[player].append(picked)
        return State(
            step=self.step,
            parameters=of(self.parameters),
            buffers=of(self.buffers),
            optimizer_state=of(self.optimizer_state),
            regularizer_state=regularizer_state,
            carry=of(self.carry),
            divergence_state=of(self.divergence_state),
            loss_limit=of(self.loss_limit),
        )

    def take_over(self, player: str, update: Update) -> None:
        """Take over the results of one player's update."""
        self.parameters = self.parameters | {player: update.own.parameters}
        self.buffers = self.buffers | {player: update.own.buffers}
        self.optimizer_state = self.optimizer_state | {player: update.own.optimizer_state}
        self.regularizer_state = self.regularizer_state | {player: update.regularizer_state}
        self.carry, self.divergence_state = update.carry, update.divergence_state

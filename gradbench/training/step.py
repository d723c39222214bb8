"""One training step of a stack, called operation by operation.

K cells, U different seeds. A step never waits for the device: no value is read, no branch depends on a tensor.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gradbench.functional.flat_params import Tensors
from gradbench.training.draws import CHUNK
from gradbench.training.state import Setup, State
from gradbench.training.telemetry import Telemetry

Rows = dict[str, list[Tensor]]
"""Player -> what is recorded of its updates: one after another they are [updates, series, K]."""


class Calls:
    """How a stack's functions are run: their operations are called one by one."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def advance(self, state: State, draws: Mapping[str, Tensors], telemetry: Telemetry) -> None:
        """Take one training step of all K cells, and record it."""
        telemetry.record(self.take(state, draws, telemetry.compares(state.step + 1)))
        state.step += 1

    def take(self, state: State, draws: Mapping[str, Tensors], compares: bool) -> Rows:
        """Take a step with its part of a chunk's random numbers."""
        of_step = {}
        for player in self.setup.players:
            first = state.step % CHUNK * player.steps
            of_step[player.name] = {
                name: tensor_U[:, first : first + player.steps]
                for name, tensor_U in draws[player.name].items()
            }

        def count(steps: int, inner: int) -> Tensor:
            updates = state.step * steps + inner + 1
            return torch.full((), updates, dtype=torch.float64, device=self.setup.device)

        return take(self.setup, state, of_step, count, compares)

    def evaluate(self, state: State) -> Tensors:
        """Return metrics [K] and arrays [K, ...]."""
        return self.setup.evaluate(state.parameters)


def advance(setup: Setup, state: State, draws: Mapping[str, Tensors], telemetry: Telemetry) -> None:
    """Take one training step of all K cells: every player's updates in turn."""
    Calls(setup).advance(state, draws, telemetry)


def take(
    setup: Setup,
    state: State,
    draws: Mapping[str, Tensors],
    count: Callable[[int, int], Tensor],
    compares: bool,
) -> Rows:
    """Take a step: every player's updates in turn.

    Args:
        setup: of the stack.
        state: becomes the next one, but for its count of steps; that is read where it is the first or the last.
        draws: random numbers of this step, per player [U, player.steps, ...].
        count: ``(updates of a player per step, those before in this step) -> t``, which counts its updates from 1; [],
            where the stack trains: a value would be recorded as a constant.
        compares: as of ``StackedPlayer.update``.
    """
    rows: Rows = {}
    ceiling = state.ceiling if state.step else torch.full_like(state.ceiling, torch.inf)  # until there is one
    for player in setup.players:
        draw = {
            name: tensor_U.index_select(0, setup.seed_of_cell)
            for name, tensor_U in draws[player.name].items()
        }
        # of all its updates at once, [K, steps, ...]; one update's are wanted side by side
        batches = player.batch(state.parameters, setup.data, draw)
        batches = {name: tensor.transpose(0, 1).contiguous() for name, tensor in batches.items()}
        others = {name: vectors for name, vectors in state.parameters.items() if name != player.name}
        for inner in range(player.steps):
            batch = {name: tensor[inner] for name, tensor in batches.items()}
            update = player.update(
                compares,
                *(state.parameters[player.name], state.moments[player.name], others),
                *(batch, state.carry, setup.strength, state.memory, setup.lr),
                *(count(player.steps, inner), state.life),
                ceiling,
            )
            if player.regularized and state.step == 0:
                state.ceiling = torch.fmax(state.ceiling, setup.divergence.ceiling(update.loss))
            if player.regularized and state.step + 1 == setup.steps:
                state.last = update  # kept any earlier, its memory would be missing from the cache
            if update.row is not None:
                rows.setdefault(player.name, []).extend(update.row)
            state.update(player.name, update)
            del update  # the next one finds its memory in the cache
    return rows

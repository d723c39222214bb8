"""Take one training step of a stack: every player's updates in turn.

K cells, U different seeds. A step never waits for the device: no value is read, no branch depends on a tensor.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gradbench.functional.flat_params import Tensors
from gradbench.functional.noise import subkey
from gradbench.models import INTERACTION
from gradbench.training.draws import CHUNK
from gradbench.training.state import PlayerState, PlayerStep, StackContext, State, UpdateInputs
from gradbench.training.telemetry import Telemetry

Rows = dict[str, list[Tensor]]
"""Player -> rows of its updates, one after another: together they are [updates, series, K]."""


class EagerStepper:
    """Run a stack by calling its operations one by one.

    Args:
        context: of the stack.
    """

    def __init__(self, context: StackContext) -> None:
        self.context = context

    def advance(self, state: State, draws: Mapping[str, Tensors], telemetry: Telemetry) -> None:
        """Take one training step of all K cells, and record it."""
        telemetry.record(self.step(state, draws, telemetry.compares(state.step + 1)))
        state.step += 1

    def step(self, state: State, draws: Mapping[str, Tensors], compares: bool) -> Rows:
        """Take a step, with its part of a chunk's random numbers; ``state.step`` stays."""
        of_step = {}
        for purpose, count_of in self.context.draws_per_step.items():
            first = state.step % CHUNK * count_of
            of_step[purpose] = {
                name: tensor_U[:, first : first + count_of] for name, tensor_U in draws[purpose].items()
            }

        def count(steps: int, inner: int) -> Tensor:
            updates = state.step * steps + inner + 1
            return torch.full((), updates, dtype=torch.float64, device=self.context.device)

        return train_step(self.context, state, of_step, count, compares)

    def evaluate(self, state: State) -> Tensors:
        """Return metrics [K] and arrays [K, ...]."""
        return self.context.evaluate(state.weights, state.carry)


def train_step(
    context: StackContext,
    state: State,
    draws: Mapping[str, Tensors],
    count: Callable[[int, int], Tensor],
    compares: bool,
) -> Rows:
    """Take a step: interactions with an environment, where the model has one, and every player's updates in turn.

    Args:
        context: of the stack.
        state: becomes the next one, but for ``state.step``, which is read to tell the first step, the last, and those
            at which a penalty is due.
        draws: random numbers of this step, per purpose [U, batches (or 1), ...].
        count: ``(updates of a player per step, those before in this step) -> t``, the number of the update as a tensor
            on the device: a Python number would become a constant of the trace.
        compares: as of ``PlayerStep.update``.
    """
    rows: Rows = {}
    # there is none until the first loss is known
    loss_limit = state.loss_limit if state.step else torch.full_like(state.loss_limit, torch.inf)
    transitions = interact(context, state, draws, count(1, 0))
    for player in context.players:
        draw = of_cells(context, draws[player.name])
        # of all updates at once, [K, batches, ...]; then each batch [K, ...] is one piece of memory
        ts = [count(player.steps, inner) for inner in range(player.steps)]
        noise_key = context.noise_keys[player.name]
        batches = player.batch(state.weights, transitions, context.data, draw, noise_key, ts[0])
        batches = {name: tensor.transpose(0, 1).contiguous() for name, tensor in batches.items()}
        others = {name: weights for name, weights in state.weights.items() if name != player.name}
        for inner in range(player.steps):
            batch = {name: of_update(tensor, inner, player) for name, tensor in batches.items()}
            own = PlayerState(
                state.parameters[player.name], state.optimizer_state[player.name], state.buffers[player.name]
            )
            inputs = UpdateInputs(
                others=others,
                batch=batch,
                carry=state.carry,
                strength=context.strength,
                regularizer_state=state.regularizer_state[player.name],
                lr=context.lr,
                schedule=context.schedule,
                t=ts[inner],
                noise_key=noise_key,
                divergence_state=state.divergence_state,
                loss_limit=loss_limit,
            )
            update = player.update(compares, player.due(state.step), own, inputs)
            if player.regularized and state.step == 0:
                state.loss_limit = torch.fmax(state.loss_limit, context.divergence.loss_limit(update.loss))
            if player.regularized and state.step + 1 == context.steps:
                state.last = update  # not earlier: the next update could not reuse its memory
            if update.row is not None:
                rows.setdefault(player.name, []).extend(update.row)
            state.take_over(player.name, update)
            del own, update  # so that the next one can reuse their memory
    return rows


def interact(context: StackContext, state: State, draws: Mapping[str, Tensors], number: Tensor) -> Tensors:
    """Interact with the environment, and return the transitions, [K, T, ...] each; none without an environment.

    Args:
        context: of the stack.
        state: its carry becomes the next one.
        draws: as of :func:`train_step`; the first ones are used.
        number: of the training step, counted from 1.
    """
    if context.interact is None:
        return {}
    draw = {name: tensor[:, 0] for name, tensor in of_cells(context, draws[INTERACTION]).items()}
    noise_key = subkey(context.noise_keys[INTERACTION], number.long())
    transitions, state.carry = context.interact(state.weights, state.carry, draw, noise_key)
    return transitions


def of_cells(context: StackContext, draws: Tensors) -> Tensors:
    """Return every cell's random numbers. Shapes: [U, ...] -> [K, ...]."""
    return {name: tensor_U.index_select(0, context.seed_of_cell) for name, tensor_U in draws.items()}


def of_update(batches: Tensor, inner: int, player: PlayerStep) -> Tensor:
    """Return an update's part of a step's batches. Shapes: [batches, K, ...] -> [K, ...], or [K, several, ...]."""
    several = player.batches // player.steps
    if several == 1:
        return batches[inner]
    return batches[inner * several : (inner + 1) * several].transpose(0, 1)

"""The loss and the penalty that a player descends, stacked for K cells. B batch, P parameters of a player, S strengths.

Each part is written for one network and stacked by ``vmap``; what is differentiated is the stack. ``torch.func.grad``
inside ``vmap`` would give the same numbers, but it imports torch's compiler, which takes seconds.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from gradbench.functional.flat_params import Network, Tensors, Weights
from gradbench.functional.input_gradients import Evaluated
from gradbench.functional.noise import CounterNoise, subkey
from gradbench.models import MeanLoss, Player, Task, Values
from gradbench.regularizers import Regularizer
from gradbench.training.execution import StackProgram
from gradbench.training.points import AROUND, MOVES, chosen, is_default, move

Objective = Callable[..., tuple[Tensor, Tensor, Tensors, Tensors]]
"""``(own, others, batch, carry, strength [K, S], noise key [K]) -> loss [K], penalty [K], carry, buffers``.

Own and others are weights. Without K where cells run one after another.
"""


def build_objective(player: Player, stack: StackProgram, due: frozenset[int]) -> Objective:
    """Return the objective of a player: its loss, and of the penalties that its cells have those that are due."""
    penalties = [one for one in stack.penalised(player).penalties if one[0] in due]
    places = penalties_by_points(penalties, stack.program.model)
    network = OneNetwork(player, stack)

    def stacked(function: Callable[..., Any], noise_key: Tensor) -> Callable[..., Any]:
        """Stack a function; each call counts its random numbers anew, so that two passes share their masks."""
        run = function if stack.execution.one_by_one else vmap(function, randomness="different")

        def with_noise(*args: Any) -> Any:
            with CounterNoise(noise_key), stack.execution.kernels():
                return run(*args)

        return with_noise

    def plain(*args: Any) -> tuple[Tensor, Tensor, Tensors, Tensors]:
        *rest, _strength, noise_key = args
        loss, carried, buffers = stacked(network.loss, noise_key)(*rest)
        return loss, torch.zeros_like(loss), carried, buffers

    def penalised(*args: Any) -> tuple[Tensor, Tensor, Tensors, Tensors]:
        *rest, strength, noise_key = args
        passed: list[Any] = []
        terms = []
        for place, members in places.items():
            x = stacked(partial(network.points, place), noise_key)(*rest)
            if place == AROUND:
                x = stacked(move, subkey(noise_key, MOVES))(x)
            x = x if x.requires_grad else x.detach().requires_grad_()
            if isinstance(network.model, MeanLoss) and is_default(network.model, place):
                values_B, *passed = stacked(network.values_and_loss, noise_key)(x, *rest)
            else:
                values_B = stacked(partial(network.values, place), noise_key)(x, *rest)
                passed = passed or stacked(network.loss, noise_key)(*rest)
            (slopes,) = torch.autograd.grad(
                values_B.sum(), x, create_graph=True, allow_unused=True, materialize_grads=True
            )
            for index, part in members:
                weighted_penalty = stacked(partial(network.weighted_penalty, place, part), noise_key)
                term = weighted_penalty(x, values_B, slopes, strength[..., index], *rest)
                terms.append(term if part.every == 1 else part.every * term)
        loss, carried, buffers = passed
        return loss, sum(terms[1:], start=terms[0]), carried, buffers

    return penalised if places else plain


Penalties = list[tuple[int, Regularizer]]
"""Regularizers with a penalty, each with the index of its strength."""


def penalties_by_points(penalties: Penalties, model: Task) -> dict[str | None, Penalties]:
    """Return the penalties that are measured at each of a model's points.

    Points whose pass may serve the loss, too, come first.
    """
    places: dict[str | None, Penalties] = {}
    for index, part in sorted(penalties, key=lambda one: one[1].points == AROUND):
        places.setdefault(part.points or next(iter(model.probe_points), None), []).append((index, part))
    return places


class OneNetwork:
    """The parts of an objective, of one network: parameters are [P], batches [B, ...].

    A network's buffers move once per update, in the pass of its own player's loss; what other passes write is dropped.
    """

    def __init__(self, player: Player, stack: StackProgram) -> None:
        self.model, self.name, self.layouts = stack.program.model, player.name, stack.layouts
        low = stack.program.precision == "bfloat16"
        kind = stack.execution.device.type
        self.autocast = partial(torch.autocast, kind, torch.bfloat16) if low else contextlib.nullcontext

    def networks(self, own: Weights, others: dict[str, Weights]) -> dict[str, Network]:
        """Return every player's network with these weights."""
        return {key: self.layouts[key].bind(*weights) for key, weights in (others | {self.name: own}).items()}

    def loss(
        self, own: Weights, others: dict[str, Weights], batch: Tensors, carry: Tensors
    ) -> tuple[Tensor, Tensors, Tensors]:
        """Return the loss, what is carried on, and the own network's buffers afterwards."""
        nets = self.networks(own, others)
        with self.autocast():
            loss, carried = self.model.loss(self.name, nets, batch, carry)
        return loss.to(own.parameters.dtype), carried, nets[self.name].buffers

    def probe(
        self, place: str | None, nets: dict[str, Network], batch: Tensors, carry: Tensors
    ) -> tuple[Values, Tensor]:
        """Return the function and the points [B, ...] of a name where a penalty measures its gradient."""
        return chosen(self.model, self.model.probe(self.name, nets, batch, carry), place)

    def points(
        self, place: str | None, own: Weights, others: dict[str, Weights], batch: Tensors, carry: Tensors
    ) -> Tensor:
        """Return the points of a name alone, [B, ...]; those around others before they are moved."""
        with self.autocast():
            return self.probe(place, self.networks(own, others), batch, carry)[1]

    def values(
        self,
        place: str | None,
        x: Tensor,
        own: Weights,
        others: dict[str, Weights],
        batch: Tensors,
        carry: Tensors,
    ) -> Tensor:
        """Return the function's values at points, [B]."""
        with self.autocast():
            return self.probe(place, self.networks(own, others), batch, carry)[0](x)

    def values_and_loss(
        self, x: Tensor, own: Weights, others: dict[str, Weights], batch: Tensors, carry: Tensors
    ) -> tuple[Tensor, Tensor, Tensors, Tensors]:
        """Return a :class:`MeanLoss`'s values at its inputs [B], and what :meth:`loss` does, by one pass."""
        nets = self.networks(own, others)
        with self.autocast():
            assert isinstance(self.model, MeanLoss)
            values_B, carried = self.model.losses(self.name, nets, batch, carry)[0](x)
        loss = values_B.mean().to(own.parameters.dtype)
        return values_B, loss, carried, nets[self.name].buffers

    def weighted_penalty(
        self,
        place: str | None,
        regularizer: Regularizer,
        x: Tensor,
        values_B: Tensor,
        slopes: Tensor,
        strength: Tensor,
        own: Weights,
        others: dict[str, Weights],
        *rest: Any,
    ) -> Tensor:
        """Return the penalty at points whose values [B] and slopes [B, ...] are known."""
        with self.autocast():
            f = self.probe(place, self.networks(own, others), *rest)[0]
            assert regularizer.penalty is not None
            penalty = regularizer.penalty(Evaluated(f, x, values_B, slopes), x, strength)
        return penalty.to(own.parameters.dtype)

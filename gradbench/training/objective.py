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
from gradbench.functional.noise import CounterNoise
from gradbench.models import MeanLoss, Player, Task
from gradbench.regularizers import Penalty, Regularizer
from gradbench.training.execution import StackProgram

Objective = Callable[..., tuple[Tensor, Tensor, Tensors, Tensors]]
"""``(own, others, batch, carry, strength [K, S], noise key [K]) -> loss [K], penalty [K], carry, buffers``.

Own and others are weights. Without K where cells run one after another.
"""

Probe = tuple[Callable[[Tensor], tuple[Tensor, Tensors]], Tensor]
"""A function ``x [B, ...] -> values [B], carry``, and the points [B, ...] where a penalty measures its gradient."""


def build_objective(player: Player, stack: StackProgram) -> Objective:
    """Return the objective of a player: its loss, and the penalty where its cells have one."""
    acting = stack.acting(player)
    regularizer = acting[0].regularizer if acting else Regularizer()
    penalty_fn = regularizer.penalty
    network = OneNetwork(player, stack)

    def stacked(function: Callable[..., Any], noise_key: Tensor) -> Callable[..., Any]:
        """Stack a function; each call counts its random numbers anew, so that two passes share their masks."""
        run = function if stack.execution.one_by_one else vmap(function, randomness="different")

        def with_noise(*args: Any) -> Any:
            with CounterNoise(noise_key), stack.execution.kernels():
                return run(*args)

        return with_noise

    def plain(*args: Any) -> tuple[Tensor, Tensor, Tensors, Tensors]:
        *rest, noise_key = args
        loss, penalty, carried, buffers = stacked(network.loss_alone, noise_key)(*rest)
        return loss, penalty, carried, buffers

    def penalised(*args: Any) -> tuple[Tensor, Tensor, Tensors, Tensors]:
        *rest, strength, noise_key = args
        x = stacked(network.points, noise_key)(*rest)
        x = x if x.requires_grad else x.detach().requires_grad_()
        values_B, loss, carried, buffers = stacked(network.values, noise_key)(x, *rest)
        (slopes,) = torch.autograd.grad(
            values_B.sum(), x, create_graph=True, allow_unused=True, materialize_grads=True
        )
        assert penalty_fn is not None
        weighted_penalty = stacked(partial(network.weighted_penalty, penalty_fn), noise_key)
        penalty = weighted_penalty(x, values_B, slopes, regularizer.own(strength), *rest)
        return loss, penalty, carried, buffers

    return plain if penalty_fn is None else penalised


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

    def loss_alone(
        self, own: Weights, others: dict[str, Weights], batch: Tensors, carry: Tensors, _strength: Tensor
    ) -> tuple[Tensor, Tensor, Tensors, Tensors]:
        """Return the loss, a penalty of zero, what is carried on, and the own network's buffers afterwards."""
        nets = self.networks(own, others)
        with self.autocast():
            loss, carried = self.model.loss(self.name, nets, batch, carry)
        loss = loss.to(own.parameters.dtype)
        return loss, torch.zeros_like(loss), carried, nets[self.name].buffers

    def probe(self, nets: dict[str, Network], batch: Tensors, carry: Tensors) -> Probe:
        """Return the function and the points where a penalty measures its gradient."""
        return probe_of(self.model, self.name, nets, batch, carry)

    def points(self, own: Weights, others: dict[str, Weights], batch: Tensors, carry: Tensors) -> Tensor:
        """Return the points alone, [B, ...]."""
        with self.autocast():
            return self.probe(self.networks(own, others), batch, carry)[1]

    def values(
        self, x: Tensor, own: Weights, others: dict[str, Weights], batch: Tensors, carry: Tensors
    ) -> tuple[Tensor, Tensor, Tensors, Tensors]:
        """Return the function's values [B] at points, the loss, what is carried on, and the own buffers afterwards."""
        nets, dtype = self.networks(own, others), own.parameters.dtype
        with self.autocast():
            values_B, carried = self.probe(nets, batch, carry)[0](x)
            if isinstance(self.model, MeanLoss):  # one pass serves both
                return values_B, values_B.mean().to(dtype), carried, nets[self.name].buffers
            nets = self.networks(own, others)
            loss, carried = self.model.loss(self.name, nets, batch, carry)
        return values_B, loss.to(dtype), carried, nets[self.name].buffers

    def weighted_penalty(
        self,
        penalty_fn: Penalty,
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
            f = self.probe(self.networks(own, others), *rest)[0]
            penalty = penalty_fn(Evaluated(lambda x: f(x)[0], x, values_B, slopes), x, strength)
        return penalty.to(own.parameters.dtype)


def probe_of(model: Task, player: str, nets: dict[str, Network], batch: Tensors, carry: Tensors) -> Probe:
    """Return where a model has a penalty measured: its losses, where its loss is the mean of them."""
    if isinstance(model, MeanLoss):
        return model.losses(player, nets, batch, carry)
    f, points = model.probe(player, nets, batch, carry)
    return lambda x: (f(x), {}), points

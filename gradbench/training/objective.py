"""The loss and the penalty that a player descends, stacked for K cells. B batch, P parameters of a player.

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

from gradbench.functional.flat_params import Tensors
from gradbench.functional.input_gradients import Evaluated
from gradbench.models import MeanLoss, Model, Networks, Player
from gradbench.regularizers import Penalty
from gradbench.training.execution import StackProgram

Objective = Callable[..., tuple[Tensor, Tensor, Tensors]]
"""``(own [K, P], others, batch, carry, strength [K]) -> loss [K], penalty [K], carry``; without K for a fused stack."""

Probe = tuple[Callable[[Tensor], tuple[Tensor, Tensors]], Tensor]
"""A function ``x [B, ...] -> values [B], carry``, and the points [B, ...] where a penalty measures its gradient."""


def build_objective(player: Player, stack: StackProgram) -> Objective:
    """Return the objective of a player: its loss, and the penalty where its cells have one."""
    acting = stack.acting(player)
    penalty_fn = acting[0].regularizer.penalty if acting else None
    # what draws random numbers is refused by the tracer, which says what to do
    stacked = (lambda f: f) if stack.execution.fused else partial(vmap, randomness="different")
    network = OneNetwork(player, stack)
    if penalty_fn is None:
        return stacked(network.loss_alone)

    def penalised(*args: Any) -> tuple[Tensor, Tensor, Tensors]:
        *rest, strength = args
        x = stacked(network.points)(*rest)
        x = x if x.requires_grad else x.detach().requires_grad_()
        values_B, loss, carried = stacked(network.values)(x, *rest)
        (slopes,) = torch.autograd.grad(values_B.sum(), x, create_graph=True)
        weighted_penalty = partial(network.weighted_penalty, penalty_fn)
        return loss, stacked(weighted_penalty)(x, values_B, slopes, strength, *rest), carried

    return penalised


class OneNetwork:
    """The parts of an objective, of one network: parameters are [P], batches [B, ...]."""

    def __init__(self, player: Player, stack: StackProgram) -> None:
        self.model, self.name, self.layouts = stack.program.model, player.name, stack.layouts
        low = stack.program.precision == "bfloat16"
        kind = stack.execution.device.type
        self.autocast = partial(torch.autocast, kind, torch.bfloat16) if low else contextlib.nullcontext

    def networks(self, own: Tensor, others: Tensors) -> Networks:
        """Return every player's network with these parameters."""
        return {key: self.layouts[key].bind(vector) for key, vector in (others | {self.name: own}).items()}

    def loss_alone(
        self, own: Tensor, others: Tensors, batch: Tensors, carry: Tensors, _strength: Tensor
    ) -> tuple[Tensor, Tensor, Tensors]:
        """Return the loss, a penalty of zero, and what is carried on."""
        with self.autocast():
            loss, carried = self.model.loss(self.name, self.networks(own, others), batch, carry)
        loss = loss.to(own.dtype)
        return loss, torch.zeros_like(loss), carried

    def probe(self, own: Tensor, others: Tensors, batch: Tensors, carry: Tensors) -> Probe:
        """Return the function and the points where a penalty measures its gradient."""
        return probe_of(self.model, self.name, self.networks(own, others), batch, carry)

    def points(self, *args: Any) -> Tensor:
        """Return the points alone, [B, ...]."""
        with self.autocast():
            return self.probe(*args)[1]

    def values(
        self, x: Tensor, own: Tensor, others: Tensors, batch: Tensors, carry: Tensors
    ) -> tuple[Tensor, Tensor, Tensors]:
        """Return the function's values [B] at points, the loss, and what is carried on."""
        with self.autocast():
            values_B, carried = self.probe(own, others, batch, carry)[0](x)
            if isinstance(self.model, MeanLoss):  # one pass serves both
                return values_B, values_B.mean().to(own.dtype), carried
            loss, carried = self.model.loss(self.name, self.networks(own, others), batch, carry)
        return values_B, loss.to(own.dtype), carried

    def weighted_penalty(
        self,
        penalty_fn: Penalty,
        x: Tensor,
        values_B: Tensor,
        slopes: Tensor,
        strength: Tensor,
        own: Tensor,
        *rest: Any,
    ) -> Tensor:
        """Return the penalty at points whose values [B] and slopes [B, ...] are known."""
        with self.autocast():
            f = self.probe(own, *rest)[0]
            return penalty_fn(Evaluated(lambda x: f(x)[0], x, values_B, slopes), x, strength).to(own.dtype)


def probe_of(model: Model, player: str, nets: Networks, batch: Tensors, carry: Tensors) -> Probe:
    """Return where a model has a penalty measured: its losses, where its loss is the mean of them."""
    if isinstance(model, MeanLoss):
        return model.losses(player, nets, batch, carry)
    f, points = model.probe(player, nets, batch, carry)
    return lambda x: (f(x), {}), points

"""The loss and the penalty that a player descends, stacked for K cells. P parameters of a player."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from gradbench.functional.flat_params import Layout, Tensors
from gradbench.functional.input_gradients import Evaluated
from gradbench.models import MeanLoss, Model, Networks, Player
from gradbench.training.execution import Execution
from gradbench.training.program import Program
from gradbench.training.regularize import Span

Objective = Callable[..., tuple[Tensor, Tensor, Tensors]]
"""``(own, others, batch, carry, strength) -> loss, penalty, carry``."""


def objective_of(
    player: Player,
    program: Program,
    layouts: dict[str, Layout],
    spans: Sequence[Span],
    execution: Execution,
) -> Objective:
    """Return what a player descends: its loss, and the penalty where there is one. Of one network if fused, else of K.

    Each part is written for one network and stacked by ``vmap``; what is differentiated is the stack. ``torch.func``
    would differentiate one network inside ``vmap``: the same numbers, but it imports torch's compiler, for seconds.
    """
    model, name = program.model, player.name
    price = spans[0].regularizer.penalty if spans else None
    # what draws random numbers is refused by the tracer, which says what to do
    stacked = (lambda f: f) if execution.fused else partial(vmap, randomness="different")
    kind = execution.device.type
    autocast = (
        (lambda: torch.autocast(kind, torch.bfloat16))
        if program.precision == "bfloat16"
        else contextlib.nullcontext
    )

    def networks(own: Tensor, others: Tensors) -> Networks:
        return {key: layouts[key].bind(vectors) for key, vectors in (others | {name: own}).items()}

    def loss_alone(
        own: Tensor, others: Tensors, batch: Tensors, carry: Tensors, _strength: Tensor
    ) -> tuple[Tensor, Tensor, Tensors]:
        with autocast():
            loss, carried = model.loss(name, networks(own, others), batch, carry)
        loss = loss.to(own.dtype)
        return loss, torch.zeros_like(loss), carried

    if price is None:
        return stacked(loss_alone)

    def probe(own: Tensor, others: Tensors, batch: Tensors, carry: Tensors) -> Probe:
        return probe_of(model, name, networks(own, others), batch, carry)

    def points(*args: Any) -> Tensor:
        with autocast():
            return probe(*args)[1]

    def values(
        x: Tensor, own: Tensor, others: Tensors, batch: Tensors, carry: Tensors
    ) -> tuple[Tensor, Tensor, Tensors]:
        with autocast():
            values_B, carried = probe(own, others, batch, carry)[0](x)
            if isinstance(model, MeanLoss):  # one pass serves both
                return values_B, values_B.mean().to(own.dtype), carried
            loss, carried = model.loss(name, networks(own, others), batch, carry)
        return values_B, loss.to(own.dtype), carried

    def paid(
        x: Tensor, values_B: Tensor, slopes: Tensor, strength: Tensor, own: Tensor, *rest: Any
    ) -> Tensor:
        with autocast():
            f = probe(own, *rest)[0]
            return price(Evaluated(lambda x: f(x)[0], x, values_B, slopes), x, strength).to(own.dtype)

    def penalised(*args: Any) -> tuple[Tensor, Tensor, Tensors]:
        *rest, strength = args
        x = stacked(points)(*rest)
        x = x if x.requires_grad else x.detach().requires_grad_()
        values_B, loss, carried = stacked(values)(x, *rest)
        (slopes,) = torch.autograd.grad(values_B.sum(), x, create_graph=True)
        return loss, stacked(paid)(x, values_B, slopes, strength, *rest), carried

    return penalised


Probe = tuple[Callable[[Tensor], tuple[Tensor, Tensors]], Tensor]
"""A function ``x [B, ...] -> [B], carry`` and the points [B, ...] at which a penalty prices its gradient."""


def probe_of(model: Model, player: str, nets: Networks, batch: Tensors, carry: Tensors) -> Probe:
    """Return what a model has a penalty measured of: its losses, where its loss is the mean of them."""
    if isinstance(model, MeanLoss):
        return model.losses(player, nets, batch, carry)
    f, points = model.probe(player, nets, batch, carry)
    return lambda x: (f(x), {}), points

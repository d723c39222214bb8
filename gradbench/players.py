"""A player's part of a training step: written for one network, run for all K cells of a stack.

K cells, P parameters of a player.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from torch import Tensor
from torch.func import grad, vmap

from gradbench.batching import looped, recorded
from gradbench.grid import Cell
from gradbench.input_gradients import Evaluated
from gradbench.models import MeanLoss, Model, Networks, Player
from gradbench.parameters import Layout
from gradbench.program import Program, build_regularizer
from gradbench.regularizers import Regularizer
from gradbench.regularizers import State as Memory

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Span:
    """Contiguous cells of a stack that share a regularizer; ``program`` names it, its strength aside."""

    program: str
    regularizer: Regularizer
    cells: slice


@dataclass(frozen=True)
class StackedPlayer:
    """A player's part of a step, for all K cells.

    Attributes:
        batch: ``(parameters of every player, data, draws) -> batches`` of all updates of a step, [K, steps, ...].
        gradient: ``(own, parameters, batch, carry, strength) -> gradient [K, P], (loss [K], penalty [K], carry)``.
        transform: ``(gradient, strength, memory, own) -> used [K, P], memory``; ``None`` where no cell has any.
        project: ``(parameters [K, P], strength) -> parameters``; ``None`` where no cell has any.
    """

    name: str
    steps: int
    regularized: bool
    batch: Callable[[Tensors, Tensors, Tensors], Tensors]
    gradient: Callable[
        [Tensor, Tensors, Tensors, Tensors, Tensor], tuple[Tensor, tuple[Tensor, Tensor, Tensors]]
    ]
    transform: Callable[[Tensor, Tensor, list[Memory], Tensor], tuple[Tensor, list[Memory]]] | None
    project: Callable[[Tensor, Tensor], Tensor] | None


def spans_of(cells: Sequence[Cell]) -> list[Span]:
    """Return the spans of consecutive cells with the same regularizer, its strength aside.

    Raises:
        ValueError: where cells with different penalties share a stack.
    """
    spans, start = [], 0
    for program, group in groupby(cells, key=lambda cell: cell.regularizer_program):
        members = list(group)
        spans.append(Span(program, build_regularizer(members[0].config), slice(start, start + len(members))))
        start += len(members)
    if len(spans) > 1 and any(span.regularizer.penalty for span in spans):
        raise ValueError("cells with a penalty stack among themselves only")
    return spans


@dataclass(frozen=True)
class Execution:
    """How a stack's functions are run: it changes how long they take, and rounding at most.

    Args:
        device: where.
        fused: the networks use kernels that ``vmap`` cannot stack, so cells are looped over.
        record_after: calls of a function after which it is recorded and replayed.
        compiles: whether recordings are compiled.
    """

    device: torch.device
    fused: bool
    record_after: int
    compiles: bool = False


def execution_of(
    program: Program,
    spans: Sequence[Span],
    device: torch.device,
    kind: str,
    record_after: int,
    compiles: bool = False,
) -> Execution:
    """Choose how a stack is run, from what it is and on what kind of device: never from a stopwatch."""
    # on a CPU a fused kernel for one network beats operations over K; a GPU is only filled by the latter
    penalty = any(span.regularizer.penalty for span in spans)
    fused = program.model.fuses and kind == "cpu" and program.precision != "bfloat16" and not penalty
    return Execution(device, fused, record_after, compiles)


def stack_player(
    player: Player,
    program: Program,
    layouts: dict[str, Layout],
    spans: list[Span],
    execution: Execution,
    name: str,
) -> StackedPlayer:
    """Write a player's part of a step for one network, and stack it.

    Args:
        player: whose part.
        program: model, optimizer and precision.
        layouts: of every player's network.
        spans: the stack's regularizers.
        execution: how its functions are run.
        name: of the cells' program: what is recorded for one stack is replayed for others of its name and width.
    """
    model, layout = program.model, layouts[player.name]
    acting = spans if player.regularized else []
    objective = objective_of(player, program, layouts, acting, execution.device)

    def batch(parameters: Tensors, data: Tensors, draw: Tensors) -> Tensors:
        nets = {key: layouts[key].bind(value) for key, value in parameters.items()}
        return model.batch(player.name, nets, data, draw)

    def gradient(own: Tensor, *rest: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensors]]:
        own = own.detach().requires_grad_()
        value, (loss, penalty, carry) = objective(own, *rest)
        (slope,) = torch.autograd.grad(value, own)
        return slope, (loss.detach(), penalty, carry)

    K = spans[-1].cells.stop
    everyone = (name, player.name, K, str(execution.device))
    each = (*everyone, *((span.program, span.cells.stop) for span in acting))
    record = partial(recorded, after=execution.record_after, compiles=execution.compiles)
    return StackedPlayer(
        name=player.name,
        steps=player.steps,
        regularized=player.regularized,
        batch=record(vmap(vmap(batch, in_dims=(None, None, 0)), in_dims=(0, None, 0)), ("batch", *everyone)),
        gradient=looped(gradient, K)
        if execution.fused
        else record(vmap(grad(objective, has_aux=True)), ("gradient", *everyone)),
        transform=record(transform_of(acting, layout), ("transform", *each))
        if any(span.regularizer.transform for span in acting)
        else None,
        project=record(project_of(acting, layout), ("project", *each))
        if any(span.regularizer.project for span in acting)
        else None,
    )


Objective = Callable[..., tuple[Tensor, tuple[Tensor, Tensor, Tensors]]]


def objective_of(
    player: Player, program: Program, layouts: dict[str, Layout], spans: Sequence[Span], device: torch.device
) -> Objective:
    """Return one network's objective: loss, plus the penalty where there is one."""
    model, name = program.model, player.name
    price = spans[0].regularizer.penalty if spans else None
    autocast = (
        (lambda: torch.autocast(device.type, torch.bfloat16))
        if program.precision == "bfloat16"
        else contextlib.nullcontext
    )

    def objective(
        own: Tensor, parameters: Tensors, batch: Tensors, carry: Tensors, strength: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensors]]:
        nets = {key: layouts[key].bind(own if key == name else value) for key, value in parameters.items()}
        with autocast():
            if price is None:
                loss, carried = model.loss(name, nets, batch, carry)
                loss = loss.to(own.dtype)
                return loss, (loss, torch.zeros_like(loss), carried)
            loss, carried, f, points = loss_and_probe(model, name, nets, batch, carry)
            loss, penalty = loss.to(own.dtype), price(f, points, strength).to(own.dtype)
        return loss + penalty, (loss, penalty, carried)

    return objective


def loss_and_probe(
    model: Model, player: str, nets: Networks, batch: Tensors, carry: Tensors
) -> tuple[Tensor, Tensors, Callable[[Tensor], Tensor], Tensor]:
    """Return the loss, what is carried on, and the probe's function and points: of one forward pass if possible."""
    if isinstance(model, MeanLoss):
        f = Evaluated(*model.losses(player, nets, batch, carry))
        return f.values.mean(), f.aux, f, f.points
    loss, carried = model.loss(player, nets, batch, carry)
    return (loss, carried, *model.probe(player, nets, batch, carry))


def transform_of(
    spans: Sequence[Span], layout: Layout
) -> Callable[[Tensor, Tensor, list[Memory], Tensor], tuple[Tensor, list[Memory]]]:
    """Return the transform of the whole stack: each span's own, over its cells."""

    def transform(
        gradient: Tensor, strength: Tensor, memory: list[Memory], own: Tensor
    ) -> tuple[Tensor, list[Memory]]:
        used, remembered = [], []
        for span, state in zip(spans, memory, strict=True):
            raw, act = gradient[span.cells], span.regularizer.transform
            if act is not None:
                one = vmap(lambda g, c, s, p, act=act: act(g, c, s, p, layout))
                raw, state = one(raw, strength[span.cells], state, own[span.cells])
            used.append(raw)
            remembered.append(state)
        return torch.cat(used), remembered

    return transform


def project_of(spans: Sequence[Span], layout: Layout) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the projection of the whole stack: each span's own, over its cells."""

    def project(parameters: Tensor, strength: Tensor) -> Tensor:
        parts = []
        for span in spans:
            part, act = parameters[span.cells], span.regularizer.project
            if act is not None:
                part = vmap(lambda p, c, act=act: act(p, c, layout))(part, strength[span.cells])
            parts.append(part)
        return torch.cat(parts)

    return project

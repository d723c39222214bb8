"""A player's part of a training step: written for one network, run for all K cells of a stack.

K cells, P parameters of a player.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from gradbench.batching import looped
from gradbench.divergence import Divergence, Life, judged
from gradbench.grid import Cell
from gradbench.input_gradients import Evaluated
from gradbench.models import MeanLoss, Model, Networks, Player
from gradbench.parameters import Layout
from gradbench.program import Program, build_regularizer
from gradbench.regularizers import Regularizer
from gradbench.regularizers import State as Memory
from gradbench.series import BRIEF, FULL, effect
from gradbench.tracing.cache import traced

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Span:
    """Contiguous cells of a stack that share a regularizer; ``program`` names it, its strength aside."""

    program: str
    regularizer: Regularizer
    cells: slice


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
            bent gradients are compared with what they were; life and ceiling are those of ``gradbench.divergence``.
    """

    name: str
    steps: int
    regularized: bool
    transforms: bool
    straight: bool
    batch: Callable[[Tensors, Tensors, Tensors], Tensors]
    update: Callable[..., Update]


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
        traces: whether updates and batches are traced, and replayed.
        measures: whether there is a row of telemetry.
    """

    device: torch.device
    fused: bool
    traces: bool = True
    measures: bool = True


def execution_of(
    program: Program,
    spans: Sequence[Span],
    device: torch.device,
    kind: str,
    traces: bool = True,
    measures: bool = True,
) -> Execution:
    """Choose how a stack is run, from what it is and on what kind of device: never from a stopwatch."""
    # on a CPU a fused kernel for one network beats operations over K; a GPU is only filled by the latter
    penalty = any(span.regularizer.penalty for span in spans)
    fused = program.model.fuses and kind == "cpu" and program.precision != "bfloat16" and not penalty
    return Execution(device, fused, traces, measures)


def stack_player(
    player: Player,
    program: Program,
    layouts: dict[str, Layout],
    spans: list[Span],
    execution: Execution,
    divergence: Divergence,
    name: str,
) -> StackedPlayer:
    """Write a player's part of a step for one network, and stack it.

    Args:
        player: whose part.
        program: model, optimizer and precision.
        layouts: of every player's network.
        spans: the stack's regularizers.
        execution: how its functions are run.
        divergence: when a cell has diverged.
        name: of the cells' program: what is traced for one stack is replayed for others of its name and width.
    """
    model, layout = program.model, layouts[player.name]
    acting = spans if player.regularized else []
    objective = objective_of(player, program, layouts, acting, execution)

    def batch(parameters: Tensors, data: Tensors, draw: Tensors) -> Tensors:
        nets = {key: layouts[key].bind(value) for key, value in parameters.items()}
        return model.batch(player.name, nets, data, draw)

    def descend(own: Tensor, *rest: Any) -> dict[str, Any]:
        own = own.detach().requires_grad_()
        loss, penalty, carry = objective(own, *rest)
        # of the sum over cells: none depends on another's parameters
        total = (loss + penalty).sum()
        (slope,) = torch.autograd.grad(total, own, allow_unused=True, materialize_grads=True)
        carry = {name: tensor.detach() for name, tensor in carry.items()}
        return {"gradient": slope, "loss": loss.detach(), "penalty": penalty.detach(), "carry": carry}

    K = spans[-1].cells.stop
    acts = ((span.program, span.cells.stop) for span in spans)
    key = (name, player.name, K, str(execution.device), execution.measures, *acts)
    gradient = looped(descend, K) if execution.fused else descend
    step = step_of(player, program, layout, spans, execution, divergence)

    def updating(compares: bool) -> Callable[..., dict[str, Any]]:
        def whole(
            own: Tensor,
            moments: Tensors,
            others: Tensors,
            batch: Tensors,
            carry: Tensors,
            strength: Tensor,
            memory: list[Memory],
            *rest: Any,
        ) -> dict[str, Any]:
            made: dict[str, Any] = gradient(own, others, batch, carry, strength)
            return step(compares, made, own, moments, strength, memory, *rest)

        # nobody reads the old parameters and moments
        return traced(whole, ("update", compares, *key), donated=2) if execution.traces else whole

    comparable = execution.measures and any(span.regularizer.bends for span in acting)
    run = {compares: updating(compares) for compares in {False, comparable}}
    of_updates = vmap(batch, in_dims=(None, None, 0), randomness="different")
    batches = vmap(of_updates, in_dims=(0, None, 0), randomness="different")

    def update(compares: bool, *args: Any) -> Update:
        return Update(**run[compares and comparable](*args))

    return StackedPlayer(
        name=player.name,
        steps=player.steps,
        regularized=player.regularized,
        transforms=any(span.regularizer.transform for span in acting),
        straight=is_straight(program, acting),
        batch=traced(batches, ("batch", *key)) if execution.traces else batches,
        update=update,
    )


def is_straight(program: Program, acting: Sequence[Span]) -> bool:
    """Return whether a step is the gradient that is used times the learning rate: the norm of that tells its length."""
    return program.optimizer.straight and not any(span.regularizer.project for span in acting)


def step_of(
    player: Player,
    program: Program,
    layout: Layout,
    spans: Sequence[Span],
    execution: Execution,
    divergence: Divergence,
) -> Callable[..., dict[str, Any]]:
    """Return what follows a gradient: transform, the optimizer's step, projection, and what is recorded of them.

    That is ``(compares, made, own, moments, strength, memory, lr, t, life, ceiling) -> made``, which has the fields
    of an :class:`Update`; ``made`` has loss, penalty, carry and gradient already.
    """
    acting = spans if player.regularized else []
    transform, project = transform_of(acting, layout), project_of(acting, layout)
    bends = any(span.regularizer.bends for span in acting)
    straight = is_straight(program, acting)
    patience = divergence.patience * player.steps if player.regularized else None
    descent = program.optimizer.step_on(execution.device.type)

    def step(
        compares: bool,
        made: dict[str, Any],
        own: Tensor,
        moments: Tensors,
        strength: Tensor,
        memory: list[Memory],
        lr: Tensor,
        t: Tensor,
        life: Life,
        ceiling: Tensor,
    ) -> dict[str, Any]:
        gradient = made["gradient"]
        norm = norms_of(gradient)  # before a transform may write over it
        used, memory = transform(gradient, strength, memory, own)
        if execution.measures and player.regularized:
            made = made | {"used_norm": measured(compares, norms_of(used))}  # while it is in the cache
        parameters, moments = descent(own, used, moments, lr, t)
        parameters = project(parameters, strength)
        if bends and not compares:
            del made["gradient"]
        life = judged(life, made["loss"] + made["penalty"] + norm, made["loss"], ceiling, patience)
        made = made | {
            "parameters": parameters,
            "moments": moments,
            "memory": memory,
            "norm": norm,
            "life": life,
        }
        if not execution.measures:
            return made
        values = {"loss": made["loss"], "grad_norm": norm}
        if player.regularized:
            values |= effects(compares, gradient, used, norm, made["used_norm"])
            values |= {"penalty": made["penalty"], "grad_norm_used": made["used_norm"]}
            values["update_norm"] = (
                torch.full_like(norm, torch.nan)
                if straight
                else measured(compares, torch.linalg.vector_norm(parameters - own, dim=1))
            )
        made["row"] = [values[name] for name in (FULL if player.regularized else BRIEF)]
        return made | ({"bent": used} if compares else {})

    def effects(compares: bool, gradient: Tensor, used: Tensor, norm: Tensor, used_norm: Tensor) -> Tensors:
        parts = []
        for span in spans:
            cells, norms = span.cells, (norm[span.cells], used_norm[span.cells])
            if compares and span.regularizer.bends:
                parts.append(effect(gradient[cells], used[cells], *norms))
            else:  # where directions are kept, norms tell, many steps at once
                parts.append((torch.full_like(norms[0], torch.nan),) * 2)
        clipped, cosine = map(together, zip(*parts, strict=True))
        return {"clipped": clipped, "cosine": cosine}

    def norms_of(vectors: Tensor) -> Tensor:
        # over the cells that a transform takes the norm of, so that it is taken once
        return together([torch.linalg.vector_norm(vectors[span.cells], dim=1) for span in spans])

    def measured(compares: bool, norms: Tensor) -> Tensor:
        # of what is bent they take a pass: where directions are kept, the norm before tells
        parts = [norms[span.cells] for span in spans]
        for index, span in enumerate(spans):
            if span.regularizer.bends and not compares:
                parts[index] = torch.full_like(parts[index], torch.nan)
        return together(parts)

    return step


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


def transform_of(
    spans: Sequence[Span], layout: Layout
) -> Callable[[Tensor, Tensor, list[Memory], Tensor], tuple[Tensor, list[Memory]]]:
    """Return the transform of the whole stack: each span's own, over its cells."""

    def transform(
        gradient: Tensor, strength: Tensor, memory: list[Memory], own: Tensor
    ) -> tuple[Tensor, list[Memory]]:
        if not any(span.regularizer.transform for span in spans):
            return gradient, memory
        used, remembered = [], []
        for span, state in zip(spans, memory, strict=True):
            raw, act = gradient[span.cells], span.regularizer.transform
            if act is not None:
                one = vmap(lambda g, c, s, p, act=act: act(g, c, s, p, layout))
                raw, state = one(raw, strength[span.cells], state, own[span.cells])
            used.append(raw)
            remembered.append(state)
        return together(used), remembered

    return transform


def project_of(spans: Sequence[Span], layout: Layout) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the projection of the whole stack: each span's own, over its cells."""

    def project(parameters: Tensor, strength: Tensor) -> Tensor:
        if not any(span.regularizer.project for span in spans):
            return parameters
        parts = []
        for span in spans:
            part, act = parameters[span.cells], span.regularizer.project
            if act is not None:
                part = vmap(lambda p, c, act=act: act(p, c, layout))(part, strength[span.cells])
            parts.append(part)
        return together(parts)

    return project


def together(parts: Sequence[Tensor]) -> Tensor:
    """Return the parts of a stack as one tensor."""
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]

"""A player's part of a training step: written for one network, run for all K cells of a stack.

K cells, P parameters of a player.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from gradbench.functional.flat_params import Layout, Tensors
from gradbench.functional.loop import looped
from gradbench.models import Player
from gradbench.regularizers import State as Memory
from gradbench.tracing.cache import traced
from gradbench.training.divergence import Divergence, Life, judged
from gradbench.training.execution import Execution
from gradbench.training.objective import objective_of
from gradbench.training.program import Program
from gradbench.training.regularize import Span, project_of, together, transform_of
from gradbench.training.series import BRIEF, FULL, effect
from gradbench.training.state import StackedPlayer, Update


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

"""One update of a player, for all K cells of a stack: gradient, transform, optimizer step, projection, record.

B batch, P parameters of a player.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from gradbench.functional.flat_params import Tensors
from gradbench.functional.sequential_vmap import sequential_vmap
from gradbench.models import Player
from gradbench.tracing.cache import traced
from gradbench.training.divergence import update_divergence_state
from gradbench.training.execution import StackProgram
from gradbench.training.objective import build_objective
from gradbench.training.program import Program
from gradbench.training.regularize import RegularizerGroup, stack_projections, stack_transforms
from gradbench.training.series import BRIEF, FULL, group_effects, group_norms, unless_changed
from gradbench.training.state import PlayerState, PlayerStep, Update, UpdateInputs

Parts = dict[str, Any]
"""Fields of an :class:`Update`, as far as they are known."""


def build_player_step(player: Player, stack: StackProgram) -> PlayerStep:
    """Build a player's part of a training step."""
    execution, acting = stack.execution, stack.acting(player)
    gradient = build_gradient(player, stack)
    follow = build_follow(player, stack)
    K = stack.groups[-1].cells.stop
    places = ((group.program, group.cells.stop) for group in stack.groups)
    key = (stack.key, player.name, K, str(execution.device), execution.with_telemetry, *places)

    def build(compares: bool) -> Callable[[PlayerState, UpdateInputs], tuple[tuple[Any, ...], Parts]]:
        def whole(own: PlayerState, inputs: UpdateInputs) -> tuple[tuple[Any, ...], Parts]:
            after, parts = follow(compares, gradient(own, inputs), own, inputs)
            return tuple(after), parts  # plain: older versions of torch.fx write no code for named tuples

        # nobody reads the parameters and the optimizer's state of before
        return traced(whole, ("update", compares, *key), donated=1) if execution.traces else whole

    can_compare = execution.with_telemetry and any(group.regularizer.changes_direction for group in acting)
    updates = {compares: build(compares) for compares in {False, can_compare}}

    def update(compares: bool, own: PlayerState, inputs: UpdateInputs) -> Update:
        after, parts = updates[compares and can_compare](own, inputs)
        return Update(own=PlayerState(*after), **parts)

    batch = build_batch(player, stack)
    return PlayerStep(
        name=player.name,
        steps=player.steps,
        regularized=player.regularized,
        transforms=any(group.regularizer.transform for group in acting),
        is_plain_sgd=is_plain_sgd(stack.program, acting),
        batch=traced(batch, ("batch", *key)) if execution.traces else batch,
        update=update,
    )


def is_plain_sgd(program: Program, acting: Sequence[RegularizerGroup]) -> bool:
    """Return whether a step is the transformed gradient times the learning rate, and nothing else."""
    return program.optimizer.is_plain_sgd and not any(group.regularizer.project for group in acting)


def build_batch(player: Player, stack: StackProgram) -> Callable[[Tensors, Tensors, Tensors], Tensors]:
    """Return ``(parameters of every player, data, draws [K, steps, ...]) -> batches [K, steps, B, ...]``."""

    def batch(parameters: Tensors, data: Tensors, draw: Tensors) -> Tensors:
        nets = {name: stack.layouts[name].bind(vector) for name, vector in parameters.items()}
        return stack.program.model.batch(player.name, nets, data, draw)

    of_updates = vmap(batch, in_dims=(None, None, 0), randomness="different")
    return vmap(of_updates, in_dims=(0, None, 0), randomness="different")


def build_gradient(player: Player, stack: StackProgram) -> Callable[[PlayerState, UpdateInputs], Parts]:
    """Return a function that gives the gradient of loss and penalty, and both of them."""
    objective = build_objective(player, stack)

    def descend(own: Tensor, *rest: Any) -> Parts:
        own = own.detach().requires_grad_()
        loss, penalty, carry = objective(own, *rest)
        # of the sum over cells: none depends on another's parameters
        total = (loss + penalty).sum()
        (gradient,) = torch.autograd.grad(total, own, allow_unused=True, materialize_grads=True)
        carry = {name: tensor.detach() for name, tensor in carry.items()}
        return {"gradient": gradient, "loss": loss.detach(), "penalty": penalty.detach(), "carry": carry}

    run = sequential_vmap(descend, stack.groups[-1].cells.stop) if stack.execution.fused else descend

    def gradient(own: PlayerState, inputs: UpdateInputs) -> Parts:
        parts: Parts = run(own.parameters, inputs.others, inputs.batch, inputs.carry, inputs.strength)
        return parts

    return gradient


def build_follow(
    player: Player, stack: StackProgram
) -> Callable[[bool, Parts, PlayerState, UpdateInputs], tuple[PlayerState, Parts]]:
    """Build what follows a gradient: transform, optimizer step, projection, divergence and record.

    The result is ``(compares, parts, own, inputs) -> own, parts``; the parts given are those of :func:`build_gradient`.
    """
    acting, layout = stack.acting(player), stack.layouts[player.name]
    transform, project = stack_transforms(acting, layout), stack_projections(acting, layout)
    changes_direction = any(group.regularizer.changes_direction for group in acting)
    patience = stack.divergence.patience * player.steps if player.regularized else None
    optimizer_step = stack.program.optimizer.step_on(stack.execution.device.type)
    with_telemetry = stack.execution.with_telemetry
    record = build_record(player, stack)

    def follow(
        compares: bool, parts: Parts, own: PlayerState, inputs: UpdateInputs
    ) -> tuple[PlayerState, Parts]:
        gradient, loss = parts["gradient"], parts["loss"]
        norm = group_norms(gradient, stack.groups)  # before a transform may write over it
        used, states = transform(gradient, inputs.strength, inputs.regularizer_state, own.parameters)
        parts = parts | {"norm": norm, "regularizer_state": states}
        if with_telemetry and player.regularized:  # while the gradient is in the cache
            used_norm = group_norms(used, stack.groups)
            parts["used_norm"] = unless_changed(used_norm, stack.groups, compares)
        parameters, optimizer_state = optimizer_step(
            own.parameters, used, own.optimizer_state, inputs.lr, inputs.t
        )
        after = PlayerState(project(parameters, inputs.strength), optimizer_state)
        if changes_direction and not compares:
            del parts["gradient"]
        sizes = loss + parts["penalty"] + norm
        parts["divergence_state"] = update_divergence_state(
            inputs.divergence_state, sizes, loss, inputs.loss_limit, patience
        )
        if with_telemetry:
            parts["row"] = record(compares, parts, (gradient, used), (own, after))
        return after, parts | ({"transformed": used} if compares else {})

    return follow


def build_record(
    player: Player, stack: StackProgram
) -> Callable[[bool, Parts, tuple[Tensor, Tensor], tuple[PlayerState, PlayerState]], list[Tensor]]:
    """Build ``(compares, parts, gradients, states) -> row``, the recorded series of an update, [K] each.

    The gradients are those before and after the transform, the states those before and after the step.
    """
    plain, groups = is_plain_sgd(stack.program, stack.acting(player)), stack.groups

    def record(
        compares: bool,
        parts: Parts,
        gradients: tuple[Tensor, Tensor],
        states: tuple[PlayerState, PlayerState],
    ) -> list[Tensor]:
        norm = parts["norm"]
        values = {"loss": parts["loss"], "grad_norm": norm}
        if not player.regularized:
            return [values[name] for name in BRIEF]
        used_norm = parts["used_norm"]
        values |= group_effects(*gradients, (norm, used_norm), groups, compares)
        values |= {"penalty": parts["penalty"], "grad_norm_used": used_norm}
        if plain:  # derived from norms later
            values["update_norm"] = torch.full_like(norm, torch.nan)
        else:
            own, after = states
            length = torch.linalg.vector_norm(after.parameters - own.parameters, dim=1)
            values["update_norm"] = unless_changed(length, groups, compares)
        return [values[name] for name in FULL]

    return record

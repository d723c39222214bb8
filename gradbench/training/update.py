"""One update of a player, for all K cells of a stack: gradient, transform, optimizer step, projection, record.

B batch, P parameters of a player.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from gradbench.functional.flat_params import Tensors, Weights
from gradbench.functional.noise import CounterNoise, subkey
from gradbench.functional.sequential_vmap import sequential_vmap
from gradbench.functional.torch_internals import tree_map
from gradbench.models import Player
from gradbench.tracing.cache import materialize, traced
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
    K = stack.groups[-1].cells.stop
    places = ((group.program, group.cells.stop) for group in stack.groups)
    key = (player.name, str(execution.device), execution.with_telemetry, stack.key, K, *places)
    changes = player.regularized and any(group.regularizer.changes_direction for group in acting)
    can_compare = execution.with_telemetry and changes
    # a fused kernel is few operations, which one program holds for all networks
    build = build_one_by_one if execution.one_by_one and not execution.fused else build_whole
    # a program for each kind of step: which compare, and which pay which penalties
    program = cache(lambda compares, due: build(compares, due, player, stack, key))

    def update(compares: bool, due: frozenset[int], own: PlayerState, inputs: UpdateInputs) -> Update:
        after, parts = program(compares and can_compare, due)(own, inputs)
        return Update(own=PlayerState(*after), **parts)

    return PlayerStep(
        name=player.name,
        steps=player.steps,
        batches=player.steps * stack.program.accumulate,
        regularized=player.regularized,
        transforms=any(group.regularizer.transform for group in acting),
        is_plain_sgd=is_plain_sgd(stack.program, acting),
        is_scheduled=stack.program.schedule is not None,
        due=stack.penalised(player).due,
        batch=build_batch(player, stack, key),
        update=update,
    )


Step = Callable[[PlayerState, UpdateInputs], tuple[tuple[Any, ...], Parts]]
"""``(own, inputs) -> own, parts``, as plain tuples and dicts: older versions of torch.fx write no code for others."""


def build_whole(
    compares: bool, due: frozenset[int], player: Player, stack: StackProgram, key: tuple[Any, ...]
) -> Step:
    """Build an update as one program of all cells."""
    gradient, follow = build_gradient(player, stack, due), build_follow(player, stack)
    K = stack.groups[-1].cells.stop

    def whole(own: PlayerState, inputs: UpdateInputs) -> tuple[tuple[Any, ...], Parts]:
        args = gradient_args(own, inputs, K)
        parts = (sequential_vmap(gradient, K) if stack.execution.one_by_one else gradient)(*args)
        after, parts = follow(compares, parts, own, inputs)
        return tuple(after), parts

    # nobody reads the parameters and the optimizer's state of before
    return traced(whole, ("update", compares, due, *key), donated=1) if stack.execution.traces else whole


def build_one_by_one(
    compares: bool, due: frozenset[int], player: Player, stack: StackProgram, key: tuple[Any, ...]
) -> Step:
    """Build an update that finds one network's gradient after another; what follows is one program of all cells."""
    execution, K = stack.execution, stack.groups[-1].cells.stop
    gradient, follow = build_gradient(player, stack, due), build_follow(player, stack)

    def rest(own: PlayerState, inputs: UpdateInputs, parts: Parts) -> tuple[tuple[Any, ...], Parts]:
        after, parts = follow(compares, parts, own, inputs)
        return tuple(after), parts

    if execution.traces:
        rest = traced(rest, ("follow", compares, *key), donated=1)
    if execution.traces and execution.traces_networks:
        name, device, _telemetry, program, *_ = key
        gradient = traced(gradient, ("gradient", due, name, device, program, stack.groups[0].program))
    one_by_one = sequential_vmap(gradient, K)

    def whole(own: PlayerState, inputs: UpdateInputs) -> tuple[tuple[Any, ...], Parts]:
        args = gradient_args(own, inputs, K)
        # what a trace returned is no tensor that autograd takes
        parts = one_by_one(*(args if execution.traces_networks else tree_map(materialize, args)))
        return rest(own, inputs, parts)

    return whole


def gradient_args(own: PlayerState, inputs: UpdateInputs, K: int) -> tuple[Any, ...]:
    """Return what a gradient depends on, everything with a leading axis K."""
    rest = (inputs.others, inputs.batch, inputs.carry, inputs.strength, inputs.noise_key)
    return own.weights, *rest, inputs.t.expand(K)


def is_plain_sgd(program: Program, acting: Sequence[RegularizerGroup]) -> bool:
    """Return whether a step is the transformed gradient times the learning rate, and nothing else."""
    return program.optimizer.is_plain_sgd and not any(group.regularizer.project for group in acting)


def build_batch(
    player: Player, stack: StackProgram, key: tuple[Any, ...]
) -> Callable[[dict[str, Weights], Tensors, Tensors, Tensors, Tensor, Tensor], Tensors]:
    """Build ``(weights, transitions, data, draws, noise key [K], t) -> batches [K, batches, B, ...]``.

    The weights are every player's, transitions [K, T, ...] each, draws [K, batches, ...], and t is the number of the
    step's first update.
    """
    execution, K, several = stack.execution, stack.groups[-1].cells.stop, stack.program.accumulate
    model = stack.program.model
    # the batches of a single player are made of data alone, unless it interacts with an environment
    one_by_one = execution.one_by_one and (len(stack.layouts) > 1 or model.interacts)

    def batch(weights: dict[str, Weights], draw: Tensors, transitions: Tensors, data: Tensors) -> Tensors:
        nets = {name: stack.layouts[name].bind(*own) for name, own in weights.items()}
        return model.batch(player.name, nets, data | transitions, draw)

    def numbers_of_batches(t: Tensor) -> Tensor:
        """Return the numbers of a step's batches, counted from 1, from that of its first update."""
        return (t.long() - 1) * several + torch.arange(1, player.steps * several + 1, device=t.device)

    of_updates = vmap(batch, in_dims=(None, 0, None, None), randomness="different")
    of_cells = vmap(of_updates, in_dims=(0, 0, 0, None), randomness="different")

    def batches(
        weights: dict[str, Weights],
        transitions: Tensors,
        data: Tensors,
        draw: Tensors,
        noise_key: Tensor,
        t: Tensor,
    ) -> Tensors:
        with CounterNoise(batch_key(noise_key, numbers_of_batches(t))), execution.kernels():
            return of_cells(weights, draw, transitions, data)

    def batches_one_by_one(
        weights: dict[str, Weights],
        transitions: Tensors,
        data: Tensors,
        draw: Tensors,
        noise_key: Tensor,
        t: Tensor,
    ) -> Tensors:
        def of_cell(weights: dict[str, Weights], transitions: Tensors, draw: Tensors, key: Tensor) -> Tensors:
            def of_update(draw: Tensors, key: Tensor) -> Tensors:
                with torch.no_grad(), CounterNoise(key), execution.kernels():
                    return batch(weights, draw, transitions, data)

            found: Tensors = sequential_vmap(of_update, player.steps * several)(draw, key)
            return found

        keys = batch_key(noise_key, numbers_of_batches(t))
        found: Tensors = sequential_vmap(of_cell, K)(weights, transitions, draw, keys)
        return found

    run = batches_one_by_one if one_by_one else batches
    if execution.traces and (execution.traces_networks or not one_by_one):
        return traced(run, ("batch", *key))
    return run


BATCHES = -2
"""Index of the noise key for making batches; those of passes are the numbers of their batches, from 1."""


def batch_key(noise_key: Tensor, t: Tensor) -> Tensor:
    """Return what the noise in making batches is drawn from, by number. Shapes: [K], [batches] -> [K, batches]."""
    return subkey(subkey(noise_key, BATCHES)[..., None], t)


def build_gradient(player: Player, stack: StackProgram, due: frozenset[int]) -> Callable[..., Parts]:
    """Build a function of :func:`gradient_args` that gives the gradient of loss and penalty, and both of them.

    The penalty is the sum of those that are due.

    Where networks run one by one it is of one network's arguments.
    """
    objective = build_objective(player, stack, due)

    def gradient(
        own: Weights,
        others: dict[str, Weights],
        batch: Tensors,
        carry: Tensors,
        strength: Tensor,
        noise_key: Tensor,
        t: Tensor,
    ) -> Parts:
        parameters = own.parameters.detach().requires_grad_()
        key = subkey(noise_key, t.long())
        loss, penalty, carry, buffers = objective(
            Weights(parameters, own.buffers), others, batch, carry, strength, key
        )
        # of the sum over cells: none depends on another's parameters
        total = (loss + penalty).sum()
        (found,) = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
        parts = {"gradient": found, "loss": loss, "penalty": penalty, "carry": carry, "buffers": buffers}
        detached: Parts = tree_map(torch.detach, parts)
        return detached

    several = stack.program.accumulate
    return (
        gradient if several == 1 else mean_of(gradient, several, axis=0 if stack.execution.one_by_one else 1)
    )


def mean_of(gradient: Callable[..., Parts], several: int, axis: int) -> Callable[..., Parts]:
    """Return the function that finds the parts of several batches one after another, and their means.

    What is carried on, and buffers, go from each to the next; noise is that of the batch's own number.

    Args:
        gradient: of one batch.
        several: number of batches.
        axis: of the batches, in what the returned function is given.
    """

    def mean(
        own: Weights,
        others: dict[str, Weights],
        batches: Tensors,
        carry: Tensors,
        strength: Tensor,
        noise_key: Tensor,
        t: Tensor,
    ) -> Parts:
        total: Parts = {}
        for place in range(several):
            batch = {name: tensor.select(axis, place) for name, tensor in batches.items()}
            parts = gradient(own, others, batch, carry, strength, noise_key, (t - 1) * several + (place + 1))
            own, carry = Weights(own.parameters, parts["buffers"]), parts["carry"]
            total = parts | {name: total[name] + parts[name] for name in MEANS if total}
        return total | {name: total[name] / several for name in MEANS}

    return mean


MEANS = ("gradient", "loss", "penalty")
"""Parts that are means over the batches of an update."""


def build_rate(player: Player, stack: StackProgram) -> Callable[[UpdateInputs], Tensor]:
    """Build a function of an update's inputs that gives its learning rate, [K, 1]: that of its training step."""
    schedule = stack.program.schedule
    if schedule is None:
        return lambda inputs: inputs.lr

    def rate(inputs: UpdateInputs) -> Tensor:
        taken = torch.floor((inputs.t - 1) / player.steps)
        return (inputs.lr * schedule(taken, inputs.schedule)).to(inputs.lr.dtype)

    return rate


def build_follow(
    player: Player, stack: StackProgram
) -> Callable[[bool, Parts, PlayerState, UpdateInputs], tuple[PlayerState, Parts]]:
    """Build what follows a gradient: transform, optimizer step, projection, divergence and record.

    The result is ``(compares, parts, own, inputs) -> own, parts``; the parts given are those of :func:`build_gradient`.
    """
    acting, layout = stack.acting(player), stack.layouts[player.name]
    transform, project = stack_transforms(acting, layout), stack_projections(acting, layout)
    changes_direction = player.regularized and any(group.regularizer.changes_direction for group in acting)
    patience = stack.divergence.patience * player.steps if player.regularized else None
    optimizer_step = stack.program.optimizer.step_on(stack.execution.device.type)
    with_telemetry = stack.execution.with_telemetry
    record, rate = build_record(player, stack), build_rate(player, stack)

    def follow(
        compares: bool, parts: Parts, own: PlayerState, inputs: UpdateInputs
    ) -> tuple[PlayerState, Parts]:
        gradient, loss = parts["gradient"], parts["loss"]
        norm = group_norms(gradient, stack.groups)  # before a transform may write over it
        lr = rate(inputs)
        given = {"loss": loss, "lr": lr[:, 0]}
        used, states = transform(gradient, inputs.strength, inputs.regularizer_state, own.parameters, given)
        parts = parts | {"norm": norm, "regularizer_state": states}
        if with_telemetry and player.regularized:  # while the gradient is in the cache
            used_norm = group_norms(used, stack.groups)
            parts["used_norm"] = unless_changed(used_norm, stack.groups, compares)
        parameters, optimizer_state = optimizer_step(
            own.parameters, used, own.optimizer_state, lr, inputs.t, layout
        )
        after = PlayerState(project(parameters, inputs.strength), optimizer_state, parts["buffers"])
        del parts["buffers"]
        if changes_direction and not compares:
            del parts["gradient"]
        sizes = loss + parts["penalty"] + norm
        parts["divergence_state"] = update_divergence_state(
            inputs.divergence_state, sizes, loss, inputs.loss_limit, patience
        )
        if with_telemetry:
            parts["row"] = record(compares, parts, (gradient, used), (own, after))
            if player.regularized and stack.program.schedule is not None:
                parts["row"].append(lr[:, 0])
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

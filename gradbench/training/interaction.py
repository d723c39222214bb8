"""Let the networks of a stack interact with an environment, one interaction after another. K cells, T interactions."""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor
from torch.func import vmap

from gradbench.functional.flat_params import Layout, Tensors, Weights
from gradbench.functional.noise import CounterNoise, subkey
from gradbench.functional.sequential_vmap import sequential_vmap
from gradbench.models import Networks, Task
from gradbench.tracing.cache import traced
from gradbench.training.execution import Execution

Interact = Callable[[dict[str, Weights], Tensors, Tensors, Tensor], tuple[Tensors, Tensors]]
"""``(weights, carry [K, ...], draws [K, T, ...], noise key [K]) -> transitions [K, T, ...], carry``."""


def build_interact(
    model: Task, layouts: dict[str, Layout], execution: Execution, K: int, key: Hashable
) -> Interact:
    """Build the interactions of K cells before a training step's updates, or of an evaluation.

    One interaction is traced and replayed: a trace of hundreds would be as long.

    Args:
        model: interacts.
        layouts: of its networks.
        execution: how the stack is run.
        K: number of cells.
        key: equal for stacks that compute the same, but for the shapes of draws.
    """

    def interact(weights: dict[str, Weights], carry: Tensors, draw: Tensors) -> tuple[Tensors, Tensors]:
        nets = {name: layouts[name].bind(*own) for name, own in weights.items()}
        return model.interact(nets, carry, draw)

    stacked = vmap(interact, randomness="different")

    def at_once(
        weights: dict[str, Weights], carry: Tensors, draw: Tensors, noise_key: Tensor
    ) -> tuple[Tensors, Tensors]:
        with CounterNoise(noise_key), execution.kernels():
            found: tuple[Tensors, Tensors] = stacked(weights, carry, draw)
            return found

    def alone(
        weights: dict[str, Weights], carry: Tensors, draw: Tensors, noise_key: Tensor
    ) -> tuple[Tensors, Tensors]:
        with CounterNoise(noise_key), execution.kernels():
            return interact(weights, carry, draw)

    once = at_once
    if execution.one_by_one and not execution.fused:
        once = sequential_vmap(alone, K)
    if execution.traces and (execution.traces_networks or once is at_once):
        once = traced(once, ("interact", key))

    def every(
        weights: dict[str, Weights], carry: Tensors, draws: Tensors, noise_key: Tensor
    ) -> tuple[Tensors, Tensors]:
        T = next(iter(draws.values())).shape[1]
        keys = subkey(noise_key[:, None], torch.arange(T, device=noise_key.device)).unbind(1)
        rows = {name: tensor.unbind(1) for name, tensor in draws.items()}
        transitions: list[Tensors] = []
        with torch.no_grad():
            for number, key in enumerate(keys):
                if number > 1 and noise_key.is_meta:  # without numbers it would be the same as the one before
                    transitions.append({name: torch.empty_like(one) for name, one in transitions[-1].items()})
                    continue
                row = {name: tensors[number] for name, tensors in rows.items()}
                transition, carry = once(weights, carry, row, key)
                transitions.append(transition)
        return stack_transitions(transitions, dim=1), carry

    return every


def interact_one(model: Task, nets: Networks, carry: Tensors, draws: Tensors) -> tuple[Tensors, Tensors]:
    """Return the transitions of one cell, [T, ...] each, and what it carries on. Draws are [T, ...]."""
    transitions = []
    with torch.no_grad():
        for number in range(len(next(iter(draws.values())))):
            row = {name: tensor[number] for name, tensor in draws.items()}
            transition, carry = model.interact(nets, carry, row)
            transitions.append(transition)
    return stack_transitions(transitions, dim=0), carry


def stack_transitions(transitions: list[Tensors], dim: int) -> Tensors:
    """Stack the tensors of transitions by name, along a new axis."""
    return {name: torch.stack([one[name] for one in transitions], dim) for name in transitions[0]}

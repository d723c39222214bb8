"""Apply each regularizer to the cells of a stack that it owns. K cells, P parameters of a player, S strengths."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor
from torch.func import vmap

from gradbench.functional.flat_params import Layout, Tensors
from gradbench.grid.cell import Cell
from gradbench.models import Task
from gradbench.regularizers import Regularizer
from gradbench.regularizers import State as RegularizerState
from gradbench.training.program import build_regularizers

Transform = Callable[
    [Tensor, Tensor, list[RegularizerState], Tensor, Tensors], tuple[Tensor, list[RegularizerState]]
]
"""``(gradient [K, P], strength [K, S], states of the groups, parameters [K, P], given) -> gradient, states``.

Given is what transforms may ask for, [K] each.
"""

Projection = Callable[[Tensor, Tensor], Tensor]
"""``(parameters [K, P], strength [K, S]) -> parameters``."""


@dataclass(frozen=True)
class RegularizerGroup:
    """Consecutive cells of a stack that share a regularizer.

    Attributes:
        program: text that is equal for equal regularizers, strengths aside.
        regularizer: shared by the cells.
        cells: their place in the stack.
        by_player: what of it acts on each player; the regularizer is what acts on the one that the model says.
    """

    program: str
    regularizer: Regularizer
    cells: slice
    by_player: Mapping[str, Regularizer]

    def of(self, player: str) -> "RegularizerGroup":
        """Return the group with what acts on a player."""
        return replace(self, regularizer=self.by_player[player])


def group_by_regularizer(cells: Sequence[Cell], model: Task) -> list[RegularizerGroup]:
    """Group consecutive cells that have the same regularizer, strengths aside.

    Args:
        cells: of the stack.
        model: what they train.

    Raises:
        ValueError: where cells with different penalties are in one stack.
    """
    groups, start = [], 0
    regularized = next(player.name for player in model.players if player.regularized)
    for program, found in groupby(cells, key=lambda cell: cell.regularizer_program):
        members = list(found)
        place = slice(start, start + len(members))
        acting = build_regularizers(members[0].config, model)
        groups.append(RegularizerGroup(program, acting[regularized], place, acting))
        start = place.stop
    if len(groups) > 1 and any(one.penalties for group in groups for one in group.by_player.values()):
        raise ValueError("internal: cells with different penalties were grouped into one stack")
    return groups


def stack_transforms(groups: Sequence[RegularizerGroup], layout: Layout) -> Transform:
    """Return the transform of all cells: each group's own, over its cells."""

    def transform(
        gradient: Tensor,
        strength: Tensor,
        states: list[RegularizerState],
        parameters: Tensor,
        given: Tensors,
    ) -> tuple[Tensor, list[RegularizerState]]:
        if not any(group.regularizer.transform for group in groups):
            return gradient, states
        used, after = [], []
        for group, state in zip(groups, states, strict=True):
            raw, acting = gradient[group.cells], group.regularizer
            if acting.transform is not None:
                one = vmap(
                    lambda g, c, s, p, more, act=acting.transformed: act(g, c, s, p, layout, **more),
                    randomness="different",
                )
                more = {name: values[group.cells] for name, values in given.items()}
                own = acting.own(strength[group.cells])
                raw, state = one(raw, own, state, parameters[group.cells], more)
            used.append(raw)
            after.append(state)
        return concat_groups(used), after

    return transform


def stack_projections(groups: Sequence[RegularizerGroup], layout: Layout) -> Projection:
    """Return the projection of all cells: each group's own, over its cells."""

    def project(parameters: Tensor, strength: Tensor) -> Tensor:
        if not any(group.regularizer.project for group in groups):
            return parameters
        parts = []
        for group in groups:
            part, act = parameters[group.cells], group.regularizer.project
            if act is not None:
                one = vmap(lambda p, c, act=act: act(p, c, layout), randomness="different")
                part = one(part, group.regularizer.own(strength[group.cells]))
            parts.append(part)
        return concat_groups(parts)

    return project


def concat_groups(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate the groups' parts of a tensor [K, ...]; a single one is not copied."""
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]

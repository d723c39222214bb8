"""Apply each regularizer to the cells of a stack that it owns. K cells, P parameters of a player."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.func import vmap

from gradbench.functional.flat_params import Layout
from gradbench.grid.cell import Cell
from gradbench.regularizers import Regularizer
from gradbench.regularizers import State as Memory
from gradbench.training.program import build_regularizer


@dataclass(frozen=True)
class Span:
    """Contiguous cells of a stack that share a regularizer; ``program`` names it, its strength aside."""

    program: str
    regularizer: Regularizer
    cells: slice


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

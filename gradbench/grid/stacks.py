"""Group cells that can train together into stacks."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from gradbench.config.hashing import digest
from gradbench.grid.cell import Cell


@dataclass(frozen=True)
class Stack:
    """Cells that share every tensor shape and the same step program."""

    cells: tuple[Cell, ...]

    @cached_property
    def id(self) -> str:
        """Hash of the ids of its cells."""
        return digest(sorted(cell.id for cell in self.cells))


def group_by_program(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Group cells by their step program, by what they are alone: not by their order."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.program, []).append(cell)
    return [
        sorted(
            groups[program],
            key=lambda cell: (cell.regularizer_program, cell.strength, cell.lr, cell.seed, cell.id),
        )
        for program in sorted(groups)
    ]


def split_into_stacks(members: Sequence[Cell], count: int) -> list[Stack]:
    """Return cells of one program as so many stacks, as equally large as can be."""
    bounds = [round(index * len(members) / count) for index in range(count + 1)]
    return [Stack(tuple(members[a:b])) for a, b in itertools.pairwise(bounds)]

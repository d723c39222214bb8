"""Group cells that can train together into stacks."""

import heapq
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from gradbench.config.hashing import digest
from gradbench.grid.cell import Cell


@dataclass(frozen=True)
class Stack:
    """Cells that share all tensor shapes and the step program, and so can train as one."""

    cells: tuple[Cell, ...]

    @cached_property
    def id(self) -> str:
        """Hash of its cells' ids."""
        return digest(sorted(cell.id for cell in self.cells))


def group_by_program(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Group cells by their step program; groups and their cells are sorted, whatever the order given."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.program, []).append(cell)
    return [
        sorted(
            groups[program],
            key=lambda cell: (cell.regularizer_program, cell.strengths, cell.lr, cell.seed, cell.id),
        )
        for program in sorted(groups)
    ]


def split_into_stacks(members: Sequence[Cell], count: int) -> list[Stack]:
    """Split the cells of one program into ``count`` stacks of nearly equal size."""
    bounds = [round(index * len(members) / count) for index in range(count + 1)]
    return [Stack(tuple(members[a:b])) for a, b in itertools.pairwise(bounds)]


def deal(costs: Sequence[float], count: int) -> list[list[int]]:
    """Deal stacks to so many shares of about equal cost; return the indices of each share, in order.

    The most expensive stack goes first, to the share that has the least so far.

    Args:
        costs: expected cost of each stack.
        count: number of shares; some are empty if there are fewer stacks.
    """
    loads = [(0.0, share) for share in range(count)]
    shares: list[list[int]] = [[] for _ in range(count)]
    for index in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        load, share = loads[0]
        heapq.heapreplace(loads, (load + costs[index], share))
        shares[share].append(index)
    return [sorted(share) for share in shares]

"""Divide the stacks of a plan among machines, or among the tasks of a batch system's array."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gradbench.errors import UsageError
from gradbench.grid.cell import Cell
from gradbench.grid.stacks import Stack, deal

WRITTEN = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")
"""Pattern of a shard as it is typed."""


@dataclass(frozen=True)
class Shard:
    """One of several shares of a plan.

    Attributes:
        number: its number, from 1.
        count: number of shards.
    """

    number: int
    count: int

    def __str__(self) -> str:
        """Return it as it is typed."""
        return f"{self.number}/{self.count}"

    def take(self, stacks: Sequence[Stack], cost: Callable[[Sequence[Cell]], float]) -> list[Stack]:
        """Return its stacks: all shards together have each stack once, at about equal cost.

        Args:
            stacks: all stacks of the plan, the finished ones included: what a shard has does not change as it trains.
            cost: expected cost of training some cells.
        """
        share = deal([cost(stack.cells) for stack in stacks], self.count)[self.number - 1]
        return [stacks[index] for index in share]


def parse_shard(text: str) -> Shard:
    """Read ``3/8``.

    Raises:
        UsageError: if it is anything else.
    """
    match = WRITTEN.fullmatch(str(text))  # Python may give a number
    if match is None or int(match[1]) > int(match[2]):
        raise UsageError(
            f"--shard is the number of a share and how many shares there are, got {text!r}; type --shard 3/8"
        )
    return Shard(int(match[1]), int(match[2]))

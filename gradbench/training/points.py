"""The points at which a penalty is measured: those that a task offers by name, and points around them.

B batch.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from gradbench.errors import UsageError
from gradbench.models import Probe, Task, Values

AROUND = "around"
"""The name that stands for the points that :attr:`Task.probe_around` names, moved by noise."""

MOVES = -3
"""Index of the noise key of that noise: no other random number depends on it."""


def offered(task: Task) -> tuple[str, ...]:
    """Return the names of the points that a task offers, its default first."""
    return (*task.probe_points, *([AROUND] if task.probe_around else []))


def is_default(task: Task, name: str | None) -> bool:
    """Return whether a name is that of a task's default points."""
    return name in (None, *task.probe_points[:1])


def chosen(task: Task, probe: Probe, name: str | None) -> tuple[Values, Tensor]:
    """Return the function and the points of a name out of what ``Task.probe`` returned; of ``around`` what it moves.

    Raises:
        UsageError: where the task returns other points than it names.
    """
    f, points = probe
    if isinstance(points, Tensor):
        if not isinstance(f, Mapping) and (name is None or len(task.probe_points) < 2):
            return f, points
        points = {"without a name": points}
    if set(points) != set(task.probe_points):
        raise UsageError(
            f"{type(task).__name__}.probe returns points {', '.join(points)}, and its attribute probe_points names "
            f"{', '.join(task.probe_points) or 'none'}; return and name the same"
        )
    place = str(task.probe_around) if name == AROUND else name or task.probe_points[0]
    return (f[place] if isinstance(f, Mapping) else f), points[place]


def move(points: Tensor) -> Tensor:
    """Move points by noise: x + a · std / 2 · u, with a ~ U[0, 1) per point and u ~ U[0, 1) per coordinate.

    ``std`` is the standard deviation of all numbers of the batch. Kodali et al., "On convergence and stability of GANs"
    (DRAGAN), arXiv:1705.07215, 2017, as in the authors' code. Shapes: [B, ...] -> [B, ...].
    """
    flat = points.detach().flatten(start_dim=1)
    # not ``std``, which rounds otherwise for a single cell than for several
    deviation = (flat - flat.mean()).square().mean().sqrt()
    share_B1 = torch.rand_like(flat[:, :1])
    moves = share_B1 * (0.5 * deviation) * torch.rand_like(flat)
    return points + moves.view_as(points)

"""Record series on the device, and bring them to the host once per chunk of steps.

K cells, P parameters of a player.
"""

import math
from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from gradbench.functional.flat_params import Tensors
from gradbench.training.series import BRIEF, FULL, RATE, effect_from_norms
from gradbench.training.state import PlayerStep, StackContext, State

COMPARE_EVERY = 50
"""Steps, at least, between comparisons of a gradient before and after a transform that changes its direction.

A comparison takes a third of an MLP's step. The first and the last step compare as well."""

DIVERGED = "diverged_at"
"""Key of what stands beside the series in a checkpoint."""

HISTOGRAM_EDGES = np.linspace(-12.0, 4.0, 65)
"""Bins of log10 |g|, a gradient's coordinates."""


class Telemetry:
    """Rows of series on the device, one row per update; on the host, curves of the N cells of the whole stack.

    A player with several updates per step is recorded at each, and its curve holds their mean.

    Attributes:
        rows: player -> rows since the last flush, which together are [updates, series, K].
        curves: series -> [steps, N]; NaN where not yet recorded, and after a cell has diverged.
        blocks: player -> the memory of its curves, [steps, series, N].
        diverged_at: [N], step at which a cell diverged, as of the last flush; 0 where it has not.
    """

    def __init__(self, context: StackContext) -> None:
        self.blocks: dict[str, np.ndarray] = {}
        self.curves: dict[str, np.ndarray] = {}
        for player in context.players:
            names = series_of(player)
            self.blocks[player.name] = block = np.full(
                (context.steps, len(names), len(context.cells)), np.nan
            )
            self.curves |= {name: block[:, index] for index, name in enumerate(names)}
        self.diverged_at = np.zeros(len(context.cells), dtype=np.int64)
        self._flushed = 0
        self.follow(context)

    def follow(self, context: StackContext) -> None:
        """Record the K cells that are trained from now on; everything before must have been flushed."""
        self.players, self.groups = context.players, context.groups
        whole = len(context.cell_indices) == len(context.cells)
        self.cell_indices = slice(None) if whole else np.array(context.cell_indices)
        self.lr = context.lr[:, 0]
        self.updates = sum(player.steps for player in context.players)
        self.steps, self.record_every = context.steps, context.record_every
        self.compare_every = math.ceil(COMPARE_EVERY / context.record_every)
        self.rows: dict[str, list[Tensor]] = {player.name: [] for player in context.players}

    @property
    def any_active(self) -> bool:
        """True if any cell had not diverged at the last flush."""
        return bool((self.diverged_at == 0).any())

    def record(self, rows: Mapping[str, Sequence[Tensor]]) -> None:
        """Keep the rows of a step's updates, per player; they stay on the device."""
        for player, found in rows.items():
            self.rows[player].extend(found)

    def recorded(self) -> dict[str, Tensor]:
        """Return player -> means over each step's updates since the last flush, [steps, series, K]."""
        found = {}
        for player in self.players:
            if rows := self.rows[player.name]:
                names = series_of(player)
                updates = torch.cat(rows).view(-1, len(names), len(self.lr))
                if player.regularized:
                    self.fill_from_norms(player, dict(zip(names, updates.unbind(1), strict=True)))
                each = updates.view(-1, player.steps, *updates.shape[1:])
                # one after another: ``mean`` sums in an order that depends on K
                found[player.name] = reduce(torch.add, each.unbind(1)) / player.steps
        return found

    def fill_from_norms(self, player: PlayerStep, series: Mapping[str, Tensor]) -> None:
        """Derive ``update_norm``, ``clipped`` and ``cosine`` from recorded norms where they determine them.

        Args:
            player: whose series.
            series: name -> [updates, K]; changed in place.
        """
        if player.is_plain_sgd:
            torch.mul(series["grad_norm_used"], series.get(RATE, self.lr), out=series["update_norm"])
        for group in self.groups:
            if not group.regularizer.changes_direction:
                norms = (series[name][:, group.cells] for name in ("grad_norm", "grad_norm_used"))
                for name, values in zip(
                    ("clipped", "cosine"), effect_from_norms(group.regularizer, *norms), strict=True
                ):
                    series[name][:, group.cells] = values

    def compares(self, step: int) -> bool:
        """Return whether a step compares gradients before and after transforms that change their direction."""
        row, rest = divmod(step, self.record_every)  # a row of the table of curves where nothing is left
        often = rest == 0 and (row == 1 or row % self.compare_every == 0)
        return often or step == self.steps

    def flush(self, state: State) -> None:
        """Bring what was recorded since the last flush to the host.

        This is where the loop waits for the device.
        """
        names = ("active", "updates_completed")
        active, completed = (state.divergence_state[name].cpu().numpy() for name in names)
        self.diverged_at[self.cell_indices] = np.where(active, 0, completed // self.updates + 1)
        steps = np.arange(self._flushed, state.step)
        after = (self.diverged_at > 0) & (steps[:, None] >= self.diverged_at)
        for player, means in self.recorded().items():
            block = self.blocks[player][self._flushed : state.step]
            block[:, :, self.cell_indices] = means.cpu().numpy()
            if after.any():
                np.copyto(block, np.nan, where=after[:, None])
        for rows in self.rows.values():
            rows.clear()
        self._flushed = state.step

    def since(self, before: int, step: int) -> dict[str, np.ndarray]:
        """Return the series of the steps after ``before`` up to ``step``, which was flushed: name -> [steps, N]."""
        return {name: curve[before:step] for name, curve in self.curves.items()}

    def state_dict(self, state: State) -> Tensors:
        """Return the curves so far, for a checkpoint; everything must have been flushed."""
        curves = {name: curve[: state.step].copy() for name, curve in self.curves.items()}
        return {
            name: torch.from_numpy(values) for name, values in (curves | {DIVERGED: self.diverged_at}).items()
        }

    def load_state_dict(self, saved: Mapping[str, Tensor], state: State) -> None:
        """Take over what :meth:`state_dict` returned."""
        values = {name: tensor.cpu().numpy() for name, tensor in saved.items()}
        self.diverged_at = values.pop(DIVERGED)
        for name, curve in values.items():
            self.curves[name][: state.step] = curve
        self._flushed = state.step


def series_of(player: PlayerStep) -> list[str]:
    """Return the names of the series that are recorded of a player, in the order of its rows."""
    if not player.regularized:
        return [f"{player.name}/{series}" for series in BRIEF]
    return [*FULL, RATE] if player.is_scheduled else list(FULL)


def gradient_histograms(state: State, k: int) -> dict[str, np.ndarray]:
    """Return histograms of log10 |g| over the coordinates of cell k's last gradient, before and after its transform."""
    if state.last is None:
        return {}
    counts = {"gradients/edges": HISTOGRAM_EDGES}
    assert state.last.gradient is not None
    for name, gradient in (("raw", state.last.gradient), ("used", state.last.used)):
        size = gradient[k].abs().double().cpu().numpy()
        logs = np.log10(size[size > 0]).clip(HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[-1])
        counts[f"gradients/{name}"] = np.histogram(logs, HISTOGRAM_EDGES)[0]
    return counts

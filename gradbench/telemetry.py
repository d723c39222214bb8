"""What a stack records about itself: series on the device, brought to the host once per chunk of steps.

K cells, P parameters of a player.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from gradbench.players import StackedPlayer, Tensors, Update
from gradbench.series import BRIEF, EFFECT, FULL, effect
from gradbench.stack import CHUNK, Setup, State

EFFECT_EVERY = 10
"""Steps, at least, between those at which a bent gradient is compared with what it was: passes over both of them, an
eighth of an MLP's step. The first is one of them, and every evaluation."""

DIVERGED = "diverged_at"
"""Not a series: stands beside them in a checkpoint."""

HISTOGRAM_EDGES = np.linspace(-12.0, 4.0, 65)
"""Bins of log10 |g|, a gradient's coordinates."""


class Telemetry:
    """Blocks [CHUNK, updates, series, K] on the device; on the host, curves of the N cells of the whole stack.

    A player with several updates per step is recorded at each, and its curve holds their mean.

    Attributes:
        buffers: series -> its part of a block, [CHUNK, updates, K].
        curves: series -> [steps, N]; NaN where not yet recorded, and after a cell has diverged.
        diverged_at: [N], as of the last flush; 0 for a cell that has not.
    """

    def __init__(self, setup: Setup) -> None:
        names = [name for player in setup.players for name in series_of(player)]
        self.curves = {name: np.full((setup.steps, len(setup.cells)), np.nan) for name in names}
        self.diverged_at = np.zeros(len(setup.cells), dtype=np.int64)
        self._flushed = 0
        self.follow(setup)

    def follow(self, setup: Setup) -> None:
        """Record the K cells that are trained from now on; everything before must have been flushed."""
        self.players, self.places, self.spans = setup.players, setup.places, setup.spans
        self.steps, self.record_every, self.eval_every = setup.steps, setup.record_every, setup.eval_every
        self.effect_every = math.ceil(EFFECT_EVERY / setup.record_every)
        K = len(self.places)
        self.blocks: Tensors = {}
        self.buffers: Tensors = {}
        for player in setup.players:
            names = series_of(player)
            shape = (CHUNK, player.steps, len(names), K)
            block = torch.zeros(shape, dtype=setup.dtype, device=setup.device)
            self.blocks[player.name] = block
            self.buffers |= dict(zip(names, block.unbind(dim=2), strict=True))

    @property
    def anyone_alive(self) -> bool:
        """Whether any cell still trained at the last flush."""
        return bool((self.diverged_at == 0).any())

    def record(self, player: StackedPlayer, inner: int, state: State, update: Update) -> None:
        """Write one update's values into the buffers: on the device, nothing is read."""
        if update.row is None:
            return
        row = self.blocks[player.name][state.step - self._flushed, inner]
        row.copy_(update.row)
        if not player.regularized:
            return
        state.last = update
        if update.bent is None or update.used_norm is None or not self.measures(state.step + 1):
            return
        given = (update.gradient, update.bent, update.norm, update.used_norm)
        for cells in (span.cells for span in self.spans if span.regularizer.bends):
            row[EFFECT, cells] = torch.stack(effect(*(part[cells] for part in given)))

    def measures(self, step: int) -> bool:
        """Return whether what takes several passes over the gradient is measured at a step."""
        row, rest = divmod(step, self.record_every)  # of the table of curves, if nothing is left
        often = rest == 0 and (row - 1) % self.effect_every == 0
        return often or step % self.eval_every == 0 or step == self.steps

    def flush(self, state: State) -> list[float]:
        """Bring what was recorded since the last flush to the host; return the last loss of each of the N cells.

        This is where the loop waits for the device.
        """
        count = state.step - self._flushed
        self.diverged_at[self.places] = state.diverged_at.cpu().numpy()
        steps = np.arange(self._flushed, state.step)
        after = (self.diverged_at > 0) & (steps[:, None] >= self.diverged_at)
        means = {name: block[:count].mean(dim=1).cpu().numpy() for name, block in self.blocks.items()}
        for player in self.players:
            for index, series in enumerate(series_of(player)):
                rows = self.curves[series][self._flushed : state.step]
                rows[:, self.places] = means[player.name][:, index]
                rows[after] = np.nan
        self._flushed = state.step
        last: list[float] = np.where(
            self.diverged_at == 0, self.curves["loss"][state.step - 1], np.nan
        ).tolist()
        return last

    def content(self, state: State) -> Tensors:
        """Return the curves so far, for a checkpoint; everything must have been flushed."""
        curves = {name: curve[: state.step].copy() for name, curve in self.curves.items()}
        return {
            name: torch.from_numpy(values) for name, values in (curves | {DIVERGED: self.diverged_at}).items()
        }

    def restore(self, content: Mapping[str, Tensor], state: State) -> None:
        """Take over what :meth:`content` gave."""
        values = {name: tensor.cpu().numpy() for name, tensor in content.items()}
        self.diverged_at = values.pop(DIVERGED)
        for name, curve in values.items():
            self.curves[name][: state.step] = curve
        self._flushed = state.step


def series_of(player: StackedPlayer) -> list[str]:
    """Return the names of what is recorded of a player, in the order of its buffer."""
    return list(FULL) if player.regularized else [f"{player.name}/{series}" for series in BRIEF]


def gradient_histograms(state: State, k: int) -> dict[str, np.ndarray]:
    """Return histograms of log10 |g| over the coordinates of cell k's last gradient, raw and used."""
    if state.last is None:
        return {}
    counts = {"gradients/edges": HISTOGRAM_EDGES}
    for name, gradient in (("raw", state.last.gradient), ("used", state.last.used)):
        size = gradient[k].abs().double().cpu().numpy()
        logs = np.log10(size[size > 0]).clip(HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[-1])
        counts[f"gradients/{name}"] = np.histogram(logs, HISTOGRAM_EDGES)[0]
    return counts

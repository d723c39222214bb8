"""What a stack records about itself: series on the device, brought to the host once per chunk of steps.

K cells, P parameters of a player.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gradbench.functional.flat_params import Tensors
from gradbench.training.series import BRIEF, FULL, told
from gradbench.training.state import Setup, StackedPlayer, State

COMPARE_EVERY = 50
"""Steps, at least, between those at which a bent gradient is measured and compared with what it was, which takes a
third of an MLP's step. Besides those, the first and the last."""

DIVERGED = "diverged_at"
"""Not a series: stands beside them in a checkpoint."""

HISTOGRAM_EDGES = np.linspace(-12.0, 4.0, 65)
"""Bins of log10 |g|, a gradient's coordinates."""


class Telemetry:
    """Rows of series on the device, one row per update; on the host, curves of the N cells of the whole stack.

    A player with several updates per step is recorded at each, and its curve holds their mean.

    Attributes:
        rows: player -> what was recorded since the last flush, to be put together as [updates, series, K].
        curves: series -> [steps, N]; NaN where not yet recorded, and after a cell has diverged.
        blocks: player -> the same numbers, [steps, series, N]: what is flushed is written at once.
        diverged_at: [N], as of the last flush; 0 for a cell that has not.
    """

    def __init__(self, setup: Setup) -> None:
        self.blocks: dict[str, np.ndarray] = {}
        self.curves: dict[str, np.ndarray] = {}
        for player in setup.players:
            names = series_of(player)
            self.blocks[player.name] = block = np.full((setup.steps, len(names), len(setup.cells)), np.nan)
            self.curves |= {name: block[:, index] for index, name in enumerate(names)}
        self.diverged_at = np.zeros(len(setup.cells), dtype=np.int64)
        self._flushed = 0
        self.follow(setup)

    def follow(self, setup: Setup) -> None:
        """Record the K cells that are trained from now on; everything before must have been flushed."""
        self.players, self.spans = setup.players, setup.spans
        whole = len(setup.places) == len(setup.cells)
        self.places = slice(None) if whole else np.array(setup.places)
        self.lr = setup.lr[:, 0]
        self.updates = sum(player.steps for player in setup.players)
        self.steps, self.record_every = setup.steps, setup.record_every
        self.compare_every = math.ceil(COMPARE_EVERY / setup.record_every)
        self.rows: dict[str, list[Tensor]] = {player.name: [] for player in setup.players}

    @property
    def anyone_alive(self) -> bool:
        """Whether any cell still trained at the last flush."""
        return bool((self.diverged_at == 0).any())

    def record(self, rows: Mapping[str, Sequence[Tensor]]) -> None:
        """Keep the rows of a step's updates, per player: on the device, nothing is read."""
        for player, found in rows.items():
            self.rows[player].extend(found)

    def recorded(self) -> dict[str, Tensor]:
        """Return player -> its rows since the last flush, means over each step's updates, [steps, series, K]."""
        found = {}
        for player in self.players:
            if rows := self.rows[player.name]:
                names = series_of(player)
                updates = torch.cat(rows).view(-1, len(names), len(self.lr))
                if player.regularized:
                    self.tell(player, dict(zip(names, updates.unbind(1), strict=True)))
                each = updates.view(-1, player.steps, *updates.shape[1:])
                found[player.name] = each.mean(dim=1) if player.steps > 1 else updates
        return found

    def tell(self, player: StackedPlayer, series: Mapping[str, Tensor]) -> None:
        """Fill in what norms tell of a transform and of a step, series [updates, K]: all updates' at once."""
        if player.straight:
            torch.mul(series["grad_norm_used"], self.lr, out=series["update_norm"])
        for span in self.spans:
            if not span.regularizer.bends:
                norms = (series[name][:, span.cells] for name in ("grad_norm", "grad_norm_used"))
                for name, values in zip(("clipped", "cosine"), told(span.regularizer, *norms), strict=True):
                    series[name][:, span.cells] = values

    def compares(self, step: int) -> bool:
        """Return whether bent gradients are compared with what they were at a step."""
        row, rest = divmod(step, self.record_every)  # of the table of curves, if nothing is left
        often = rest == 0 and (row == 1 or row % self.compare_every == 0)
        return often or step == self.steps

    def flush(self, state: State) -> list[float]:
        """Bring what was recorded since the last flush to the host; return the last loss of each of the N cells.

        This is where the loop waits for the device.
        """
        alive, survived = (state.life[name].cpu().numpy() for name in ("alive", "survived"))
        self.diverged_at[self.places] = np.where(alive, 0, survived // self.updates + 1)
        steps = np.arange(self._flushed, state.step)
        after = (self.diverged_at > 0) & (steps[:, None] >= self.diverged_at)
        for player, means in self.recorded().items():
            block = self.blocks[player][self._flushed : state.step]
            block[:, :, self.places] = means.cpu().numpy()
            if after.any():
                np.copyto(block, np.nan, where=after[:, None])
        for rows in self.rows.values():
            rows.clear()
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
    """Return the names of what is recorded of a player, in the order of its rows."""
    return list(FULL) if player.regularized else [f"{player.name}/{series}" for series in BRIEF]


def gradient_histograms(state: State, k: int) -> dict[str, np.ndarray]:
    """Return histograms of log10 |g| over the coordinates of cell k's last gradient, raw and used."""
    if state.last is None:
        return {}
    counts = {"gradients/edges": HISTOGRAM_EDGES}
    assert state.last.gradient is not None
    for name, gradient in (("raw", state.last.gradient), ("used", state.last.used)):
        size = gradient[k].abs().double().cpu().numpy()
        logs = np.log10(size[size > 0]).clip(HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[-1])
        counts[f"gradients/{name}"] = np.histogram(logs, HISTOGRAM_EDGES)[0]
    return counts

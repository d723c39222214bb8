"""What a stack records about itself: series on the device, brought to the host once per chunk of steps.

K cells, P parameters of a player.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from gradbench.players import StackedPlayer, Tensors
from gradbench.stack import CHUNK, Setup, State

FULL = ("loss", "penalty", "grad_norm", "grad_norm_used", "clipped", "cosine", "update_norm")
"""Series of the regularized player."""

BRIEF = ("loss", "grad_norm")
"""Series of any other player, prefixed by its name."""

DIVERGED = "diverged_at"
"""Not a series: stands beside them in a checkpoint."""

HISTOGRAM_EDGES = np.linspace(-12.0, 4.0, 65)
"""Bins of log10 |g|, a gradient's coordinates."""


class Telemetry:
    """Buffers [CHUNK, updates, K] per series on the device; on the host, curves of the N cells of the whole stack.

    A player with several updates per step is recorded at each, and its curve holds their mean.

    Attributes:
        curves: series [steps, N]; NaN where not yet recorded, and after a cell has diverged.
        diverged_at: [N], as of the last flush; 0 for a cell that has not.
    """

    def __init__(self, setup: Setup) -> None:
        self.updates = {
            series if player.regularized else f"{player.name}/{series}": player.steps
            for player in setup.players
            for series in (FULL if player.regularized else BRIEF)
        }
        self.curves = {name: np.full((setup.steps, len(setup.cells)), np.nan) for name in self.updates}
        self.diverged_at = np.zeros(len(setup.cells), dtype=np.int64)
        self._flushed = 0
        self.follow(setup)

    def follow(self, setup: Setup) -> None:
        """Record the K cells that are trained from now on; everything before must have been flushed."""
        self.places = setup.places
        self.buffers = {
            name: torch.zeros(CHUNK, updates, len(self.places), dtype=setup.dtype, device=setup.device)
            for name, updates in self.updates.items()
        }

    @property
    def anyone_alive(self) -> bool:
        """Whether any cell still trained at the last flush."""
        return bool((self.diverged_at == 0).any())

    def record(
        self,
        player: StackedPlayer,
        inner: int,
        state: State,
        loss: Tensor,
        penalty: Tensor,
        norm: Tensor,
        gradient: Tensor,
        used: Tensor,
        update: Tensor,
    ) -> None:
        """Write one update's values into the buffers: copies on the device, nothing is read."""
        values = {"loss": loss, "grad_norm": norm}
        if player.regularized:
            state.last = (gradient, used)
            values |= {"penalty": penalty, "update_norm": torch.linalg.vector_norm(update, dim=1)}
            values |= compare(gradient, used, norm) if player.transform else untouched(norm)
        prefix = "" if player.regularized else f"{player.name}/"
        for series, value in values.items():
            self.buffers[prefix + series][state.step - self._flushed, inner] = value

    def flush(self, state: State) -> list[float]:
        """Bring what was recorded since the last flush to the host; return the last loss of each of the N cells.

        This is where the loop waits for the device.
        """
        count = state.step - self._flushed
        self.diverged_at[self.places] = state.diverged_at.cpu().numpy()
        steps = np.arange(self._flushed, state.step)
        after = (self.diverged_at > 0) & (steps[:, None] >= self.diverged_at)
        for name, buffer in self.buffers.items():
            rows = self.curves[name][self._flushed : state.step]
            rows[:, self.places] = buffer[:count].mean(dim=1).cpu().numpy()
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


def untouched(norm: Tensor) -> dict[str, Tensor]:
    """Return what :func:`compare` would for a gradient used as it is. Shape: [K]."""
    zeros = torch.zeros_like(norm)
    return {"grad_norm_used": norm, "clipped": zeros, "cosine": zeros + 1}


def compare(gradient: Tensor, used: Tensor, norm: Tensor) -> dict[str, Tensor]:
    """Return how the used gradient differs from the raw one.

    Args:
        gradient: [K, P].
        used: [K, P].
        norm: of the gradient, [K].

    Returns:
        Each [K]: its norm, the share of its non-zero coordinates that were changed (so 1 or 0 for norm clipping),
        and the cosine between the two (1 where either is zero).
    """
    used_norm = torch.linalg.vector_norm(used, dim=1)
    # sums of |sign|: several times faster on a CPU than counting booleans
    present = gradient.sign().abs_().sum(dim=1)
    changed = (used - gradient).sign_().abs_().sum(dim=1)
    product = norm * used_norm
    dot = torch.linalg.vecdot(gradient, used)
    return {
        "grad_norm_used": used_norm,
        "clipped": changed / present.clamp(min=1.0),
        "cosine": torch.where(product > 0, dot / product, 1.0),
    }


def gradient_histograms(state: State, k: int) -> dict[str, np.ndarray]:
    """Return histograms of log10 |g| over the coordinates of cell k's last gradient, raw and used."""
    if state.last is None:
        return {}
    counts = {"gradients/edges": HISTOGRAM_EDGES}
    for name, gradient in zip(("raw", "used"), state.last, strict=True):
        size = gradient[k].abs().double().cpu().numpy()
        logs = np.log10(size[size > 0]).clip(HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[-1])
        counts[f"gradients/{name}"] = np.histogram(logs, HISTOGRAM_EDGES)[0]
    return counts

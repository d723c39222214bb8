"""A Wasserstein GAN on points, with two players: a critic and a generator.

B batch, D coordinates of a point, Z noise, N evaluation points, S grid points per side; L hidden layers of H units
and P parameters of the critic.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from gradbench.functional.input_gradients import slopes
from gradbench.models import Networks, Tensors
from gradbench.models.factory import add_own
from gradbench.models.gan import AdversarialTask, weight_histogram
from gradbench.models.networks.mlp import Perceptron

SURFACE_SIDE = 64
"""S, grid points per side of the stored surface of critic values."""

LAYER_POINTS = 256
"""Points, half real and half generated, over which the gradients of each layer are averaged."""

BLUR, ROUNDS, TINY = 0.1, 10, 1e-300
"""Of :func:`subtract_potentials`: entropic blur in mean costs, Sinkhorn iterations, guard against division by 0."""


class WassersteinGAN(AdversarialTask):
    """A critic D and a generator G: D's loss is E D(G(z)) - E D(x), G's is -E D(G(z)).

    Args:
        sizes: sizes of the data: ``inputs`` (D).
        arrays: the data's arrays.
        hidden: units per hidden layer, of both networks.
        depth: hidden layers, of both networks.
        activation: a key of ``gradbench.models.networks.mlp.ACTIVATIONS``.
        noise: Z, as of :class:`AdversarialTask`; so are ``critic_steps``, ``generator``, ``batch_size`` and ``keys``.
        critic_steps: see there.
        generator: see there.
        matched_points: points in each of the two samples of the exact W1; its cost grows with their cube.
        batch_size: B.
        keys: ``networks`` and ``metrics``.
    """

    width_tolerance = 0.0

    def __init__(
        self,
        sizes: Mapping[str, int],
        arrays: Mapping[str, np.ndarray],
        hidden: int,
        depth: int,
        activation: str,
        noise: int,
        critic_steps: int,
        generator: str,
        matched_points: int,
        batch_size: int,
        networks: Mapping[str, object] | None = None,
        metrics: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(
            sizes,
            arrays,
            noise,
            critic_steps,
            batch_size,
            generator=generator,
            networks=networks,
            metrics=metrics,
        )
        if matched_points < 1:
            raise ValueError(f"model.matched_points must be >= 1, got {matched_points}")
        self.matched_points = matched_points
        self.shape = (hidden, depth)
        self.activation = activation
        self.has_modes = "centres" in arrays

    def network(self, name: str) -> nn.Module:
        """Return a perceptron."""
        inputs, outputs = (self.inputs, 1) if name == "critic" else (self.noise, self.inputs)
        return Perceptron(inputs, *self.shape, outputs, self.activation)

    def values(self, critic: Callable[..., Tensor], points: Tensor) -> Tensor:
        """Return the critic's value of each point; a perceptron takes it as a vector. Shapes: [B, ...] -> [B]."""
        return super().values(critic, points) if "critic" in self.own else critic_values(critic, points)

    def inspect(self, critic: Callable[..., Tensor], real: Tensor, fake: Tensor, x: Tensor) -> Tensors:
        """Return the gradient's norm by each layer's activations and, in the plane, the critic's value surface."""
        results = {}
        if "critic" not in self.own:
            some = torch.cat([real[: LAYER_POINTS // 2], fake[: LAYER_POINTS // 2]])
            results["layer_gradients"] = layer_gradients(critic, some, *self.shape)
        if x[0].numel() == 2:
            results["surface"] = self.values(critic, surface_grid(x)).view(SURFACE_SIDE, SURFACE_SIDE)
        return results

    def summarize(
        self, arrays: Mapping[str, np.ndarray], data: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Compute exact W1 to held-out points and, for mixtures, modes covered and the share of good samples.

        With two hidden layers or more, also the growth of the gradient per layer. The critic's parameters are stored
        as a histogram over minus to plus the largest absolute one.
        """
        samples, held_out = arrays["samples"], data["test/x"]
        n = min(self.matched_points, len(samples), len(held_out))
        metrics = {"test/wasserstein": wasserstein(samples[:n], held_out[:n])}
        if "centres" in data:
            metrics |= mode_metrics(samples, data["centres"], float(data["sigma"]))
        if len(arrays.get("layer_gradients", ())) > 1:
            metrics["test/layer_growth"] = layer_growth(arrays["layer_gradients"])
        kept = dict(arrays) | {"data": held_out[: len(samples)]}
        kept |= weight_histogram(kept.pop("weights"))
        if "surface" in arrays:
            kept["extent"] = np.asarray(surface_extent(torch.as_tensor(held_out)))
        return metrics, kept

    def metric_names(self, networks: Networks) -> frozenset[str]:
        """Return the names of all metrics."""
        names = self.evaluated_names | {"wasserstein"}
        names |= {"modes", "quality"} if self.has_modes else set()
        names |= {"layer_growth"} if "critic" not in self.own and self.shape[1] > 1 else set()
        return frozenset(f"test/{name}" for name in add_own(names, self.own_metrics))


def critic_values(critic: Callable[..., Tensor], points: Tensor, *shifts: Tensor) -> Tensor:
    """Return the critic's value of each point. Shapes: points [B, ...], shifts as ``Perceptron``'s [L, B, H] -> [B]."""
    return critic(points.flatten(start_dim=1), *shifts).squeeze(-1)


def layer_gradients(critic: Callable[..., Tensor], points: Tensor, hidden: int, depth: int) -> Tensor:
    """Return the L2 norm of the critic's gradient with respect to each hidden layer's activations, a mean over points.

    Up to its sign it is the gradient of a point's term in the critic's loss (Gulrajani et al. 2017, Fig. 1b).
    Shapes: [B, ...] -> [L], the first layer first, in units of D per unit of activation.
    """
    rest = points.new_zeros(depth, len(points), hidden)
    slopes_LBH = slopes(lambda shifts: critic_values(critic, points, shifts), rest)
    norms_LB: Tensor = torch.linalg.vector_norm(slopes_LBH, dim=2)
    return norms_LB.mean(dim=1)


def layer_growth(norms_L: np.ndarray) -> float:
    """Return the geometric mean factor by which gradients grow per layer, backwards from the last to the first.

    Below 1 they vanish, above 1 they explode. NaN where the last layer's gradient is zero.
    """
    first, last = float(norms_L[0]), float(norms_L[-1])
    return (first / last) ** (1 / (len(norms_L) - 1)) if last > 0 else float("nan")


def surface_extent(points: Tensor) -> tuple[float, float, float, float]:
    """Return (x min, x max, y min, y max) of the value surface: the data's range and a quarter more on each side."""
    reach = 1.25 * float(points.abs().max())
    return -reach, reach, -reach, reach


def surface_grid(points: Tensor) -> Tensor:
    """Return the points of the value surface's grid, [S * S, 2], row by row from the lowest y."""
    # The largest coordinate stays a tensor on the device: reading it would make the host wait.
    side = (
        torch.linspace(-1.25, 1.25, SURFACE_SIDE, device=points.device, dtype=points.dtype)
        * points.abs().max()
    )
    y, x = torch.meshgrid(side, side, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def wasserstein(samples: np.ndarray, targets: np.ndarray) -> float:
    """Return the exact Wasserstein-1 distance between two equal-sized sets of points, [N, ...] each.

    The optimal transport between equal-sized samples is an assignment problem. NaN where a distance is not finite.
    """
    a, b = samples.reshape(len(samples), -1).astype(float), targets.reshape(len(targets), -1).astype(float)
    cost = cdist(a, b)
    if not np.isfinite(cost).all():
        return float("nan")
    return float(cost[linear_sum_assignment(subtract_potentials(cost))].mean())


def subtract_potentials(cost: np.ndarray) -> np.ndarray:
    """Subtract dual potentials from costs [N, N], so that the best assignment stays and is found sooner.

    They are one number per row and column, from an entropically regularized transport plan (Cuturi, "Sinkhorn
    distances", arXiv:1306.0895, 2013). Without them the search takes four times as long where all samples lie far from
    most targets.
    """
    low = cost.min(axis=1, keepdims=True)
    blur = BLUR * cost.mean()
    blurred = np.exp((low - cost) / max(blur, TINY))
    rows = np.ones(len(cost))
    for _ in range(ROUNDS):
        columns = 1 / (rows @ blurred + TINY)
        rows = 1 / (blurred @ columns)
    left: np.ndarray = cost - blur * np.log(columns)
    left -= left.min(axis=1, keepdims=True)
    return left


def mode_metrics(samples: np.ndarray, centres: np.ndarray, sigma: float) -> dict[str, float]:
    """Return the number of modes covered and the share of high-quality samples, as PacGAN defines them.

    A sample [D] is of high quality within 3 sigma of its nearest mode; a mode is covered once it has one. NaN where a
    sample is not finite.
    """
    if not np.isfinite(samples).all():
        return {"test/modes": float("nan"), "test/quality": float("nan")}
    distances = np.linalg.norm(samples[:, None] - centres[None], axis=-1)
    nearest, good = distances.argmin(axis=1), distances.min(axis=1) <= 3 * sigma
    return {"test/modes": float(len(np.unique(nearest[good]))), "test/quality": float(good.mean())}

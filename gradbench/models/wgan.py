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

from gradbench.errors import UsageError, nearest
from gradbench.functional.input_gradients import gradient_norms, slopes
from gradbench.functional.seeding import generator
from gradbench.models import Networks, Player, Task, Tensors
from gradbench.models.factory import (
    TRIAL,
    NetworkFactory,
    add_own,
    check_tensor,
    check_values,
    load_functions,
    shape_text,
    try_network,
)
from gradbench.models.networks.mlp import Perceptron
from gradbench.models.sampling import check_batch_size, check_floating, gather_rows
from gradbench.models.supervised import averaged

PLAYERS = ("critic", "generator")

EVALUATION_POINTS = 2500
"""Generated points from which modes and quality are computed, as in PacGAN (Lin et al., arXiv:1712.04086, 2017)."""

SURFACE_SIDE = 64
"""S, grid points per side of the stored surface of critic values."""

LAYER_POINTS = 256
"""Points, half real and half generated, over which the gradients of each layer are averaged."""

BLUR, ROUNDS, TINY = 0.1, 10, 1e-300
"""Of :func:`subtract_potentials`: entropic blur in mean costs, Sinkhorn iterations, guard against division by 0."""

WEIGHT_BINS = 128
"""Bins of the stored histogram of the critic's parameters."""

MAX_COUNTED = 1e300
"""Largest absolute parameter that the histogram counts: the width of its range must be a finite float."""


class WassersteinGAN(Task):
    """A critic D and a generator G: D's loss is E D(G(z)) - E D(x), G's is -E D(G(z)).

    A gradient penalty is taken of D ``between`` x and G(z), at x' = a x + (1 - a) G(z), a ~ U[0, 1] per sample
    (Gulrajani et al. 2017); at ``real`` or ``generated`` points (R1 and R2, Mescheder et al. 2018), at ``both``; or
    ``around`` real ones (DRAGAN, Kodali et al. 2017).

    Args:
        sizes: sizes of the data: ``inputs`` (D).
        hidden: units per hidden layer, of both networks.
        depth: hidden layers, of both networks.
        activation: a key of ``gradbench.models.networks.mlp.ACTIVATIONS``.
        noise: Z, number of standard normal inputs of the generator.
        critic_steps: the critic's updates per training step.
        generator: ``trained``, or ``fixed``: generated points are data plus standard normal noise, and only the
            critic trains (as for Fig. 1a of Gulrajani et al.).
        matched_points: points in each of the two samples of the exact W1; its cost grows with their cube.
        batch_size: B.
        networks: ``critic`` or ``generator`` -> node of the config that names a network of the user's own instead of
            the perceptron. A critic maps points as the data have them, [B, ...], to values [B] or [B, 1]; a generator
            maps noise [B, Z] to as many numbers as a point has.
        metrics: name -> node of a function ``(samples [N, ...], held-out points [N, ...])`` that returns one value per
            sample, which are averaged, or one number; reported as ``test/name``.
    """

    width_tolerance = 0.0
    probe_points = ("between", "real", "generated", "both")
    probe_around = "real"

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
        if generator not in ("trained", "fixed"):
            raise ValueError(f"model.generator must be trained or fixed, got {generator}")
        if min(noise, critic_steps, matched_points) < 1:
            raise ValueError("model.noise, critic_steps and matched_points must be >= 1")
        check_batch_size(batch_size, arrays["train/x"])
        check_floating(arrays["train/x"])
        self.inputs, self.noise, self.batch_size = sizes["inputs"], noise, batch_size
        self.matched_points = matched_points
        self.shape = (hidden, depth)
        self.activation = activation
        self.fixed = generator == "fixed"
        self.point, self.has_modes = arrays["train/x"].shape[1:], "centres" in arrays
        self.own = {
            name: NetworkFactory(node, f"model.networks.{name}") for name, node in (networks or {}).items()
        }
        self.own_metrics = load_functions(metrics, "model.metrics")
        self.has_own_code = bool(self.own or self.own_metrics)
        for name in self.own.keys() - set(PLAYERS):
            raise UsageError(
                f"model.networks.{name}: the networks are critic and generator{nearest(name, PLAYERS)}"
            )
        if self.fixed and "generator" in self.own:
            raise UsageError("model.generator=fixed has no network; leave out model.networks.generator")
        critic = Player("critic", steps=critic_steps)
        self.players = (critic,) if self.fixed else (critic, Player("generator", regularized=False))

    def networks(self, fused: bool = False) -> dict[str, nn.Module]:
        """Return the critic and, unless it is fixed, the generator."""
        sizes = {"critic": (self.inputs, 1), "generator": (self.noise, self.inputs)}
        return {player.name: self._network(player.name, *sizes[player.name]) for player in self.players}

    def _network(self, name: str, inputs: int, outputs: int) -> nn.Module:
        """Return a new network: the user's own or a perceptron."""
        if name not in self.own:
            return Perceptron(inputs, *self.shape, outputs, self.activation)
        noise = {"noise": self.noise} if name == "generator" else {}
        return self.own[name](
            inputs=inputs, outputs=outputs, num_classes=outputs, shape=tuple(self.point), **noise
        )

    def values(self, critic: Callable[..., Tensor], points: Tensor) -> Tensor:
        """Return the critic's value of each point. Shapes: [B, ...] -> [B]."""
        return critic(points).reshape(-1) if "critic" in self.own else critic_values(critic, points)

    def draw(
        self, purpose: str, seed: int, first: int, count: int, data: Mapping[str, np.ndarray]
    ) -> Tensors:
        """Draw noise and, for the critic, data indices and interpolation weights, each [count, B (or N), ...]."""
        random = generator(seed, purpose, first)
        batch = EVALUATION_POINTS if purpose == "evaluation" else self.batch_size
        split = "test" if purpose == "evaluation" else "train"
        shape = (count, batch)
        points = data[f"{split}/x"].shape
        noise = points[1:] if self.fixed else (self.noise,)
        drawn = {"noise": torch.randn(*shape, *noise, generator=random)}
        if purpose == "generator":
            return drawn
        return drawn | {
            "real": torch.randint(points[0], shape, generator=random),
            "base": torch.randint(points[0], shape, generator=random),
            "alpha": torch.rand(shape, generator=random),
        }

    def _generate(self, nets: Networks, x: Tensor, draw: Tensors) -> Tensor:
        """Generate points [B, ...]: outputs of the generator, or data plus noise if it is fixed."""
        if self.fixed:
            return gather_rows(x, draw["base"]) + draw["noise"]
        return self._samples(nets, draw["noise"])

    def _samples(self, nets: Networks, noise: Tensor) -> Tensor:
        """Return the generator's points, shaped as the data's. Shapes: [B, Z] -> [B, ...]."""
        samples: Tensor = nets["generator"](noise).reshape(-1, *self.point)
        return samples

    def batch(self, player: str, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Return real, generated and interpolated points for the critic, and only noise for the generator."""
        if player == "generator":
            return {"noise": draw["noise"]}
        real, fake = gather_rows(data["train/x"], draw["real"]), self._generate(nets, data["train/x"], draw)
        return {"real": real, "fake": fake, "between": interpolate(real, fake, draw["alpha"])}

    def loss(self, player: str, nets: Networks, batch: Tensors, carry: Tensors) -> tuple[Tensor, Tensors]:
        """Return the critic's or the generator's loss, in units of D."""
        if player == "generator":
            return -self.values(nets["critic"], self._samples(nets, batch["noise"])).mean(), carry
        # Both halves go through the critic in one pass.
        fake_B, real_B = self.values(nets["critic"], torch.cat([batch["fake"], batch["real"]])).chunk(2)
        return fake_B.mean() - real_B.mean(), carry

    def probe(
        self,
        player: str,
        nets: Networks,
        batch: Tensors,
        carry: Tensors,
    ) -> tuple[Callable[[Tensor], Tensor], Tensors]:
        """Return the critic, and the points by name; ``both`` are the real and the generated ones, [2 B, ...]."""
        points = {"between": batch["between"], "real": batch["real"], "generated": batch["fake"]}
        points["both"] = torch.cat([batch["real"], batch["fake"]])
        return lambda x: self.values(nets["critic"], x), points

    def evaluate(self, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Compute the critic's Wasserstein estimate on held-out points, and arrays for figures.

        The arrays are generated samples, the critic's value surface and parameters, and the norms of its gradient with
        respect to its input (their mean and standard deviation are metrics) and to each layer's activations.
        """
        x = data["test/x"]
        real, fake = x[draw["real"]], self._generate(nets, x, draw)
        between = interpolate(real, fake, draw["alpha"])
        critic = nets["critic"]
        norms = gradient_norms(lambda points: self.values(critic, points), between)
        results = {
            "test/wasserstein_estimate": self.values(critic, real).mean() - self.values(critic, fake).mean(),
            "test/gradient_norm": norms.mean(),
            "test/gradient_norm_deviation": norms.std(),
            "gradient_norms": norms,
            "samples": fake,
            "weights": torch.cat([tensor.flatten() for tensor in critic.parameters()]),
        }
        if "critic" not in self.own:
            some = torch.cat([real[: LAYER_POINTS // 2], fake[: LAYER_POINTS // 2]])
            results["layer_gradients"] = layer_gradients(critic, some, *self.shape)
        if x[0].numel() == 2:
            results["surface"] = self.values(critic, surface_grid(x)).view(SURFACE_SIDE, SURFACE_SIDE)
        return results | {
            f"test/{name}": averaged(function(fake, real), fake)
            for name, function in self.own_metrics.items()
        }

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
        names = {"wasserstein", "wasserstein_estimate", "gradient_norm", "gradient_norm_deviation"}
        names |= {"modes", "quality"} if self.has_modes else set()
        names |= {"layer_growth"} if "critic" not in self.own and self.shape[1] > 1 else set()
        return frozenset(f"test/{name}" for name in add_own(names, self.own_metrics))

    def check_networks(self, networks: Networks, penalised: bool) -> None:
        """Check what is the user's own, with a few examples: the generator's points, the critic's values, metrics."""
        device = next(iter(networks["critic"].parameters())).device
        points = torch.zeros(TRIAL, *self.point, device=device)
        if "generator" in self.own:
            typed, noise = self.own["generator"].typed, torch.zeros(TRIAL, self.noise, device=device)
            samples = try_network(typed, networks["generator"], noise)
            shapes = [(TRIAL, *self.point), (TRIAL, self.inputs)]
            check_tensor(typed, samples, f"points {shape_text(shapes[0])}", shapes)
        if "critic" in self.own:
            typed = self.own["critic"].typed
            values = try_network(typed, networks["critic"], points)
            check_tensor(typed, values, "a value of each point, [B] or [B, 1]", [(TRIAL,), (TRIAL, 1)])
        for name, function in self.own_metrics.items():
            check_values(f"model.metrics.{name}", function, (points, points))


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


def weight_histogram(parameters_P: np.ndarray) -> dict[str, np.ndarray]:
    """Return edges and counts of the histogram of a network's parameters [P], biases included."""
    reach = min(float(np.abs(parameters_P).max()), MAX_COUNTED)
    counts, edges = np.histogram(parameters_P, WEIGHT_BINS, (-reach, reach) if reach > 0 else (-1.0, 1.0))
    return {"weights/edges": edges, "weights/counts": counts}


def interpolate(real: Tensor, fake: Tensor, alpha_B: Tensor) -> Tensor:
    """Return ``alpha real + (1 - alpha) fake``, one alpha per SAMPLE. Shapes: [B, ...], [B, ...], [B]."""
    alpha = alpha_B.view(-1, *[1] * (real.dim() - 1))
    return alpha * real + (1 - alpha) * fake


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

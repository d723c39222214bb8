"""Adversarial tasks: a critic and a generator that learn against each other from examples.

B batch, Z noise, N evaluation points.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradbench.errors import UsageError, nearest
from gradbench.functional.input_gradients import gradient_norms
from gradbench.functional.seeding import generator
from gradbench.models import Networks, Player, Task, Tensors
from gradbench.models.factory import (
    TRIAL,
    NetworkFactory,
    check_tensor,
    check_values,
    load_functions,
    shape_text,
    try_network,
)
from gradbench.models.sampling import check_batch_size, check_floating, gather_rows
from gradbench.models.supervised import averaged

PLAYERS = ("critic", "generator")

EVALUATION_POINTS = 2500
"""Generated points from which metrics are computed, as in PacGAN (Lin et al., arXiv:1712.04086, 2017)."""

WEIGHT_BINS = 128
"""Bins of the stored histogram of the critic's parameters."""

MAX_COUNTED = 1e300
"""Largest absolute parameter that the histogram counts: the width of its range must be a finite float."""


class AdversarialLoss(NamedTuple):
    """The losses of a critic and a generator, from D's values of generated and of real points, [B] each.

    Attributes:
        critic: ``(fake, real)`` -> scalar.
        generator: ``(fake, real)`` -> scalar; reads ``real`` only if ``is_paired``.
        is_paired: whether the generator's loss compares each generated point with a real one.
    """

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    is_paired: bool = False


LOSSES = {
    "wasserstein": AdversarialLoss(
        lambda fake, real: fake.mean() - real.mean(),
        lambda fake, _: -fake.mean(),
    ),
    "non_saturating": AdversarialLoss(
        lambda fake, real: F.softplus(fake).mean() + F.softplus(-real).mean(),
        lambda fake, _: F.softplus(-fake).mean(),
    ),
    "relativistic": AdversarialLoss(
        lambda fake, real: F.softplus(fake - real).mean(),
        lambda fake, real: F.softplus(real - fake).mean(),
        is_paired=True,
    ),
}
"""Name -> losses: Arjovsky et al. (arXiv:1701.07875, 2017); Goodfellow et al. (arXiv:1406.2661, 2014), D's value being
a logit; Jolicoeur-Martineau (arXiv:1807.00734, 2018), as R3GAN has it (Huang et al., arXiv:2501.05441, 2025)."""


class AdversarialTask(Task):
    """A critic D and a generator G. A subclass says what the networks are and how generated points are judged.

    A gradient penalty is taken of D ``between`` x and G(z), at x' = a x + (1 - a) G(z), a ~ U[0, 1] per sample
    (Gulrajani et al. 2017); at ``real`` or ``generated`` points (R1 and R2, Mescheder et al. 2018), at ``both``; or
    ``around`` real ones (DRAGAN, Kodali et al. 2017).

    Args:
        sizes: sizes of the data: ``inputs``, the numbers of a point.
        arrays: the data's arrays ``train/x`` and ``test/x``.
        noise: Z, number of standard normal inputs of the generator.
        critic_steps: the critic's updates per training step.
        batch_size: B.
        loss: a key of :data:`LOSSES`.
        generator: ``trained``, or ``fixed``: generated points are data plus standard normal noise, and only the
            critic trains (as for Fig. 1a of Gulrajani et al.).
        samples: N, points generated for an evaluation.
        networks: ``critic`` or ``generator`` -> node of the config that names a network of the user's own instead of
            the model's. A critic maps points as the data have them, [B, ...], to values [B] or [B, 1]; a generator
            maps noise [B, Z] to as many numbers as a point has.
        metrics: name -> node of a function ``(samples [N, ...], held-out points [N, ...])`` that returns one value per
            sample, which are averaged, or one number; reported as ``test/name``.
    """

    probe_points = ("between", "real", "generated", "both")
    probe_around = "real"

    def __init__(
        self,
        sizes: Mapping[str, int],
        arrays: Mapping[str, np.ndarray],
        noise: int,
        critic_steps: int,
        batch_size: int,
        loss: str = "wasserstein",
        generator: str = "trained",
        samples: int = EVALUATION_POINTS,
        networks: Mapping[str, object] | None = None,
        metrics: Mapping[str, object] | None = None,
    ) -> None:
        if loss not in LOSSES:
            raise UsageError(
                f"model.loss must be one of {', '.join(LOSSES)}, got {loss}{nearest(loss, LOSSES)}"
            )
        if generator not in ("trained", "fixed"):
            raise ValueError(f"model.generator must be trained or fixed, got {generator}")
        if min(noise, critic_steps) < 1:
            raise ValueError(f"model.noise and critic_steps must be >= 1, got {noise} and {critic_steps}")
        if samples < 2:
            raise ValueError(f"model.samples must be >= 2, got {samples}")
        check_batch_size(batch_size, arrays["train/x"])
        check_floating(arrays["train/x"])
        self.inputs, self.noise, self.batch_size = sizes["inputs"], noise, batch_size
        self.loss_name, self.losses = loss, LOSSES[loss]
        self.samples = samples
        self.fixed = generator == "fixed"
        self.point = arrays["train/x"].shape[1:]
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

    # ---- what a subclass defines -------------------------------------------------------------------------

    @abstractmethod
    def network(self, name: str) -> nn.Module:
        """Return a new ``critic``, points [B, ...] -> [B] or [B, 1], or ``generator``, [B, Z] -> points."""

    def values(self, critic: Callable[..., Tensor], points: Tensor) -> Tensor:
        """Return the critic's value of each point. Shapes: [B, ...] -> [B]."""
        return critic(points).reshape(-1)

    def inspect(self, critic: Callable[..., Tensor], real: Tensor, fake: Tensor, x: Tensor) -> Tensors:
        """Return further results of an evaluation, as :meth:`evaluate`; none by default.

        Args:
            critic: the network.
            real: held-out points of the evaluation, [N, ...].
            fake: generated ones, [N, ...].
            x: all held-out points.
        """
        return {}

    # ---- what follows from it ----------------------------------------------------------------------------

    @final
    def networks(self, fused: bool = False) -> dict[str, nn.Module]:
        """Return the critic and, unless it is fixed, the generator: the user's own or the model's."""
        return {player.name: self._network(player.name) for player in self.players}

    def _network(self, name: str) -> nn.Module:
        if name not in self.own:
            return self.network(name)
        outputs, noise = (1, {}) if name == "critic" else (self.inputs, {"noise": self.noise})
        inputs = self.inputs if name == "critic" else self.noise
        return self.own[name](
            inputs=inputs, outputs=outputs, num_classes=outputs, shape=tuple(self.point), **noise
        )

    @final
    def draw(
        self, purpose: str, seed: int, first: int, count: int, data: Mapping[str, np.ndarray]
    ) -> Tensors:
        """Draw noise, data indices and, for the critic, interpolation weights, each [count, B (or N), ...]."""
        random = generator(seed, purpose, first)
        shape = (count, self.samples if purpose == "evaluation" else self.batch_size)
        points = data["test/x" if purpose == "evaluation" else "train/x"].shape
        noise = points[1:] if self.fixed else (self.noise,)
        drawn = {"noise": torch.randn(*shape, *noise, generator=random)}
        if purpose == "generator" and not self.losses.is_paired:
            return drawn
        drawn["real"] = torch.randint(points[0], shape, generator=random)
        if purpose == "generator":
            return drawn
        return drawn | {
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

    @final
    def batch(self, player: str, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Return real, generated and interpolated points for the critic; noise and, to be paired, real ones for G."""
        real = {"real": gather_rows(data["train/x"], draw["real"])} if "real" in draw else {}
        if player == "generator":
            return {"noise": draw["noise"]} | real
        fake = self._generate(nets, data["train/x"], draw)
        return real | {"fake": fake, "between": interpolate(real["real"], fake, draw["alpha"])}

    @final
    def loss(self, player: str, nets: Networks, batch: Tensors, carry: Tensors) -> tuple[Tensor, Tensors]:
        """Return the critic's or the generator's loss."""
        fake = self._samples(nets, batch["noise"]) if player == "generator" else batch["fake"]
        if "real" not in batch:
            fake_B = self.values(nets["critic"], fake)
            return self.losses.generator(fake_B, fake_B), carry
        # Both halves go through the critic in one pass.
        fake_B, real_B = self.values(nets["critic"], torch.cat([fake, batch["real"]])).chunk(2)
        of_player = self.losses.critic if player == "critic" else self.losses.generator
        return of_player(fake_B, real_B), carry

    @final
    def probe(
        self, player: str, nets: Networks, batch: Tensors, carry: Tensors
    ) -> tuple[Callable[[Tensor], Tensor], Tensors]:
        """Return the critic, and the points by name; ``both`` are the real and the generated ones, [2 B, ...]."""
        points = {"between": batch["between"], "real": batch["real"], "generated": batch["fake"]}
        points["both"] = torch.cat([batch["real"], batch["fake"]])
        return lambda x: self.values(nets["critic"], x), points

    def evaluate(self, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Compute the critic's difference on held-out points, and arrays for figures.

        The arrays are generated samples, the critic's parameters, the norms of its gradient with respect to its input
        (their mean and standard deviation are metrics) and what :meth:`inspect` returns.
        """
        x = data["test/x"]
        real, fake = x[draw["real"]], self._generate(nets, x, draw)
        between = interpolate(real, fake, draw["alpha"])
        critic = nets["critic"]
        norms = gradient_norms(lambda points: self.values(critic, points), between)
        difference = self.values(critic, real).mean() - self.values(critic, fake).mean()
        results = {
            f"test/{self.difference_name}": difference,
            "test/gradient_norm": norms.mean(),
            "test/gradient_norm_deviation": norms.std(),
            "gradient_norms": norms,
            "samples": fake,
            "weights": torch.cat([tensor.flatten() for tensor in critic.parameters()]),
        } | self.inspect(critic, real, fake, x)
        return results | {
            f"test/{name}": averaged(function(fake, real), fake)
            for name, function in self.own_metrics.items()
        }

    @property
    def difference_name(self) -> str:
        """Name of the metric E D(x) - E D(G(z)), which only one of the losses makes an estimate of W1."""
        return "wasserstein_estimate" if self.loss_name == "wasserstein" else "critic_difference"

    @property
    def evaluated_names(self) -> set[str]:
        """Names of the metrics of :meth:`evaluate`, without ``test/``."""
        return {self.difference_name, "gradient_norm", "gradient_norm_deviation"}

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


def interpolate(real: Tensor, fake: Tensor, alpha_B: Tensor) -> Tensor:
    """Return ``alpha real + (1 - alpha) fake``, one alpha per SAMPLE. Shapes: [B, ...], [B, ...], [B]."""
    alpha = alpha_B.view(-1, *[1] * (real.dim() - 1))
    return alpha * real + (1 - alpha) * fake


def weight_histogram(parameters_P: np.ndarray) -> dict[str, np.ndarray]:
    """Return edges and counts of the histogram of a network's parameters [P], biases included."""
    reach = min(float(np.abs(parameters_P).max()), MAX_COUNTED)
    counts, edges = np.histogram(parameters_P, WEIGHT_BINS, (-reach, reach) if reach > 0 else (-1.0, 1.0))
    return {"weights/edges": edges, "weights/counts": counts}

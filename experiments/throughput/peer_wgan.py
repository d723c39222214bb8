"""The Wasserstein GAN of ``quick`` in plain PyTorch: one cell.

B batch, C the critic's updates per step, D coordinates of a point, Z noise.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import peer_cell
import torch
from peer_cell import CPU, Perceptron, Record, Treatment, clip, flatten, join, on
from torch import Tensor

from gradbench.data import Data, mixtures
from gradbench.functional.seeding import derive, generator
from gradbench.models.gan import EVALUATION_POINTS
from gradbench.models.wgan import mode_metrics, wasserstein

SERIES = (*peer_cell.SERIES, "generator/loss", "generator/grad_norm")
DRAWN = 50
"""Number of steps whose random numbers gradbench draws at once."""


def load(name: str) -> Data:
    """Load the data as gradbench does."""
    return mixtures.load(name, train=65536, test=4096, seed=0)


def draws(settings: Mapping[str, Any], x: Tensor, seed: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield gradbench's draws for the seed, step by step.

    For the critic real points [C, B, D], noise [C, B, Z] and weights [C, B, 1]; for the generator noise [B, Z].
    """
    C, B, Z = settings["critic_steps"], settings["batch_size"], settings["noise"]
    for first in range(0, settings["steps"], DRAWN):
        own = generator(seed, "critic", first * C)
        noise = torch.randn(DRAWN * C, B, Z, generator=own)
        real, _, alpha = points_and_weights(len(x), (DRAWN * C, B), own)
        others = torch.randn(DRAWN, B, Z, generator=generator(seed, "generator", first))
        shape = (DRAWN, C, B, -1)
        real, noise, alpha, others = (drawn.to(x.device) for drawn in (real, noise, alpha, others))
        yield from zip(
            x[real].view(shape),
            noise.to(x.dtype).view(shape),
            alpha.to(x.dtype).view(shape),
            others.to(x.dtype),
            strict=True,
        )


def points_and_weights(N: int, shape: tuple[int, int], own: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw indices of real points, indices that only ``generator=fixed`` uses, and interpolation weights."""
    real = torch.randint(N, shape, generator=own)
    base = torch.randint(N, shape, generator=own)
    return real, base, torch.rand(shape, generator=own)


def train(
    settings: Mapping[str, Any],
    data: Data,
    treatment: Treatment,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> Record:
    """Train one cell, with the weights and random numbers that gradbench draws for the seed."""
    torch.manual_seed(derive(seed, "weights"))
    D, Z, shape = data.sizes["inputs"], settings["noise"], (settings["hidden"], settings["depth"])
    critic, gen = Perceptron(D, *shape, 1).to(device, dtype), Perceptron(Z, *shape, D).to(device, dtype)
    weights, gen_weights = flatten(critic), flatten(gen)
    parameters, gen_parameters = list(critic.parameters()), list(gen.parameters())
    optimizer, gen_optimizer = (
        torch.optim.Adam([vector], settings["lr"], betas=(0.0, 0.9), fused=True)
        for vector in (weights, gen_weights)
    )
    tensors = on(device, data, dtype)
    x_ND = tensors["train/x"]
    B = settings["batch_size"]
    # The mean over generated points minus that over real ones, as one product.
    signs = torch.full((2 * B,), 1 / B, dtype=dtype, device=device)
    signs[B:] *= -1
    record = Record(**settings["divergence"], device=device)

    for step, (real, noise, alpha, gen_noise) in enumerate(
        (draw for draw, _ in zip(draws(settings, x_ND, seed), range(settings["steps"]), strict=False)), 1
    ):
        with torch.no_grad():  # the generator does not change during the critic's updates
            fake = gen.forward(noise)
            points, between = torch.cat([fake, real], dim=1), torch.lerp(fake, real, alpha)
        updates = []
        for both, middle in zip(points, between, strict=True):
            loss, penalty_value = critic.forward(both).flatten() @ signs, 0.0
            total = loss
            if treatment.name == "gp":
                middle.requires_grad_()
                (slope,) = torch.autograd.grad(critic.forward(middle).sum(), middle, create_graph=True)
                excess = torch.linalg.vector_norm(slope, dim=1) - 1
                penalty = treatment.strength * excess.square().mean()
                total, penalty_value = loss + penalty, record.read(penalty)
            weights.grad = join(torch.autograd.grad(total, parameters))
            compares = record.compares(settings)
            norms = clip(weights, treatment, record, compares)
            measures = compares or treatment.name != "clip_value"  # as gradbench does
            value, before = record.read(loss), weights.detach().clone() if measures else None
            if record.diverges(value, penalty_value, norms[0]):
                break
            optimizer.step()
            moved = record.norm_of(weights.detach() - before) if before is not None else float("nan")
            updates.append((value, penalty_value, *norms, moved))
        if record.diverged_at:
            record.rows.append((value, penalty_value, *norms, 0.0, float("nan"), float("nan")))
            break
        gen_loss = -critic.forward(gen.forward(gen_noise)).mean()
        gen_weights.grad = join(torch.autograd.grad(gen_loss, gen_parameters))
        value, norm = record.read(gen_loss), record.norm_of(gen_weights.grad)
        means = (sum(column) / len(updates) for column in zip(*updates, strict=True))
        diverged = record.diverges(value, 0.0, norm)
        record.rows.append((*means, value, norm))
        if diverged:
            break
        gen_optimizer.step()
        if step % settings["eval_every"] == 0 or step == settings["steps"]:
            if record.settle():
                break
            record.evaluations[step] = evaluate(critic, gen, settings, data, seed, tensors)
    return record


def evaluate(
    critic: Perceptron,
    gen: Perceptron,
    settings: Mapping[str, Any],
    data: Data,
    seed: int,
    tensors: Mapping[str, Tensor],
) -> dict[str, float]:
    """Compute the critic's estimate and gradient norm on held-out points, exact W1, modes and quality."""
    x = tensors["test/x"]
    own = generator(seed, "evaluation", 0)
    noise = torch.randn(1, EVALUATION_POINTS, settings["noise"], generator=own)[0].to(x)
    index, _, alpha = points_and_weights(len(x), (1, EVALUATION_POINTS), own)
    real = x[index[0].to(x.device)]
    with torch.no_grad():
        fake = gen.forward(noise)
        estimate = critic.forward(real).mean() - critic.forward(fake).mean()
    between = torch.lerp(fake, real, alpha[0, :, None].to(x)).requires_grad_()
    (slope,) = torch.autograd.grad(critic.forward(between).sum(), between)
    samples, held_out = fake.cpu().numpy(), np.asarray(data.arrays["test/x"])
    n = settings["matched_points"]
    return {
        "test/wasserstein_estimate": estimate.item(),
        "test/gradient_norm": torch.linalg.vector_norm(slope, dim=1).mean().item(),
        "test/wasserstein": wasserstein(samples[:n], held_out[:n]),
        **mode_metrics(samples, np.asarray(data.arrays["centres"]), float(data.arrays["sigma"])),
    }

"""PPO on CartPole in plain PyTorch: one cell.

E environments, T interactions per training step, A actions, O observations.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from peer_cell import BRIEF as SERIES
from peer_cell import CPU, Record, Treatment, update
from torch import Tensor, nn

from gradbench.data import Data, environments
from gradbench.functional.seeding import derive, generator
from gradbench.models import cartpole
from gradbench.models.sampling import epoch_indices
from gradbench.training.draws import CHUNK

__all__ = ["SERIES", "load", "train"]

Draws = tuple[Tensor, Tensor]
"""Gumbel noise [T, E, A], which chooses actions, and first states [T, E, O]."""


def load(_: str) -> Data:
    """Load the sizes of the environment."""
    return environments.cartpole()


def perceptron(widths: list[int], gain: float) -> nn.Sequential:
    """Return linear layers with tanh between them, and orthogonal initial weights; the gain is the last layer's."""
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(widths), start=1):
        last = number == len(widths) - 1
        linear = nn.Linear(before, after)
        nn.init.orthogonal_(linear.weight, gain if last else math.sqrt(2))
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, nn.Tanh()]
    return nn.Sequential(*layers)


class Environments:
    """Environments of CartPole side by side.

    Args:
        count: E.
        limit: steps after which an episode is truncated.
        like: tensor of their type, on their device.
    """

    def __init__(self, count: int, limit: int, like: Tensor) -> None:
        self.limit = limit
        self.state, self.length = like.new_zeros(count, 4), like.new_zeros(count)
        self.over = like.new_ones(count)

    @torch.no_grad()
    def play(self, actor: nn.Module, draws: Draws) -> tuple[Tensor, ...]:
        """Let the policy act T times; return states, actions, states after, fallen poles and ended episodes, [T, E]."""
        rows = []
        for gumbel, start in zip(*draws, strict=True):
            state = torch.where(self.over[:, None] > 0, start, self.state)
            action = (actor(state) + gumbel).argmax(-1).to(state.dtype)
            self.state, fallen = cartpole.push(state, action)
            self.length = self.length * (1 - self.over) + 1
            self.over = (fallen | (self.length >= self.limit)).to(state.dtype)
            rows.append((state, action, self.state, fallen.to(state.dtype), self.over))
        return tuple(map(torch.stack, zip(*rows, strict=True)))


def draw(seed: int, purpose: str, first: int, shape: tuple[int, int, int], like: Tensor) -> Draws:
    """Draw what gradbench draws: of ``shape`` each, [..., A] and [..., O]."""
    random = generator(seed, purpose, first)
    gumbel = -torch.empty(*shape, 2).exponential_(generator=random).log()
    return gumbel.to(like), cartpole.begin(torch.rand(*shape, 4, generator=random)).to(like)


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
    widths = [data.sizes["observations"]] + [settings["hidden"]] * settings["depth"]
    actor, critic = perceptron([*widths, data.sizes["actions"]], 0.01), perceptron([*widths, 1], 1.0)
    net = nn.ModuleList([actor, critic]).to(device, dtype)
    optimizer = torch.optim.Adam(net.parameters(), settings["lr"], eps=settings["eps"], fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda taken: 1 - taken / settings["steps"])
    T, E = settings["interactions"], settings["environments"]
    like = torch.zeros((), dtype=dtype, device=device)
    played = Environments(E, settings["limit"], like)
    record = Record(**settings["divergence"], device=device)
    updates = settings["epochs"] * settings["minibatches"]

    for step in range(settings["steps"]):
        if step % CHUNK == 0:
            draws = draw(seed, "interaction", step, (CHUNK, T, E), like)
            indices = epoch_indices(
                seed, T * E, T * E // settings["minibatches"], step * updates, CHUNK * updates
            )
        now = step % CHUNK
        transitions = played.play(actor, (draws[0][now], draws[1][now]))
        experience = evaluate_transitions(actor, critic, transitions, settings)
        rows = []
        for index in indices[now * updates : (now + 1) * updates].to(device):
            loss = ppo_loss(actor, critic, [one[index] for one in experience], settings)
            rows.append(update(net, loss, optimizer, treatment, record))
            if record.diverged_at:
                break
        record.rows.append(tuple(sum(column) / len(rows) for column in zip(*rows, strict=True)))
        if record.diverged_at:
            break
        schedule.step()
        if (step + 1) % settings["eval_every"] == 0 or step + 1 == settings["steps"]:
            if record.settle():
                break
            record.evaluations[step + 1] = evaluate(actor, settings, seed, like)
    return record


@torch.no_grad()
def evaluate_transitions(
    actor: nn.Module, critic: nn.Module, transitions: tuple[Tensor, ...], settings: Mapping[str, Any]
) -> list[Tensor]:
    """Return states, actions, their log-probabilities, advantages and targets, and values: [T E, ...] each."""
    state, action, after, fallen, over = transitions
    value, following = critic(state)[..., 0], critic(after)[..., 0]
    difference = 1 + settings["discount"] * (1 - fallen) * following - value
    decay = settings["discount"] * settings["gae_lambda"] * (1 - over)
    advantage, left = torch.empty_like(difference), torch.zeros_like(difference[0])
    for t in reversed(range(len(difference))):
        advantage[t] = left = difference[t] + decay[t] * left
    columns = state, action, log_probability(actor(state), action), advantage, advantage + value, value
    return [column.flatten(end_dim=1) for column in columns]


def ppo_loss(actor: nn.Module, critic: nn.Module, batch: list[Tensor], settings: Mapping[str, Any]) -> Tensor:
    """Return the loss of policy and value, less the weighted entropy."""
    state, action, old_log, advantage, target, old = batch
    logits, value, limit = actor(state), critic(state)[..., 0], settings["clip_range"]
    ratio = (log_probability(logits, action) - old_log).exp()
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    policy = -torch.minimum(ratio * advantage, ratio.clamp(1 - limit, 1 + limit) * advantage).mean()
    near = old + (value - old).clamp(-limit, limit)
    fitted = torch.maximum((value - target).square(), (near - target).square()).mean() / 2
    logs = logits.log_softmax(-1)
    entropy = -(logs.exp() * logs).sum(-1).mean()
    return policy + settings["value"] * fitted - settings["entropy"] * entropy


def log_probability(logits: Tensor, action: Tensor) -> Tensor:
    """Return the log-probabilities of actions. Shapes: [..., A], [...] -> [...]."""
    return logits.log_softmax(-1).gather(-1, action.long()[..., None])[..., 0]


def evaluate(actor: nn.Module, settings: Mapping[str, Any], seed: int, like: Tensor) -> dict[str, float]:
    """Compute the mean return of evaluation episodes."""
    limit, episodes = settings["limit"], settings["episodes"]
    gumbel, start = draw(seed, "evaluation", 0, (1, limit, episodes), like)
    *_, over = Environments(episodes, limit, like).play(actor, (gumbel[0], start[0]))
    before = F.pad((1 - over[:-1]).cumprod(0), (0, 0, 1, 0), value=1.0)
    return {"test/return": before.sum(0).mean().item()}

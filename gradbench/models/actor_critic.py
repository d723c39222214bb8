"""Advantage actor-critic on CartPole: proximal policy optimisation (PPO), and its predecessor A2C.

E environments, T interactions per training step, N = T E transitions, B batch, A actions, O observations.

An episode ends when the pole has fallen, or is truncated after a number of steps; the next interaction of that
environment is the first one of a new episode. A fallen pole is worth nothing. A truncated episode is worth what the
critic says of the state that it was left in (Pardo et al., "Time limits in reinforcement learning", arXiv:1712.00378,
2017), where CleanRL's PPO counts both as ends.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from gradbench.errors import UsageError, nearest
from gradbench.functional.seeding import generator
from gradbench.models import INTERACTION, Networks, Player, Task, Tensors, cartpole
from gradbench.models.networks.actor_critic import ActorCritic
from gradbench.models.sampling import epoch_indices, gather_rows

ALGORITHMS = ("ppo", "a2c")

REWARD = 1.0
"""For every step."""

TINY = 1e-8
"""Added to the standard deviation of advantages."""

MONITORED = ("entropy", "approximate_kl", "clip_fraction", "explained_variance")
"""Metrics of the last update, ``train/…``; the explained variance is that of the critic before the step's updates."""


class ActorCriticTask(Task):
    """One network with an actor and a critic, trained on what it experiences.

    A training step interacts T times with E environments, and then takes ``epochs`` x ``minibatches`` updates. Those of
    an epoch use each transition once. With accumulated batches an update takes several of them.

    Args:
        sizes: sizes of the environment: ``observations`` (O) and ``actions`` (A).
        algorithm: ``ppo``: clipped ratio of probabilities, clipped values; ``a2c``: neither.
        environments: E.
        interactions: T.
        limit: steps after which an episode is truncated.
        epochs: passes over the N transitions per training step.
        minibatches: updates per pass; N is a multiple of it.
        discount: of a reward, per step.
        gae_lambda: decay of temporal differences in an advantage; 1 sums all rewards until the last interaction.
        normalise: whether the advantages of a batch are given mean 0 and standard deviation 1.
        clip_range: change of a probability, as a share of it, that PPO rewards at most; and of a value.
        entropy: weight of the policy's entropy.
        value: weight of the critic's loss, half a mean square.
        episodes: evaluation episodes.
        hidden: units per hidden layer, of actor and critic each.
        depth: hidden layers, of actor and critic each.
        activation: a key of ``gradbench.models.networks.mlp.ACTIVATIONS``.

    References: Mnih et al., arXiv:1602.01783, 2016 (A3C, whose synchronous form is A2C); Schulman et al.,
    arXiv:1707.06347, 2017 (PPO), and arXiv:1506.02438, 2015 (generalised advantage estimation).
    """

    probe_points = ("states",)
    probe_around = "states"
    width_tolerance = 0.0

    def __init__(
        self,
        sizes: Mapping[str, int],
        algorithm: str,
        environments: int,
        interactions: int,
        limit: int,
        epochs: int,
        minibatches: int,
        discount: float,
        gae_lambda: float,
        normalise: bool,
        clip_range: float,
        entropy: float,
        value: float,
        episodes: int,
        hidden: int,
        depth: int,
        activation: str,
    ) -> None:
        if algorithm not in ALGORITHMS:
            known = f"{', '.join(ALGORITHMS)}, got '{algorithm}'{nearest(algorithm, ALGORITHMS)}"
            raise UsageError(f"model.algorithm must be one of {known}")
        counts = {
            "environments": environments,
            "interactions": interactions,
            "limit": limit,
            "epochs": epochs,
            "minibatches": minibatches,
            "episodes": episodes,
        }
        for name, count in counts.items():
            if count < 1:
                raise UsageError(f"model.{name} must be at least 1, got {count}; try model.{name}=4")
        self.transitions = environments * interactions
        if self.transitions % minibatches:
            raise UsageError(
                f"model.minibatches={minibatches} does not divide the {self.transitions} transitions of a step "
                f"({environments} environments, {interactions} interactions); try model.minibatches=1"
            )
        for name, share in (("discount", discount), ("gae_lambda", gae_lambda)):
            if not 0 <= share <= 1:
                raise UsageError(f"model.{name} must be in [0, 1], got {share}; try model.{name}=0.95")
        self.is_ppo, self.normalise = algorithm == "ppo", normalise
        self.environments, self.interactions = environments, interactions
        self.limit, self.episodes = limit, episodes
        self.batch_size = self.transitions // minibatches
        self.discount, self.gae_lambda, self.clip_range = discount, gae_lambda, clip_range
        self.entropy, self.value = entropy, value
        self.observations, self.actions = sizes["observations"], sizes["actions"]
        self.layers = (hidden, depth, activation)
        self.players = (Player("agent", steps=epochs * minibatches),)

    def networks(self, fused: bool = False) -> dict[str, nn.Module]:
        """Return actor and critic as one network."""
        return {"agent": ActorCritic(self.observations, self.actions, *self.layers)}

    def draw(
        self, purpose: str, seed: int, first: int, count: int, data: Mapping[str, np.ndarray]
    ) -> Tensors:
        """Draw the transitions of batches, or what interactions depend on: Gumbel noise and first states."""
        if purpose == "agent":
            index = epoch_indices(seed, self.transitions, self.batch_size, first, count)
            return {"index": index}
        random = generator(seed, purpose, first)
        evaluates = purpose != INTERACTION
        shape = (self.limit, self.episodes) if evaluates else (self.interactions, self.environments)
        gumbel = -torch.empty(count, *shape, self.actions).exponential_(generator=random).log()
        start = cartpole.begin(torch.rand(count, *shape, self.observations, generator=random))
        return {"gumbel": gumbel, "start": start}

    def carry(self) -> Tensors:
        """Return environments whose episodes are over, so that each begins with its first interaction."""
        return self._first(self.environments)

    def evaluation_carry(self) -> Tensors:
        """Return as many environments as there are evaluation episodes."""
        return self._first(self.episodes)

    def _first(self, E: int) -> Tensors:
        """Return what E environments carry before their first interaction."""
        return {
            "state": torch.zeros(E, self.observations),
            "length": torch.zeros(E),
            "over": torch.ones(E),
            "interactions": torch.zeros(()),
            "lengths": torch.zeros(()),
            "monitored": torch.zeros(len(MONITORED)),
        }

    def interact(self, nets: Networks, carry: Tensors, draw: Tensors) -> tuple[Tensors, Tensors]:
        """Let the policy act once in each environment; the action with the largest logit plus Gumbel noise is taken."""
        state = torch.where(carry["over"][..., None] > 0, draw["start"], carry["state"])
        logits, _ = nets["agent"](state)
        action = (logits + draw["gumbel"]).argmax(-1).to(state.dtype)
        after, fallen = cartpole.push(state, action)
        length = carry["length"] * (1 - carry["over"]) + 1
        ended = (fallen | (length >= self.limit)).to(state.dtype)
        transition = {
            "state": state,
            "action": action,
            "after": after,
            "fallen": fallen.to(state.dtype),
            "over": ended,
        }
        carried = {
            "state": after,
            "length": length,
            "over": ended,
            "interactions": carry["interactions"] + self.environments,
            "lengths": carry["lengths"] + length.sum(),
        }
        return transition, carry | carried

    def batch(self, player: str, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Return the chosen transitions, [B, ...], with the old policy's log-probabilities, advantages and targets."""
        state, action = data["state"], data["action"]
        logits, value = nets["agent"](state)
        _, following = nets["agent"](data["after"])
        advantage = advantages(value, following, data["fallen"], data["over"], self.discount, self.gae_lambda)
        target = advantage + value
        columns = {
            "action": action,
            "log_probability": log_probability(logits, action),
            "advantage": advantage,
            "target": target,
            "value": value,
        }
        table = torch.cat([state, torch.stack(list(columns.values()), dim=-1)], dim=-1).flatten(end_dim=1)
        chosen = gather_rows(table, draw["index"])
        batch = dict(zip(columns, chosen[..., self.observations :].unbind(-1), strict=True))
        explained = explained_variance(value, target)
        return {"state": chosen[..., : self.observations], **batch, "explained_variance": explained}

    def loss(self, player: str, nets: Networks, batch: Tensors, carry: Tensors) -> tuple[Tensor, Tensors]:
        """Return the loss of policy and value, less the weighted entropy; what is monitored is carried on."""
        logits, value_B = nets["agent"](batch["state"])
        change_B = log_probability(logits, batch["action"]) - batch["log_probability"]
        entropy = entropy_of(logits).mean()
        advantage_B = normalised(batch["advantage"]) if self.normalise else batch["advantage"]
        if self.is_ppo:
            policy = clipped_policy_loss(change_B, advantage_B, self.clip_range)
            fitted = clipped_value_loss(value_B, batch["value"], batch["target"], self.clip_range)
        else:
            # the derivative of the log-probability: the old one is a constant
            policy = -(advantage_B * change_B).mean()
            fitted = (value_B - batch["target"]).square().mean() / 2
        ratio_B = change_B.exp()
        clipped = ((ratio_B - 1).abs() > self.clip_range).to(ratio_B.dtype).mean()
        kl = (ratio_B - 1 - change_B).mean()
        monitored = torch.stack([entropy, kl, clipped, batch["explained_variance"]]).detach()
        return policy + self.value * fitted - self.entropy * entropy, carry | {"monitored": monitored}

    def probe(
        self, player: str, nets: Networks, batch: Tensors, carry: Tensors
    ) -> tuple[Callable[[Tensor], Tensor], Tensors]:
        """Return the critic, and the states of the batch."""
        return lambda x: nets["agent"](x)[1], {"states": batch["state"]}

    def evaluate(self, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Compute the mean return of episodes that the policy has just played, and what training monitored.

        ``train/mean_return`` is that of training so far, see :func:`mean_return`.
        """
        returns = first_returns(data["over"])
        monitored = zip(MONITORED, data["monitored"].unbind(), strict=True)
        return {
            "test/return": returns.mean(),
            "train/mean_return": mean_return(data["lengths"], data["interactions"]),
            "train/environment_steps": data["interactions"],
            "returns": returns,
            **{f"train/{name}": value for name, value in monitored},
        }

    def summarize(
        self, arrays: Mapping[str, np.ndarray], data: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Keep the return of each episode."""
        return {}, dict(arrays)

    def metric_names(self, networks: Networks) -> frozenset[str]:
        """Return the names of all metrics."""
        trained = ("mean_return", "environment_steps", *MONITORED)
        return frozenset(["test/return", *(f"train/{name}" for name in trained)])


def advantages(
    value: Tensor, following: Tensor, fallen: Tensor, over: Tensor, discount: float, gae_lambda: float
) -> Tensor:
    """Return generalised advantage estimates: decaying sums of temporal differences, until an episode's end.

    δ_t = r + γ (1 - fallen_t) V(s'_t) - V(s_t);  A_t = δ_t + γ λ (1 - over_t) A_{t+1}. All shapes: [T, E].

    Args:
        value: V of the states before each action.
        following: V of the states after it.
        fallen: 1 where a state after has no value.
        over: 1 where the next row is of another episode.
        discount: γ.
        gae_lambda: λ.
    """
    differences = (REWARD + discount * (1 - fallen) * following - value).unbind()
    decays = (discount * gae_lambda * (1 - over)).unbind()
    found = [differences[-1]]
    for difference, decay in zip(differences[-2::-1], decays[-2::-1], strict=True):
        found.append(difference + decay * found[-1])
    return torch.stack(found[::-1])


def clipped_policy_loss(change_B: Tensor, advantage_B: Tensor, clip_range: float) -> Tensor:
    """Return PPO's loss of a policy: -E min(r A, clip(r, 1 - ε, 1 + ε) A), with r = exp(change)."""
    ratio_B = change_B.exp()
    clipped_B = ratio_B.clamp(1 - clip_range, 1 + clip_range)
    return -torch.minimum(ratio_B * advantage_B, clipped_B * advantage_B).mean()


def clipped_value_loss(value_B: Tensor, old_B: Tensor, target_B: Tensor, clip_range: float) -> Tensor:
    """Return half the mean of the larger square of two errors: the value's, and that of the value kept near the old."""
    near_B = old_B + (value_B - old_B).clamp(-clip_range, clip_range)
    return torch.maximum((value_B - target_B).square(), (near_B - target_B).square()).mean() / 2


def log_probability(logits: Tensor, action: Tensor) -> Tensor:
    """Return the log-probabilities of actions. Shapes: [..., A], [...] -> [...]."""
    return logits.log_softmax(-1).gather(-1, action.long()[..., None])[..., 0]


def entropy_of(logits: Tensor) -> Tensor:
    """Return the entropy of the policy in nats. Shapes: [..., A] -> [...]."""
    logs = logits.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)


def normalised(advantage_B: Tensor) -> Tensor:
    """Return advantages of mean 0 and standard deviation 1, Bessel's correction included."""
    centred_B = advantage_B - advantage_B.mean()
    # not ``std``, which rounds otherwise for a single cell than for several
    deviation = (centred_B.square().sum() / max(len(centred_B) - 1, 1)).sqrt()
    return centred_B / (deviation + TINY)


def explained_variance(value: Tensor, target: Tensor) -> Tensor:
    """Return the share of the targets' variance that the values explain; 0 where there is none. [T, E] -> []."""
    error, spread = (one.flatten() for one in (target - value, target))
    left = (error - error.mean()).square().mean()
    total = (spread - spread.mean()).square().mean()
    return torch.where(total > 0, 1 - left / total, 0.0)


def first_returns(over: Tensor) -> Tensor:
    """Return the return of each environment's first episode. Shapes: [T, E] -> [E]."""
    before = torch.cat([torch.ones_like(over[:1]), (1 - over[:-1]).cumprod(0)])
    return REWARD * before.sum(0)


def mean_return(lengths: Tensor, interactions: Tensor) -> Tensor:
    """Return the area under the training episodes' learning curve, divided by the number of environment steps.

    Each step counts with the return of its episode, which is L^2 = sum of 2 l - 1 over its steps l = 1 … L in all. An
    episode that is not over counts with its return so far.

    Args:
        lengths: sum over all environment steps of l, the length of the episode up to this step.
        interactions: number of environment steps.
    """
    return REWARD * (2 * lengths - interactions) / interactions.clamp(min=1)

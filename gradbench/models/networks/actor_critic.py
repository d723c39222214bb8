"""Two perceptrons that read the same observation: the actor's scores of actions, and the critic's value.

B batch, O observations, A actions.
"""

import math
from itertools import pairwise

from torch import Tensor, nn

from gradbench.models.networks.mlp import ACTIVATIONS

HIDDEN_GAIN, ACTOR_GAIN, CRITIC_GAIN = math.sqrt(2), 0.01, 1.0
"""Gains of the orthogonal initial weights: of hidden layers, and of the output layers."""


class ActorCritic(nn.Module):
    """Map observations [..., O] to logits of actions [..., A] and values [...].

    Initial weights are orthogonal and biases zero, as Andrychowicz et al., "What matters in on-policy reinforcement
    learning?" (arXiv:2006.05990, 2020), describe it: an actor that begins near the uniform policy.

    Args:
        observations: O.
        actions: A.
        hidden: units per hidden layer, of both.
        depth: hidden layers, of both.
        activation: a key of ``ACTIVATIONS``.
    """

    def __init__(self, observations: int, actions: int, hidden: int, depth: int, activation: str) -> None:
        super().__init__()
        widths = [observations] + [hidden] * depth
        self.actor = perceptron([*widths, actions], activation, ACTOR_GAIN)
        self.critic = perceptron([*widths, 1], activation, CRITIC_GAIN)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [..., A] and values [...]."""
        return self.actor(x), self.critic(x).squeeze(-1)


def perceptron(widths: list[int], activation: str, gain: float) -> nn.Sequential:
    """Return linear layers of these widths with activations between them; the last layer has a gain of its own."""
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(widths), start=1):
        is_last = number == len(widths) - 1
        linear = nn.Linear(before, after)
        nn.init.orthogonal_(linear.weight, gain if is_last else HIDDEN_GAIN)
        nn.init.zeros_(linear.bias)
        layers += [linear] if is_last else [linear, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)

"""Environments of reinforcement learning: there are no examples, only sizes that a model is built from."""

from gradbench.data import Data


def cartpole() -> Data:
    """Return the sizes of CartPole: 4 observations and 2 actions."""
    return Data({}, {"observations": 4, "actions": 2})

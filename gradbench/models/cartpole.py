"""CartPole as functions of tensors: balance a pole on a cart, which is pushed to the left or to the right.

Reference: Barto, Sutton and Anderson, "Neuronlike adaptive elements that can solve difficult learning control problems"
(IEEE Transactions on Systems, Man, and Cybernetics 13(5), 1983); constants, Euler steps and limits are those of
Gymnasium's CartPole-v1, whose every transition a test repeats.

E environments. A state is position (m), velocity, angle (rad) and angular velocity: [E, 4].
"""

import math

import torch
from torch import Tensor

GRAVITY, SECONDS, FORCE = 9.8, 0.02, 10.0
"""m/s², duration of a step in s, size of a push in N."""

CART, POLE, HALF_LENGTH = 1.0, 0.1, 0.5
"""Masses in kg, and half of the pole's length in m."""

POSITION_LIMIT, ANGLE_LIMIT = 2.4, math.radians(12)
"""The pole has fallen beyond these, in m and rad."""

START = 0.05
"""Each number of a first state is of U[-START, START)."""


def begin(uniform_E4: Tensor) -> Tensor:
    """Return first states from numbers of U[0, 1). Shapes: [E, 4] -> [E, 4]."""
    return START * (2 * uniform_E4 - 1)


def push(state_E4: Tensor, action_E: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states after a push, and which poles have fallen.

    Args:
        state_E4: states before.
        action_E: 0 pushes to the left, 1 to the right; of the states' type.

    Returns:
        States [E, 4], and bool [E].
    """
    _, velocity, angle, spin = state_E4.unbind(-1)
    cosine, sine = angle.cos(), angle.sin()
    force = 2 * FORCE * action_E - FORCE
    moment, mass = POLE * HALF_LENGTH, CART + POLE
    drive = (force + moment * spin * spin * sine) / mass
    inertia = HALF_LENGTH * 4 / 3 - HALF_LENGTH * POLE / mass * cosine * cosine
    angular = (GRAVITY * sine - cosine * drive) / inertia
    linear = drive - moment / mass * angular * cosine
    rates = torch.stack([velocity, linear, spin, angular], dim=-1)
    after = state_E4 + SECONDS * rates
    limits = torch.tensor((POSITION_LIMIT, ANGLE_LIMIT), dtype=after.dtype, device=after.device)
    return after, (after[..., ::2].abs() > limits).any(-1)

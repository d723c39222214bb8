"""Gradients of a small network, one by one and in series, and what a regularizer makes of them.

P parameters.
"""

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import nn

from gradbench.functional.flat_params import Layout, flatten

NET = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3)).double()
"""Only its shapes matter: a kernel, matrices, vectors."""

LAYOUT = Layout(NET)
P = sum(LAYOUT.sizes)

SEEDS = st.integers(0, 2**31)
SCALES = st.floats(1e-4, 1e4)
THRESHOLDS = st.floats(1e-3, 1e3)

few_examples = settings(max_examples=30, deadline=None)


def gradient_of(seed, scale=1.0):
    """Return a gradient [P] whose coordinates span some orders of magnitude."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=P) * 10 ** rng.uniform(-2, 1, size=P)) * scale


def act(regularizer, gradient, strength, parameters=None):
    """Return what a fresh regularizer makes of one gradient."""
    return follow(regularizer, [gradient], strength, parameters)[0][0]


def follow(regularizer, gradients, strength, parameters=None):
    """Return what a regularizer makes of a series of gradients, and its last state."""
    parameters = flatten(NET) if parameters is None else parameters
    state, used = regularizer.init(parameters, LAYOUT), []
    for gradient in gradients:
        one, state = regularizer.transform(
            gradient, torch.tensor(strength, dtype=gradient.dtype), state, parameters, LAYOUT
        )
        used.append(one)
    return used, state


def torchs(clip, gradient, *arguments, **options):
    """Return what one of torch's in-place functions makes of a gradient spread over parameters."""
    parameters = [nn.Parameter(torch.zeros_like(part)) for part in LAYOUT.split(gradient).values()]
    for parameter, part in zip(parameters, LAYOUT.split(gradient).values(), strict=True):
        parameter.grad = part.clone()
    clip(parameters, *arguments, **options)
    return torch.cat([parameter.grad.reshape(-1) for parameter in parameters])


def series(count, seed=0, spikes=True):
    """Return gradients [P] of log-normal norms, every seventeenth far out."""
    rng = np.random.default_rng(seed)
    scales = rng.lognormal(0.0, 0.4, count) * np.where(spikes & (np.arange(count) % 17 == 16), 30.0, 1.0)
    return [gradient_of(seed + step, float(scale)) for step, scale in enumerate(scales)]

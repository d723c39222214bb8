"""Points in the plane for toy critics: 8 Gaussians on a circle, 25 on a grid, a Swiss roll.

The constants are those of the toy experiment of Gulrajani et al., "Improved Training of Wasserstein GANs"
(arXiv:1704.00028, 2017): points and noise are divided by one scale, so σ shrinks with the centres. Deviation: the
number of points of each of the 25 Gaussians is random, as of the 8, instead of equal.

N points, M modes.
"""

import math

import numpy as np
from numpy.typing import NDArray

from gradbench.data import Array, Data
from gradbench.errors import UsageError, nearest

Points = NDArray[np.float64]
"""[N, 2]"""

RADIUS, SIGMA_8, SCALE_8 = 2.0, 0.02, 1.414
SPACING, SIGMA_25, SCALE_25 = 2.0, 0.05, 2.828
NOISE_ROLL, SCALE_ROLL = 0.25, 7.5
KINDS = ("gaussians8", "gaussians25", "swiss_roll")


def load(kind: str, train: int, test: int, seed: int) -> Data:
    """Draw a training and a test set of points.

    Args:
        kind: ``gaussians8``, ``gaussians25`` or ``swiss_roll``.
        train: number of training points.
        test: number of test points.
        seed: seed of the draw; each set has its own generator, so the size of one does not change the other.

    Returns:
        Arrays ``train/x`` and ``test/x`` float32 [N, 2] and, for the Gaussians, ``centres`` float32 [M, 2] and
        ``sigma`` float32 [], both after scaling; size ``inputs`` (2).
    """
    if kind not in KINDS:
        raise UsageError(f"data.kind must be one of {', '.join(KINDS)}, got '{kind}'{nearest(kind, KINDS)}")
    for name, count in (("train", train), ("test", test)):
        if count < 1:
            raise UsageError(f"data.{name} must be at least 1 point, got {count}; try data.{name}=4096")
    generators = {"train": np.random.default_rng([seed, 0]), "test": np.random.default_rng([seed, 1])}
    counts = {"train": train, "test": test}
    arrays: dict[str, Array] = {}
    if kind == "swiss_roll":
        for split, generator in generators.items():
            arrays[f"{split}/x"] = draw_swiss_roll(generator, counts[split]).astype(np.float32)
    else:
        centres, sigma = gaussians8() if kind == "gaussians8" else gaussians25()
        for split, generator in generators.items():
            modes = generator.integers(len(centres), size=counts[split])
            points = centres[modes] + sigma * generator.standard_normal((counts[split], 2))
            arrays[f"{split}/x"] = points.astype(np.float32)
        arrays |= {"centres": centres.astype(np.float32), "sigma": np.array(sigma, np.float32)}
    return Data(arrays, {"inputs": 2})


def gaussians8() -> tuple[Points, float]:
    """Return the centres [8, 2] on a circle, and the σ of each coordinate, both after scaling."""
    angles = [2 * math.pi * mode / 8 for mode in range(8)]
    centres = np.array([[RADIUS * math.cos(angle), RADIUS * math.sin(angle)] for angle in angles])
    return centres / SCALE_8, SIGMA_8 / SCALE_8


def gaussians25() -> tuple[Points, float]:
    """Return the centres [25, 2] on a 5 × 5 grid, and the σ of each coordinate, both after scaling."""
    line = SPACING * np.arange(-2.0, 3.0)
    centres = np.array([[x, y] for x in line for y in line])
    return centres / SCALE_25, SIGMA_25 / SCALE_25


def draw_swiss_roll(generator: np.random.Generator, count: int) -> Points:
    """Draw points [N, 2] of (t cos t, t sin t), t ~ U[1.5π, 4.5π], add Gaussian noise, and scale them.

    This is scikit-learn's ``make_swiss_roll`` without its middle coordinate.
    """
    t = 1.5 * math.pi * (1 + 2 * generator.random(count))
    curve = np.stack([t * np.cos(t), t * np.sin(t)], axis=1)
    return (curve + NOISE_ROLL * generator.standard_normal((count, 2))) / SCALE_ROLL

"""The critic's figure of data in the plane, and of data that is not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import synthetic

from gradbench.report import build


@pytest.mark.parametrize("shape", [(2,), (13,), (8, 8)])
def test_the_critic_is_drawn_for_points_of_any_shape(
    shape: tuple[int, ...], tmp_path: Path, drawn: Callable[..., None]
) -> None:
    drawn("Critic")
    synthetic.write(tmp_path, models=["wgan"], strengths={"none": (), "gp": (1.0,)}, steps=12)
    rng = np.random.default_rng(0)
    for path in (tmp_path / "arrays").glob("*.npz"):
        stored = dict(np.load(path))
        if shape != (2,):  # only a critic of the plane has values over it
            del stored["surface"], stored["extent"]
        stored |= {name: rng.normal(size=(1000, *shape)) for name in ("samples", "data")}
        np.savez(path, **stored)
    build(tmp_path)
    words = (tmp_path / "report" / "figures" / "critic.svg").read_text(encoding="utf-8")
    assert (tmp_path / "report" / "figures" / "critic.png").is_file()
    assert "with none" in words
    assert ("critic's value" in words) == (shape == (2,))


def test_of_images_the_norms_alone_are_drawn(tmp_path: Path, drawn: Callable[..., None]) -> None:
    drawn("Critic")
    synthetic.write(tmp_path, models=["wgan"], strengths={"none": (), "gp": (1.0,)}, steps=12)
    for path in (tmp_path / "arrays").glob("*.npz"):
        stored = dict(np.load(path))
        np.savez(path, gradient_norms=stored["gradient_norms"])
    build(tmp_path)
    words = (tmp_path / "report" / "figures" / "critic.svg").read_text(encoding="utf-8")
    assert "critic's input gradient" in words
    assert "critic's value" not in words
    assert "samples (colour)" not in words

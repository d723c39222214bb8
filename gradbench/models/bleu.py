"""BLEU, the usual score of translations: how many of their sequences of up to four tokens a reference has, too.

N sentences, T tokens of a row.
"""

import math

import numpy as np
from numpy.typing import NDArray

ORDERS = 4
"""Longest sequence of tokens that is compared."""


def corpus_bleu(translations: NDArray[np.int64], references: NDArray[np.int64], end: int) -> float:
    """Return the BLEU of all translations together, in percent.

    That is 100 · min(1, exp(1 - r / c)) · (p1 p2 p3 p4)^(1/4), with c and r the numbers of tokens of translations and
    references, and pn the share of the translations' sequences of n tokens that their reference has at least as often.
    Where none matches, pn is half of what one match would make it, and half of that the next time ("exp" smoothing).

    Args:
        translations: token numbers, [N, T]; a row counts up to the first ``end``.
        references: as many rows.
        end: number of the token that ends a row, and is not counted itself.

    Reference: Papineni et al., "BLEU: a method for automatic evaluation of machine translation", ACL 2002; tokens are
    not changed, otherwise as sacreBLEU (Post, arXiv:1804.08771, 2018) by default.
    """
    found, known = lengths_of(translations, end), lengths_of(references, end)
    logarithm, halvings = 0.0, 0
    for order in range(1, ORDERS + 1):
        ours, theirs = sequences(translations, found, order), sequences(references, known, order)
        if not len(ours):
            return 0.0
        matches = count_common(ours, theirs)
        halvings += not matches
        logarithm += math.log((matches or 0.5**halvings) / len(ours)) / ORDERS
    brevity = min(0.0, 1 - int(known.sum()) / int(found.sum()))
    return 100 * math.exp(logarithm + brevity)


def lengths_of(rows: NDArray[np.int64], end: int) -> NDArray[np.int64]:
    """Return the number of tokens before the end of each row, [N]; all of them in a row that does not end."""
    is_end = rows == end
    lengths: NDArray[np.int64] = np.where(is_end.any(axis=1), is_end.argmax(axis=1), rows.shape[1])
    return lengths


def sequences(rows: NDArray[np.int64], lengths: NDArray[np.int64], order: int) -> NDArray[np.int64]:
    """Return each sequence of ``order`` tokens with the number of its row, [sequences, 1 + order]."""
    if rows.shape[1] < order:
        return np.empty((0, 1 + order), np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(rows, order, axis=1)
    row, place = np.nonzero(np.arange(windows.shape[1]) <= lengths[:, None] - order)
    return np.column_stack([row, windows[row, place]])


def count_common(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> int:
    """Count the rows of one table that another has, too; each of the other's counts for one at most."""
    _, kind = np.unique(np.concatenate([ours, theirs]), axis=0, return_inverse=True)
    count = np.bincount(kind.ravel()[: len(ours)], minlength=kind.max() + 1)
    return int(np.minimum(count, np.bincount(kind.ravel()[len(ours) :], minlength=len(count))).sum())

"""Split a data set into training and test parts, by the data's own settings and never by a cell's seed."""

import numpy as np
from numpy.typing import NDArray

from gradbench.errors import UsageError

WORD_SEARCH = 100  # characters to search backwards for a blank, so that no word is cut


def check_share(share: float | None) -> float:
    """Return ``share``; raise ``UsageError`` unless 0 < share < 1."""
    if share is None or not 0 < share < 1:
        raise UsageError(
            f"data.test_share must be between 0 and 1, both excluded, got {share}; try data.test_share=0.1"
        )
    return share


def split_text(text: str, share: float | None) -> tuple[str, str]:
    """Cut a text in two; the test part is the last ``share`` of its characters.

    The cut moves back to just after the nearest blank, so that the two parts are the same for every tokenisation, and
    bits per character can be compared.
    """
    cut = len(text) - round(check_share(share) * len(text))
    blank = max(text.rfind(mark, max(0, cut - WORD_SEARCH), cut) for mark in " \n")
    cut = blank + 1 if blank >= 0 else cut
    return text[:cut], text[cut:]


def split_stratified(
    labels: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split examples so that each class has the same share in the test part.

    Args:
        labels: class of each example, [N].
        share: share of each class in the test part, rounded to at least one example.
        seed: seed of the permutation within each class.

    Returns:
        Training and test indices, each in ascending order.
    """
    check_share(share)
    test = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = max(1, round(share * len(members)))
        if count >= len(members):
            raise UsageError(
                f"data.test_share={share} leaves no training example of class {label} "
                f"({len(members)} in all); lower data.test_share"
            )
        test.append(np.random.default_rng([seed, int(label)]).permutation(members)[:count])
    chosen = np.sort(np.concatenate(test))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen

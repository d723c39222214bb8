"""How numbers and strengths are written, the same in figures, tables and answers."""

import math
import re
from collections.abc import Iterable, Sequence

from gradbench.stats.intervals import Interval

SYMBOLS = {"lambda": "λ"}


def number(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits and no exponent between 1e-4 and 1e6."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if 10**digits <= size < 1e6:
        whole = round(value, digits - 1 - math.floor(math.log10(size))) if digits < 3 else value
        return f"{whole:,.0f}".replace("-", "−")
    return f"{value + 0.0:.{digits}g}".replace("-", "−")  # −0 is 0


def value(given: object) -> str:
    """Write a value of a config: ``64`` also where a column of the table made it ``64.0``."""
    whole = isinstance(given, float) and given.is_integer() and abs(given) < 1e15
    return str(int(given)) if whole else str(given)  # type: ignore[call-overload]  # it is a float then


def interval(given: Interval) -> str:
    """Write ``2.21 [2.19, 2.24]``, with the decimals that the width deserves, four digits at most.

    What is all but zero is written ``−1e−17 [−2e−17, 3e−17]``, and so is what is past counting.
    """
    if math.isnan(given.estimate):
        return "–"
    if math.isnan(given.low):
        return f"{number(given.estimate)} (one seed, no interval)" if given.n == 1 else number(given.estimate)
    values = given.estimate, given.low, given.high
    largest = max(map(abs, values))
    if not 1e-4 <= largest < 1e15:
        estimate, low, high = (number(value, 2) for value in values)
        return f"{estimate} [{low}, {high}]"
    half = max((given.high - given.low) / 2, 1e-12 * largest)
    decimals = max(0, min(1 - math.floor(math.log10(half)), 3 - math.floor(math.log10(largest))))
    estimate, low, high = (f"{value:z.{decimals}f}".replace("-", "−") for value in values)  # z: no −0.00
    return f"{estimate} [{low}, {high}]"


def ratio(given: Interval) -> str:
    """Write ``0.95 [0.91, 0.99]×``; two digits each where the ends are a factor of two apart: ``0.17 [0.02, 14]×``."""
    if math.isnan(given.low) or not 0 < 2 * given.low < given.high:
        return f"{interval(given)}×"
    estimate, low, high = (number(value, 2) for value in given[:3])
    return f"{estimate} [{low}, {high}]×"


def strength(quantity: str, strengths: Iterable[float | None]) -> str:
    """Write ``0.25``, ``0.25 … 1`` or ``λ = 10``; an empty string where there is no strength."""
    known = sorted({value for value in strengths if value is not None})
    if not known:
        return ""
    text = number(known[0]) if len(known) == 1 else f"{number(known[0])} … {number(known[-1])}"
    return text if quantity in ("", "threshold") else f"{SYMBOLS.get(quantity, quantity)} = {text}"


def setting(treatment: str, quantity: str, strengths: Iterable[float | None]) -> str:
    """Write ``clip_norm at 0.25 … 1``, or the bare treatment where it has no strength."""
    at = strength(quantity, strengths)
    return f"{treatment} at {at}" if at else treatment


def shortened(words: str, length: int) -> str:
    """Cut a text that is longer than ``length`` characters, with an ellipsis to say so."""
    return words if len(words) <= length else f"{words[: max(length - 1, 1)]}…"


def listed(words: Sequence[str], joint: str = "and") -> str:
    """Write ``a, b and c``."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {joint} {words[-1]}"


def several(words: Sequence[str], noun: str, most: int = 3) -> str:
    """Write ``a, b and c``, or ``7 groups`` where a list would be too long to read."""
    return listed(words) if len(words) <= most else count(len(words), noun)


def capped(words: Sequence[str], most: int = 3) -> list[str]:
    """Return the first words, and ``4 more`` in place of those that a title has no room for."""
    left = len(words) - most
    return [*words[:most], *([f"{left} more"] if left > 0 else [])]


def natural(words: str) -> tuple[tuple[float, str], ...]:
    """Return what sorts words by the numbers in them: ``depth=2`` before ``depth=16``."""
    pieces = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", words)
    return tuple((float(piece), "") if place % 2 else (0.0, piece) for place, piece in enumerate(pieces))


def count(n: int, noun: str) -> str:
    """Write ``1 cell``, ``2 cells``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def duration(seconds: float) -> str:
    """Write ``41 s``, ``2 min 41 s`` or ``3 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

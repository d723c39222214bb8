"""Write numbers, intervals, strengths and lists as text, the same way in figures, tables and answers."""

import math
import re
from collections.abc import Iterable, Sequence

from gradbench.config.composite import JOINT
from gradbench.stats.intervals import Interval

SYMBOLS = {"lambda": "λ"}
ONE_SEED = " (one seed, no interval)"

Strength = float | tuple[float, ...] | None
"""The strength of a treatment, those of a composition, or none."""


def format_number(value: float, digits: int = 3) -> str:
    """Write a number with ``digits`` significant digits, and without exponent between 1e-4 and 1e6."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if 10**digits <= size < 1e6:
        whole = round(value, digits - 1 - math.floor(math.log10(size))) if digits < 3 else value
        return f"{whole:,.0f}".replace("-", "−")
    return f"{value + 0.0:.{digits}g}".replace("-", "−")  # −0 is 0


def format_value(given: object) -> str:
    """Write a config value: ``64`` also for ``64.0``, which a float column of the table makes of it."""
    whole = isinstance(given, float) and given.is_integer() and abs(given) < 1e15
    return str(int(given)) if whole else str(given)  # type: ignore[call-overload]  # it is a float then


def format_interval(given: Interval) -> str:
    """Write ``2.21 [2.19, 2.24]``, with decimals according to the width, four digits at most.

    Very small and very large numbers are written with exponents: ``−1e−17 [−2e−17, 3e−17]``. Numbers of one sign get
    two significant digits each where the ends are ten times apart: ``1.6 [0.061, 42]``.
    """
    if math.isnan(given.estimate):
        return "–"
    if math.isnan(given.low):
        return f"{format_number(given.estimate)}{ONE_SEED}" if given.n == 1 else format_number(given.estimate)
    values = given.estimate, given.low, given.high
    smallest, *_, largest = sorted(map(abs, values))
    one_sign = given.low > 0 or given.high < 0
    if not 1e-4 <= largest < 1e15 or (one_sign and 10 * smallest < largest):
        estimate, low, high = (format_number(value, 2) for value in values)
        return f"{estimate} [{low}, {high}]"
    half = max((given.high - given.low) / 2, 1e-12 * largest)
    decimals = max(0, min(1 - math.floor(math.log10(half)), 3 - math.floor(math.log10(largest))))
    estimate, low, high = (f"{value:z.{decimals}f}".replace("-", "−") for value in values)  # z: no −0.00
    return f"{estimate} [{low}, {high}]"


def format_ratio(given: Interval) -> str:
    """Write ``0.95 [0.91, 0.99]×``; two digits each if the ends differ by a factor of two: ``0.17 [0.02, 14]×``."""
    if math.isnan(given.low) or not 0 < 2 * given.low < given.high:
        return f"{format_interval(given)}×"
    estimate, low, high = (format_number(value, 2) for value in given[:3])
    return f"{estimate} [{low}, {high}]×"


def format_percent(share: float) -> str:
    """Write a share as ``3 %``, with one decimal below 1 %."""
    percent = 100 * share
    if 0 < abs(percent) < 0.95:
        return f"{percent:.1g} %".replace("-", "−")
    return f"{percent:.0f} %".replace("-", "−")


def format_change(given: Interval, *, relative: bool) -> str:
    """Write a change as ``21 % lower [16, 25]`` or ``0.031 higher [0.01, 0.05]``, above twofold as ``3.4 [2.9, 4.1]×``.

    In brackets, what is negative goes in the other direction.
    """
    if math.isnan(given.estimate):
        return "–"
    if relative and max(given.estimate, given.high) > 1:
        return format_ratio(given.mapped(lambda change: 1 + change))
    down, unit = given.estimate < 0, 100 if relative else 1
    shown = Interval(-given.estimate, -given.high, -given.low, given.n) if down else given
    number, *ends = format_interval(shown.mapped(lambda change: unit * change)).split(" ", 1)
    return " ".join([f"{number} %" if relative else number, "lower" if down else "higher", *ends])


def format_strength(quantity: str, strengths: Iterable[Strength]) -> str:
    """Write ``0.25``, ``0.25 … 1`` or ``λ = 10``; an empty string without a strength.

    Those of a composition are written part by part: ``gp λ = 1 … 10 + clip_norm 0.1``.
    """
    found = [value for value in strengths if value is not None]
    if several := [value for value in found if isinstance(value, tuple)]:
        keys = [key.partition(".") for key in quantity.split(JOINT)]
        columns = zip(*several, strict=True)
        return " + ".join(
            f"{part} {format_strength(key, own)}" for (part, _, key), own in zip(keys, columns, strict=True)
        )
    known = sorted({value for value in found if not isinstance(value, tuple)})
    if not known:
        return ""
    text = (
        format_number(known[0])
        if len(known) == 1
        else f"{format_number(known[0])} … {format_number(known[-1])}"
    )
    return text if quantity in ("", "threshold") else f"{SYMBOLS.get(quantity, quantity)} = {text}"


def format_setting(treatment: str, quantity: str, strengths: Iterable[Strength]) -> str:
    """Write ``clip_norm at 0.25 … 1``, or the treatment alone if it has no strength.

    A composition whose parts all have one is written as :func:`format_strength` does.
    """
    at = format_strength(quantity, strengths)
    if (
        at
        and JOINT in treatment
        and treatment == JOINT.join(key.partition(".")[0] for key in quantity.split(JOINT))
    ):
        return at
    return f"{treatment} at {at}" if at else treatment


def shorten(words: str, length: int) -> str:
    """Cut a text to at most ``length`` characters, ending in an ellipsis."""
    return words if len(words) <= length else f"{words[: max(length - 1, 1)]}…"


def shorten_middle(words: str, length: int) -> str:
    """Replace the middle of a text by an ellipsis, so that both ends stay, if it is longer than ``length``."""
    half = (length - 1) // 2
    return words if len(words) <= length else f"{words[:half]}…{words[-half:]}"


def join_words(words: Sequence[str], joint: str = "and") -> str:
    """Write ``a, b and c``."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {joint} {words[-1]}"


def join_or_count(words: Sequence[str], noun: str, most: int = 3) -> str:
    """Write ``a, b and c``, or ``7 groups`` if there are more than ``most``."""
    return join_words(words) if len(words) <= most else pluralize(len(words), noun)


def cap_list(words: Sequence[str], most: int = 3) -> list[str]:
    """Keep the first ``most`` words and replace the others by ``4 more``."""
    left = len(words) - most
    return [*words[:most], *([f"{left} more"] if left > 0 else [])]


def natural_key(words: str) -> tuple[tuple[float, str], ...]:
    """Compute a sort key that orders texts by the numbers in them: ``depth=2`` before ``depth=16``."""
    pieces = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", words)
    return tuple((float(piece), "") if place % 2 else (0.0, piece) for place, piece in enumerate(pieces))


def pluralize(n: int, noun: str) -> str:
    """Write ``1 cell``, ``2 cells``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def format_duration(seconds: float) -> str:
    """Write ``41 s``, ``2 min 41 s`` or ``3 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

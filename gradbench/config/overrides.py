"""Parse Hydra's override grammar into axes of plain values, and write values in it."""

import itertools
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString, RangeSweep, ValueType
from hydra.errors import HydraException

from gradbench.errors import UsageError, check_length, excerpt, nearest

MAX_VALUES = 100_000
"""Limit of the values of an axis, and of the cells of a grid; more are taken for a mistake."""


REFERENCE = re.compile(r"\$\{([\w.]+)\}")
"""An interpolation that consists of one key alone."""


def is_reference(value: object) -> bool:
    """Return whether a value is the value of another key, such as ``${optimizer.lr}``."""
    return isinstance(value, str) and REFERENCE.fullmatch(value) is not None


@dataclass(frozen=True)
class Axis:
    """A key and the values it takes.

    Args:
        key: dotted key of a leaf or of a node (whose values are dicts, merged as Hydra merges them), or a group.
        values: plain values, in order.
        added: whether the key need not exist (``+key=`` or ``++key=``).
        may_name_code: whether it was typed, or comes from a file of the user's config folder.
    """

    key: str
    values: tuple[Any, ...]
    added: bool = False
    may_name_code: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a value of absurd length, which would be a label of every table, and interpolations of other kinds."""
        for value in self.values:
            if isinstance(value, str | list | dict):
                check_length(str(value), f"the value of {self.key},")
                if "${" in str(value) and not is_reference(value):
                    raise UsageError(
                        f"{self.key}={literal(value)}: a value may be that of another key, as in "
                        "'regularizer.threshold=${optimizer.lr}', and nothing else can be looked up"
                    )


@dataclass(frozen=True)
class Overrides:
    """Parsed overrides: axes, and words that are passed to Hydra verbatim (``~key``, ``group@package=``)."""

    axes: tuple[Axis, ...] = ()
    verbatim: tuple[str, ...] = ()


def parse_override(word: str) -> Override:
    """Parse one override in Hydra's grammar.

    Raises:
        UsageError: with a one-line message.
    """
    check_length(word.partition("=")[0], "the key")
    try:
        if not word.lstrip("+~").partition("=")[0]:  # Hydra would apply it to the whole config
            raise HydraException("it has no key")
        override = OverridesParser.create().parse_override(word)
    except (HydraException, ValueError, RecursionError) as error:  # int() refuses thousands of digits
        raise UsageError(f"cannot read '{excerpt(word)}': {explain_grammar(word, error)}") from error
    if re.split(r"[./]", override.key_or_group)[0] == "hydra":
        raise UsageError(
            f"{excerpt(word)}: gradbench itself sets what Hydra does; workers are --jobs N, the results folder is "
            "--results FOLDER, and a list like regularizer=none,clip_norm is swept as it is"
        )
    return override


CALLS = {
    "range": "range(STOP), range(START,STOP) or range(START,STOP,STEP), of numbers",
    "choice": "choice(1,2)",
    "sort": "sort(3,1,2), of values of one kind",
    "shuffle": "shuffle(1,2) or shuffle(range(5))",
    "glob": "glob(clip_*)",
    "int": "int(1.0), of numbers",
    "float": "float(1), of numbers",
    "str": "str(1)",
    "bool": "bool(1)",
}
"""Function of the grammar -> how it is called; ``interval`` and ``tag`` are of no use here."""


def explain_grammar(word: str, error: Exception) -> str:
    """Return what is wrong with a word that Hydra's grammar does not take, and what to type."""
    key, _, value = word.partition("=")
    is_quoted = re.search(r"[\"'\\]", value)
    for opening, closing in ("()", "[]", "{}"):
        if not is_quoted and value.count(opening) > value.count(closing):
            return f"a {opening} is not closed; add {closing}"
    if not is_quoted and re.search(r"^\s*,|,\s*,|,\s*$", value):
        listed = ",".join(filter(None, map(str.strip, value.split(","))))
        return f"there is a comma without a value; write {excerpt(f'{key}={listed}')}"
    name = next(iter(re.findall(r"(?:Unknown function '|while evaluating ')(\w+)", str(error))), None)
    if name in CALLS:
        return f"{name} is not called like this; write {key}={CALLS[name]}"
    if name and "Unknown function" in str(error):
        return f"there is no function {name}{nearest(name, CALLS) or f'; {quoting(word)}'}"
    # the names of the grammar's symbols that it expects say nothing to anybody
    reason = re.sub(r" expecting \{.*\}", "", excerpt(one_line(error)))
    return f"{reason}; {quoting(word)}"


def quoting(word: str) -> str:
    """Return how a word that Hydra's grammar does not take can be typed: quoted, if its value needs that."""
    key, _, value = word.partition("=")
    if not re.fullmatch(r"\+{0,2}[\w.@/]+", key) or not re.search(r"[^\w.,:/+*%?|@-]|[^\0-\x7f]", value):
        return "overrides look like key=value, key=a,b or key=range(5)"
    bare = value.strip("\"'")
    plain = not re.search(r"[\"'\\]", bare)
    quoted = f"'{key}=\"{bare}\"'" if plain else shlex.quote(f"{key}={literal(value)}")
    return f"quote a value with such letters: {excerpt(quoted)}"


def to_axis(override: Override, options: list[str] | None) -> Axis:
    """Convert an override to an axis.

    Args:
        override: parsed.
        options: options of the group, if the key is one; a ``glob()`` selects from them.

    Raises:
        UsageError: if it has no values, too many, or an interval of them.
    """
    values: Any
    if not override.is_sweep_override():
        values = [override.value()]
    elif override.value_type == ValueType.INTERVAL_SWEEP:
        raise UsageError(f"{override.input_line}: an interval has no points to train; use range() or a list")
    elif override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        glob = override.value()
        assert isinstance(glob, Glob)
        values = glob.filter(options or [])
        if not values:
            has = (
                f"is one of: {', '.join(options)}"
                if options
                else "is no group, and glob() chooses among options"
            )
            raise UsageError(f"{override.input_line} matches nothing; {override.key_or_group} {has}")
    else:
        try:
            swept = override.value()
            points = range_points(swept) if isinstance(swept, RangeSweep) else override.sweep_iterator()
            values = [unquote(value) for value in itertools.islice(points, MAX_VALUES + 1)]
        except (HydraException, ValueError, ArithmeticError) as error:
            raise UsageError(
                f"cannot read '{excerpt(str(override.input_line))}': {excerpt(one_line(error))}"
            ) from error
    if not 0 < len(values) <= MAX_VALUES:
        count = f"more than {MAX_VALUES:,}" if values else "no"
        raise UsageError(f"{override.input_line} has {count} values; give a list like 1,2 or range(5)")
    if options is not None:
        values = map(str, values)
    return Axis(override.key_or_group, tuple(values), override.is_add() or override.is_force_add())


def range_points(swept: RangeSweep) -> Iterator[int | float]:
    """Yield the points of a range, its end excluded: with decimals they are the numbers that a person would write.

    Raises:
        UsageError: if points are equal once they are rounded.
    """
    start, stop, step = swept.start or 0, swept.stop, swept.step
    assert stop is not None
    if all(isinstance(number, int) for number in (start, stop, step)):
        yield from range(int(start), int(stop), int(step))
        return
    at, end, by = (Decimal(repr(number)) for number in (start, stop, step))
    if not by:
        raise ValueError("its step must not be zero")
    last = None
    while (at < end) if by > 0 else (at > end):
        if float(at) == last:
            raise UsageError(
                f"range({start},{stop},{step}) has steps too small for its numbers; give a larger step"
            )
        last = float(at)
        yield last
        at += by


def unquote(value: Any) -> Any:
    """Return a parsed value without Hydra's quotes."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [unquote(item) for item in value]
    if isinstance(value, dict):
        return {unquote(key): unquote(item) for key, item in value.items()}
    return value


def literal(value: Any) -> str:
    """Return a value as text in Hydra's grammar, quoted where necessary."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(map(literal, value)) + "]"
    if isinstance(value, Mapping):
        # In Hydra's grammar keys cannot be quoted, only escaped.
        escaped = {re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", str(key)): item for key, item in value.items()}
        return "{" + ",".join(f"{key}:{literal(item)}" for key, item in escaped.items()) + "}"
    if isinstance(value, str):
        # Inside quotes only the quote and the backslashes before it need escaping.
        return "'" + re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value) + "'"
    return repr(value)


def one_line(error: BaseException) -> str:
    """Return the first lines of an error's message as one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        return " ".join(f"{error.problem} {error.problem_mark or ''}".split())
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not set(line) <= {"^", "~"}][:2]
    if len(telling) == 2 and telling[1].endswith(":"):  # what it announces is left out
        telling.pop()
    return "; ".join(telling).replace(":; ", ": ").rstrip(".") or type(error).__name__

"""Neutral values: a YAML file may declare, beside its keys, the value at which a key changes nothing.

    momentum: 0.0
    neutral: {momentum: 0.0}

A cell with a key at its neutral value computes the same as without the key, and has the same id. So adding a key
later does not rename earlier cells.
"""

from typing import Any

from gradbench.config.overrides import literal
from gradbench.errors import UsageError

NEUTRAL = "neutral"
"""The key under which a mapping declares the neutral values of the keys beside it."""


def pop_neutral(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Remove the declarations of neutral values from a composed config, at every level, and return them.

    Args:
        config: nested; modified in place.
        prefix: prefix of its keys, with the trailing dot.

    Returns:
        Dotted key -> its neutral value.

    Raises:
        UsageError: if a declaration is no mapping from keys to constants.
    """
    declared = config.pop(NEUTRAL, {})
    if not isinstance(declared, dict) or not all(map(is_constant, declared.values())):
        raise UsageError(
            f"{prefix}{NEUTRAL} must map keys to the values at which they change nothing, "
            f"got {literal(declared)}; write it like 'neutral: {{momentum: 0.0}}', beside these keys"
        )
    found = {f"{prefix}{key}": value for key, value in declared.items()}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= pop_neutral(value, f"{prefix}{key}.")
    return found


def is_constant(value: Any) -> bool:
    """Return whether a value is neither a mapping nor an interpolation."""
    return not isinstance(value, dict) and not (isinstance(value, str) and "${" in value)


def is_same(one: Any, other: Any) -> bool:
    """Return whether two values are the same setting: 1 and 1.0 are, false and 0 are not."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)

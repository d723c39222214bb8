"""Neutral values: a YAML file says beside its keys at which value each of them changes nothing.

    momentum: 0.0
    neutral: {momentum: 0.0}

A cell whose key stands at its neutral value computes what it would compute without the key, and has the same id: a
key that is added later renames no cell of before.
"""

from typing import Any

from gradbench.config.overrides import literal
from gradbench.errors import UsageError

NEUTRAL = "neutral"
"""The key under which a mapping declares the neutral values of the keys beside it."""


def pop_neutral(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Remove what a composed config declares neutral, at every level, and return it.

    Args:
        config: nested; changes.
        prefix: of its keys, with the dot.

    Returns:
        Dotted key -> its neutral value.

    Raises:
        UsageError: where a declaration is no mapping from keys to plain values.
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
    """Return whether a value stands for itself: it is no mapping, and refers to no other key."""
    return not isinstance(value, dict) and not (isinstance(value, str) and "${" in value)


def is_same(one: Any, other: Any) -> bool:
    """Return whether two values are one setting: 1 and 1.0 are, false and 0 are not."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)

"""Turn what is given in Python into the words of a command line: values, networks, arrays and tables."""

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradbench import local_code
from gradbench.config.composite import names_code
from gradbench.config.overrides import literal
from gradbench.data import Data
from gradbench.data.stored import store
from gradbench.errors import UsageError
from gradbench.sweep.plan import RESULTS

BARE = re.compile(r"(?!(?:true|false|null|nan|inf)$)[A-Za-z_][\w./+-]*", re.IGNORECASE)
"""Matches a text that needs no quotes in Hydra's grammar."""


@dataclass
class Words:
    """The words that keywords stand for.

    Attributes:
        words: overrides.
        local: dotted names of the code that no other process can import.
        notes: lines for the user on what was made of the keywords.
    """

    words: list[str] = field(default_factory=list)
    local: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    code: dict[str, Any] = field(default_factory=dict)

    def add(self, key: str, value: Any) -> None:
        """Add the overrides of a key: one, or those of the keys of a mapping."""
        if isinstance(value, Mapping):
            for name, inner in value.items():
                self.add(f"{key}.{name}", inner)
            return
        values = listed(value)
        if not values:
            raise UsageError(f"{key} has no values; give one, or several in a list")
        self.words.append(f"{key}={','.join(self.text(key, one) for one in values)}")

    def text(self, key: str, value: Any) -> str:
        """Return a value as text in Hydra's grammar.

        Raises:
            UsageError: if the key cannot have it.
        """
        if isinstance(value, np.generic):
            value = value.item()
        if names_code(key) and not isinstance(value, str):
            return self.name(key, value)
        if isinstance(value, str | Path):
            return str(value) if BARE.fullmatch(str(value)) else literal(str(value))
        if isinstance(value, tuple | np.ndarray):
            value = list(value)
        if value is not None and not isinstance(value, bool | int | float | list):
            raise UsageError(
                f"{key} takes names and numbers, got {described(value)}; networks are given as model=, arrays and "
                "tables as data="
            )
        return literal(value)

    def name(self, key: str, code: Any) -> str:
        """Return the dotted name of a class or function; code of this process alone is registered.

        Raises:
            UsageError: if it is neither, or another one has its name.
        """
        try:
            name = local_code.dotted_name(code)
            if self.code.setdefault(name, code) is not code:
                raise UsageError(f"there are two different {name}; rename one of them")
            if local_code.is_local(code):
                self.local.append(local_code.register(code))
        except UsageError as error:
            raise UsageError(f"{key}: {error}") from error
        return name


def to_words(keys: Mapping[str, Any]) -> Words:
    """Turn keywords into words.

    Args:
        keys: key of the config, with dots or ``__`` between its parts -> value; a list, range or array is swept.
            ``model`` may be a network's class, or a function that builds one, or a list of them; ``data`` may be
            arrays, a DataFrame or a :class:`Data`, which are kept in a file.

    Raises:
        UsageError: for a value that a key cannot have.
    """
    given = {key.replace("__", "."): value for key, value in keys.items()}
    found = Words()
    data, model = given.get("data"), given.get("model")
    if "data" in given and not all(isinstance(one, str) for one in listed(data)):
        del given["data"]
        given = store(data, RESULTS / "data") | given
    networks = [one for one in listed(model) if not isinstance(one, str | Mapping)]
    if "model" in given and networks:
        if len(networks) < len(listed(model)) or "model.network" in given:
            raise UsageError(
                "model is given as a name and as a network; give model='classifier' and model__network="
            )
        kind = "regressor" if has_numbers_to_predict(data, given.get("data.target")) else "classifier"
        found.notes.append(f"model={kind} model.network={', '.join(map(described, networks))}")
        given |= {"model": kind, "model.network": networks}
    for key, value in given.items():
        found.add(key, value)
    if found.local:
        found.notes.append(
            f"{', '.join(dict.fromkeys(found.local))} is in no module, so it trains in this process, one stack after "
            "another; imported from a file it would train in several"
        )
    return found


def listed(value: Any) -> list[Any]:
    """Return the values of a key: those of a list, tuple, range or array with one axis, or the one that is given."""
    is_axis = isinstance(value, list | tuple | range | pd.Index) or (
        isinstance(value, pd.Series | np.ndarray) and value.ndim == 1
    )
    return list(value) if is_axis else [value]


def has_numbers_to_predict(data: Any, column: Any) -> bool:
    """Return whether the targets of data are fractional numbers, and no classes."""
    if isinstance(data, Data):
        targets = data.arrays.get("train/y")
    elif isinstance(data, pd.DataFrame):
        targets = data.get(column)
    elif isinstance(data, Mapping):
        targets = data.get("y")
    else:
        targets = data[1] if isinstance(data, tuple) and len(data) > 1 else None
    kind = str(getattr(targets, "dtype", "") if not isinstance(targets, list) else np.asarray(targets).dtype)
    return "float" in kind


def described(value: Any) -> str:
    """Return what a value is, in a word."""
    named = inspect.isclass(value) or inspect.isfunction(value)
    return str(value.__qualname__) if named else f"a {type(value).__name__}"


def check_words(words: Iterable[object]) -> None:
    """Raise ``UsageError`` for a word that is no text."""
    for word in words:
        if not isinstance(word, str):
            raise UsageError(
                f"words are texts like 'seed=0,1', got {described(word)}; keys are given as seed=[0, 1]"
            )

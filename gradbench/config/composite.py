"""Composite keys: words that stand for a node of the config, made plain in this one place.

    model.network=my_pkg.Net         ->  model.network._target_: my_pkg.Net
    model.network.KEY=value          ->  model.network.KEY: value, an argument of it
    model.networks.NAME=my_pkg.Net   ->  the same for each network of a model that has several, also with .KEY
    model.metrics.NAME=my_pkg.f      ->  model.metrics.NAME._target_: my_pkg.f
    model.loss=my_pkg.f              ->  model.loss._target_: my_pkg.f, also with .KEY; a plain word stays one
    data.loader=my_pkg.load          ->  data.loader._target_: my_pkg.load, and arguments as of a network

Words, axes, commands and tables have the form on the left, resolved configs the one on the right.
"""

import re
from collections.abc import Mapping
from keyword import iskeyword
from typing import Any

from gradbench.config.overrides import Axis, literal
from gradbench.errors import UsageError

TARGET = "_target_"
"""The key that names the code of a node."""

GIVEN_LATER = "???"
"""The value of a key that must be given."""

NAME = r"[^\W\d]\w*"
RESERVED = re.compile(r"(?:model\.(network|networks|metrics|loss)|data\.(loader))(?:\.|$)")
COMPOSITE = re.compile(rf"(model\.(?:network|loss|(?:networks|metrics)\.{NAME})|data\.loader)((?:\.{NAME})*)")
"""Matches a composite key: the node that names code, and what follows of an argument's key."""

WORD_OR_CODE = "model.loss"
"""The composite key that also takes plain words, such as ``squared``."""

EXAMPLES = {"metrics": "my_pkg.f", "loss": "my_pkg.f", "loader": "my_pkg.load"}
"""Part of a composite key -> a name like those that it takes; the others take one like ``my_pkg.Net``."""


def node_of(key: str) -> str | None:
    """Return the node that a composite key names or is an argument of, such as ``model.network``; else ``None``."""
    found = COMPOSITE.fullmatch(key)
    return found[1] if found else None


def names_code(key: str) -> bool:
    """Return whether a key takes the dotted name of code."""
    return node_of(key) == key


def is_code(key: str, value: object) -> bool:
    """Return whether the value of a key is the dotted name of code."""
    return names_code(key) and (key != WORD_OR_CODE or is_dotted_name(value))


def required_node(key: str) -> str | None:
    """Return the node that a model must have to take a composite key: any metric can be added, a network cannot."""
    node = node_of(key)
    return "model.metrics" if node and node.startswith("model.metrics.") else node


def plain(key: str, value: object) -> str:
    """Return the key of the config that a typed key sets to a value."""
    return f"{key}.{TARGET}" if is_code(key, value) else key


def typed(key: str) -> str:
    """Return the key as it is typed; the inverse of :func:`plain`."""
    node = key.removesuffix(f".{TARGET}")
    return node if names_code(node) else key


def to_word(key: str, value: Any) -> str:
    """Return an override that gives a typed key a value; names of code stand without quotes, which are for shells."""
    return f"{key}={value}" if is_code(key, value) and str(value).isascii() else f"{key}={literal(value)}"


def is_dotted_name(value: object) -> bool:
    """Return whether a value is a dotted name of Python, such as ``my_pkg.Net``."""
    parts = value.split(".") if isinstance(value, str) else []
    return len(parts) > 1 and all(part.isidentifier() and not iskeyword(part) for part in parts)


def check(axis: Axis) -> None:
    """Raise ``UsageError`` for an axis that looks like a composite key and is none, or whose value names no code."""
    reserved = RESERVED.match(axis.key)
    if not reserved:
        return
    what, node, values = reserved[1] or reserved[2], node_of(axis.key), ",".join(map(literal, axis.values))
    example = EXAMPLES.get(what, "my_pkg.Net")
    if node is None:
        single = {"network": "model.network", "loss": "model.loss", "loader": "data.loader"}
        named = single.get(what, f"model.{what}.NAME")
        raise UsageError(
            f"{axis.key}={values}: expected {named}={example}; a name is made of letters, digits and _"
        )
    if typed(axis.key) != axis.key:
        given = ",".join(map(str, axis.values)) if all(map(is_dotted_name, axis.values)) else example
        raise UsageError(f"{axis.key} is not typed; write {node}={given}")
    if what == "metrics" and node != axis.key:
        raise UsageError(
            f"{axis.key}: a metric takes no keys; write {node}={example}, a function that needs none"
        )
    for value in axis.values if node == axis.key != WORD_OR_CODE else ():
        if not is_dotted_name(value):
            raise UsageError(f"{axis.key} must be a dotted name like {example}, got {literal(value)}")


# ---- configs ---------------------------------------------------------------------------------------------------


def expand_short_forms(config: dict[str, Any]) -> None:
    """Write the nodes of a composed config in full, in place: ``network: my_pkg.Net`` is ``{_target_: my_pkg.Net}``.

    Raises:
        UsageError: for a node that is neither a name, a mapping nor null.
    """
    data = config.get("data")
    if isinstance(data, dict) and "loader" in data:
        data["loader"] = full_form("data.loader", data["loader"])
    model = config.get("model")
    if not isinstance(model, dict):
        return
    if "network" in model:
        model["network"] = full_form("model.network", model["network"])
    if is_dotted_name(model.get("loss")):
        model["loss"] = full_form(WORD_OR_CODE, model["loss"])
    for group in {"networks", "metrics"} & model.keys():
        named = model[group]
        if named is not None and not isinstance(named, dict):
            raise UsageError(
                f"model.{group} must map names to dotted names, got {literal(named)} in its YAML file"
            )
        model[group] = {
            key: full_form(f"model.{group}.{key}", node) for key, node in (named or {}).items()
        } or None


def full_form(key: str, node: Any) -> Any:
    """Return a node with its ``_target_``, which must be given later if it is missing; null stays."""
    if node is None:
        return None
    if isinstance(node, str):
        return {TARGET: node}
    if isinstance(node, dict):
        return {TARGET: GIVEN_LATER, **node}
    example = EXAMPLES.get(key.rpartition(".")[2], "my_pkg.Net")
    raise UsageError(f"{key} must be a dotted name like {example}, got {literal(node)} in its YAML file")


def say_missing(key: str, config: Mapping[str, Any]) -> str:
    """Return the line that says that a mandatory key was not given, and what to type."""
    word = typed(key)
    if not names_code(word):
        return f"{key} must be given: add {key}=…"
    group, what, *name = word.split(".")
    noun = f"a {what}" if not name else f"the {what.removesuffix('s')} {name[0]}"
    example = EXAMPLES.get(what, "my_pkg.Net")
    return f"{group}={config[group].get('name')} needs {noun}: add {word}={example}"


def networks_of(config: Mapping[str, Any]) -> list[str]:
    """Return the dotted names of the networks that a resolved config names."""
    model = config["model"]
    nodes = [model.get("network"), *(model.get("networks") or {}).values()]
    return [str(node[TARGET]) for node in nodes if node]

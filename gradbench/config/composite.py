"""Composite keys and options: words that stand for a node of the config, made plain in this one place.

    model.network=my_pkg.Net         ->  model.network._target_: my_pkg.Net
    model.network.KEY=value          ->  model.network.KEY: value, an argument of it
    model.networks.NAME=my_pkg.Net   ->  the same for each network of a model that has several, also with .KEY
    model.metrics.NAME=my_pkg.f      ->  model.metrics.NAME._target_: my_pkg.f
    model.loss=my_pkg.f              ->  model.loss._target_: my_pkg.f, also with .KEY; a plain word stays one
    data.loader=my_pkg.load          ->  data.loader._target_: my_pkg.load, and arguments as of a network
    regularizer=gp+clip_norm         ->  regularizer.gp: {lambda: 10, …}, regularizer.clip_norm: {threshold: 1, …}

Words, axes, commands and tables have the form on the left, resolved configs the one on the right.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from keyword import iskeyword
from typing import Any

from gradbench.config.overrides import Axis, literal
from gradbench.errors import UsageError, nearest

TARGET = "_target_"
"""The key that names the code of a node."""

GIVEN_LATER = "???"
"""The value of a key that must be given."""

NAME = r"[^\W\d]\w*"
PLAIN = re.compile(r"[A-Za-z_]\w*(/\w+)*", re.ASCII)
NO_TEXT = ("null", "true", "false", "inf", "nan")
"""Words that Hydra's grammar takes as other values than texts."""
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
    """Return an override that gives a typed key a value; names, such as those of code, stand without quotes."""
    is_name = isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in NO_TEXT
    is_plain = is_name or (is_code(key, value) and str(value).isascii())
    return f"{key}={value}" if is_plain else f"{key}={literal(value)}"


def is_dotted_name(value: object) -> bool:
    """Return whether a value is a dotted name of Python, such as ``my_pkg.Net``."""
    parts = value.split(".") if isinstance(value, str) else []
    return len(parts) > 1 and all(part.isidentifier() and not iskeyword(part) for part in parts)


def check(axis: Axis, models: Collection[str]) -> None:
    """Raise ``UsageError`` for an axis that looks like a composite key and is none, or whose value names no code.

    Args:
        axis: a typed key with its values.
        models: names of all models, of which a network has none.
    """
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
            hint = f"; that is a model: type model={value} instead" if value in models else ""
            raise UsageError(f"{axis.key} must be a dotted name like {example}, got {literal(value)}{hint}")


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


def drop_players(config: Mapping[str, Any]) -> None:
    """Remove, in place, the key that says which networks a regularizer acts on, from the one that acts on none."""
    node = config.get(REGULARIZER)
    if isinstance(node, dict) and node.get(TARGET) == NONE:
        node.pop(PLAYERS, None)


# ---- compositions of regularizers ------------------------------------------------------------------------------

REGULARIZER, JOINT = "regularizer", "+"
"""The group whose options compose, and what joins their names."""

CHAIN = "gradbench.regularizers.chain.chain"
"""The target of a composition's node, below which each part has its own."""

NONE = "gradbench.regularizers.none.none"
"""The target of the regularizer that does nothing."""

FAMILIES = ("penalty", "clipping", "projection")
"""Families in the order in which they act."""

PLAYERS = "players"
"""The key that says which networks a regularizer acts on."""

NEUTRAL = "neutral"

RESERVED_PARTS = ("none", "name", "family", "strength", TARGET, PLAYERS, NEUTRAL)
"""Names that no part has: ``none`` does nothing, the others are keys of the composition."""


def is_composition(node: object) -> bool:
    """Return whether a node of the group ``regularizer`` composes several."""
    return isinstance(node, Mapping) and node.get(TARGET) == CHAIN


def regularizers_of(node: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the regularizers of a node by the prefix of their keys: ``gp.`` and so on; a single one has none."""
    if not is_composition(node):
        return {"": node}
    return {f"{part}.": node[part] for part in str(node["name"]).split(JOINT)}


def strength_keys(node: Mapping[str, Any]) -> list[str]:
    """Return the keys of the strengths in a node of the group ``regularizer``; those without one are left out."""
    return [f"{at}{one['strength']}" for at, one in regularizers_of(node).items() if one["strength"]]


def check_parts(option: str, options: Collection[str]) -> None:
    """Raise ``UsageError`` for a composition that has no part twice or more, or one that is no option to compose."""
    word, parts = f"{REGULARIZER}={option}", option.split(JOINT)
    for part in parts:
        others = JOINT.join(one for one in dict.fromkeys(parts) if one in options and one != "none")
        instead = f"write {REGULARIZER}={others}" if others else "write it like gp+clip_norm"
        if not part:
            raise UsageError(f"{word} has a part without a name; {instead}")
        if part == "none":
            raise UsageError(f"{word}: none leaves all alone, and composes with nothing; {instead}")
        if part not in options:
            raise UsageError(
                f"{word}: there is no {REGULARIZER}={part}{nearest(part, options)} "
                f"({REGULARIZER} is one of: {', '.join(options)})"
            )
        if parts.count(part) > 1:
            raise UsageError(f"{word} has {part} more than once; {instead}")
        if part in RESERVED_PARTS or not re.fullmatch(NAME, part):
            raise UsageError(
                f"{word}: {part} cannot be part of a composition; rename {part}.yaml with letters, digits and _"
            )


def to_packages(word: str, options: Collection[str]) -> tuple[list[str], list[str]]:
    """Return words for Hydra, which composes each part into a node of its own, and the names of the parts.

    Any word but that of a composition is returned as it is, with no parts.
    """
    key, _, option = word.partition("=")
    if key.lstrip("+") != REGULARIZER or JOINT not in option or option in options:
        return [word], []
    parts = option.split(JOINT)
    return [f"{key}=none", *(f"+{REGULARIZER}@{REGULARIZER}.{part}={part}" for part in parts)], parts


def check_kept(parts: Sequence[str], words: Collection[str]) -> None:
    """Raise ``UsageError`` for a word that deletes a part of a composition, or what a part must have."""
    needed = {
        f"{REGULARIZER}.{part}{key}": part
        for part in parts
        for key in ("", ".name", ".family", ".strength", f".{TARGET}")
    }
    for word in words:
        part = needed.get(word.lstrip("~").partition("=")[0]) if word.startswith("~") else None
        if part:
            others = JOINT.join(one for one in parts if one != part)
            raise UsageError(
                f"{word} takes away what {part} must have; to leave {part} out, write {REGULARIZER}={others}"
            )


def compose_parts(node: Any, parts: Sequence[str]) -> dict[str, Any]:
    """Return the node of a composition, its parts in the order in which they act.

    Penalties are added to the loss, so that their order does not count: they are sorted by name. Clippings and then
    projections follow as they were typed.

    Raises:
        UsageError: for a part whose file says no name, family or strength.
    """
    for part in parts:
        own = node.get(part) if isinstance(node, dict) else None
        for key in ("name", "family", "strength"):
            if not isinstance(own, dict) or key not in own:
                raise UsageError(
                    f"{REGULARIZER}={part} has no key {REGULARIZER}.{key}; add it to its YAML file"
                )

    def place(part: str) -> tuple[int, str]:
        family = str(node[part]["family"])
        index = FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)
        return index, part if family == "penalty" else ""

    ordered = sorted(parts, key=place)
    name, first = JOINT.join(ordered), node[ordered[0]]
    for part in parts:  # what conf/config.yaml gives a single one
        node[part] = {PLAYERS: node.get(PLAYERS), NEUTRAL: {}} | node[part]
        if isinstance(node[part][NEUTRAL], dict):  # else it is refused by name
            node[part][NEUTRAL] = {PLAYERS: None} | node[part][NEUTRAL]
    composed = {"name": name, "family": first["family"], TARGET: CHAIN}
    composed |= {part: node[part] for part in ordered}
    composed |= {key: node[key] for key in node if key not in (*parts, *RESERVED_PARTS)}  # refused by name
    return composed | {"strength": JOINT.join(strength_keys(composed)) or None}


def axes_of(axes: Sequence[Axis], option: str, keys: Collection[str]) -> list[tuple[str, Axis]]:
    """Return each axis of a grid as the cells of one option take it, with its key as it was typed.

    A lone ``gp`` takes ``regularizer.gp.lambda`` as its lambda, before a ``regularizer.lambda`` for all.

    Args:
        axes: of the grid, groups aside.
        option: of the group ``regularizer``.
        keys: dotted keys of these cells.

    Raises:
        UsageError: for a key such as ``regularizer.lambda`` that leaves open which part of a composition it sets.
    """
    if JOINT in option:
        check_addressed(axes, option, keys)
        return [(axis.key, axis) for axis in axes]
    start = f"{REGULARIZER}.{option}."
    as_part = {axis.key for axis in axes if axis.key.startswith(start) and axis.key not in keys}
    found = [
        (
            axis.key,
            replace(axis, key=f"{REGULARIZER}.{axis.key[len(start) :]}") if axis.key in as_part else axis,
        )
        for axis in axes
    ]
    set_as_part = {axis.key for typed_key, axis in found if typed_key in as_part}
    return [(key, axis) for key, axis in found if key in as_part or key not in set_as_part]


def check_addressed(axes: Sequence[Axis], option: str, keys: Collection[str]) -> None:
    """Raise ``UsageError`` for a key of a part that does not name the part, unless another word sets the part's."""
    typed_keys = {axis.key for axis in axes}
    for axis in axes:
        group, _, name = axis.key.partition(".")
        if group != REGULARIZER or axis.key in keys:
            continue
        meant = {f"{REGULARIZER}.{part}.{name}" for part in option.split(JOINT)} & set(keys)
        if meant and not meant & typed_keys:
            values = ",".join(one if re.fullmatch(NAME, str(one)) else literal(one) for one in axis.values)
            raise UsageError(
                f"{axis.key}={values} does not say which part of {REGULARIZER}={option} it sets; write "
                f"{' or '.join(f'{one}={values}' for one in sorted(meant))}"
            )


def say_set_by_part(key: str, keys: Collection[str]) -> str | None:
    """Return the line on a key that no cell takes since a key with the name of a part is taken before it, if one is."""
    group, _, name = key.partition(".")
    others = [one for one in keys if one != key and re.fullmatch(rf"{group}\.{NAME}\.{re.escape(name)}", one)]
    if group != REGULARIZER or not others:
        return None
    return f"{others[0]} sets all that {key} could; leave out one of them"

"""The identity of a cell: the part of its resolved config that determines what it computes. Ids are its hash."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from gradbench.config.compose import GROUPS, Config, shipped_folder
from gradbench.config.composite import CHAIN, TARGET, regularizers_of
from gradbench.config.neutral import is_same, pop_neutral
from gradbench.config.sources import OWN, file_sha256, source_sha256
from gradbench.errors import UsageError

LABELS = frozenset(
    (
        "model.metric",
        "model.goal",
        "model.unit",
        "model.scale",
        "model.margin",
        "model.gradient_center",
        "model.targets",
        "regularizer.family",
    )
)
"""Keys that only describe a cell to reports and other keys; they do not affect what it computes."""

LOCATIONS = frozenset(("path", "root", "download", "url"))
"""Keys of the data group that locate the data; its content is identified by its fingerprint."""

GETTERS = "hydra.utils.get_"
"""How the targets begin that return the function, method, class or object of a dotted name."""

VERSION, SOURCE = "version", "_source_sha256"

WEIGHTS = "model.weights"
"""The key that names a file of initial weights; its content is in the id, and not its path."""


def identity(config: Mapping[str, Any], neutral: Mapping[str, Any], sources: Mapping[str, str]) -> Config:
    """Return the part of a resolved config that determines what a cell computes.

    Left out are labels, the location and loader of the data (its fingerprint identifies it), keys at their neutral
    values, and gradbench's own ``_target_`` of an option that it ships.

    Args:
        config: nested, resolved, without the runtime keys.
        neutral: dotted key -> its neutral value.
        sources: node -> hash of the source of its target, and ``model.weights`` -> hash of the file, from
            :func:`hash_sources`.

    Returns:
        A new nested dict (sharing the config's lists), with a key ``_source_sha256`` in each node of ``sources``, and
        the hash of a file in place of its path.
    """
    parts = regularizers_of(config.get("regularizer", {}))
    places = {f"regularizer.{at}".rstrip("."): "regularizer" for at in parts}
    labels = LABELS.union(f"{place}.family" for place in places)

    def kept(node: Mapping[str, Any], place: str) -> Config:
        result: Config = {SOURCE: sources[place]} if place in sources else {}
        for key, value in node.items():
            dotted = f"{place}.{key}" if place else key
            if dotted in labels or (dotted in neutral and is_same(value, neutral[dotted])):
                continue
            if is_data_location(place, key) or (
                key == TARGET and is_shipped_target(places.get(place, place), node)
            ):
                continue
            if not isinstance(value, dict):
                result[key] = sources.get(dotted, value)
            # A node with nothing but neutral values is omitted, as if it were absent; a group is if its name is one.
            elif (inner := kept(value, dotted)) or not value or is_named(dotted, neutral):
                result[key] = inner
        return result

    return kept(config, "")


def is_named(place: str, neutral: Mapping[str, Any]) -> bool:
    """Return whether a node is a group whose name no file calls neutral, as that of a constant schedule is called."""
    return place in GROUPS and f"{place}.name" not in neutral


def is_data_location(place: str, key: str) -> bool:
    """Return whether a key names the location or the loader of the data."""
    return place.partition(".")[0] == "data" and (key == TARGET or key in LOCATIONS)


def is_shipped_target(group: str, node: Mapping[str, Any]) -> bool:
    """Return whether a node has the ``_target_`` of the shipped option with its group and name, or composes several."""
    return group in GROUPS and node[TARGET] in (CHAIN, shipped_target(group, str(node.get("name"))))


@cache
def shipped_target(group: str, name: str) -> str | None:
    """Return the ``_target_`` of a shipped option, its own or inherited; ``None`` if there is no such option."""
    return next((str(node[TARGET]) for node in shipped_nodes(group, name) if TARGET in node), None)


@cache
def shipped_neutral(group: str, name: str) -> dict[str, Any]:
    """Return the neutral values of a shipped option's keys, its own and inherited; none if there is no such option."""
    found: dict[str, Any] = {}
    for node in shipped_nodes(group, name):
        found = pop_neutral(node) | found
    return found


def shipped_nodes(group: str, name: str) -> Iterator[Config]:
    """Yield the group's node in the file of a shipped option, and in those that it inherits from."""
    options = {path.stem: path for path in (shipped_folder("conf") / group).glob("*.yaml")}
    while name in options:
        written = yaml.safe_load(options[name].read_text(encoding="utf-8"))
        node = written.get(group, written)  # a model's file begins above its group
        yield node
        parents = [base for base in node.get("defaults", ()) if isinstance(base, str) and base != "_self_"]
        name = parents[0] if parents else ""


# ---- targets outside gradbench -----------------------------------------------------------------------------


def foreign_targets(config: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    """Yield (node, target) of each ``_target_`` outside gradbench, except data loaders: a fingerprint covers data.

    The target of one of Hydra's getters is the function or class that its ``path`` names.
    """
    for key, value in config.items() if place != "data" else ():
        if key == TARGET and str(value).partition(".")[0] != OWN:
            yield place, str(config.get("path", value) if str(value).startswith(GETTERS) else value)
        elif isinstance(value, dict):
            yield from foreign_targets(value, f"{place}.{key}" if place else key)


def hash_sources(config: Mapping[str, Any], targets: Mapping[str, str]) -> dict[str, str]:
    """Hash the source of each foreign target, except those with a ``version`` beside them or without source.

    The file of initial weights is hashed too.

    Args:
        config: nested, resolved.
        targets: node -> target, from :func:`foreign_targets`.

    Returns:
        Node or key -> hash.

    Raises:
        UsageError: if the file of weights cannot be read.
    """
    found = {node: source_sha256(target) for node, target in targets.items() if not has_version(config, node)}
    weights = config["model"].get("weights")
    if weights is not None:
        found[WEIGHTS] = hash_weights(weights)
    return {node: sha256 for node, sha256 in found.items() if sha256}


def hash_weights(path: str) -> str:
    """Hash a file of weights.

    Raises:
        UsageError: if it is no file, or cannot be read.
    """
    try:
        if Path(path).is_file():
            return file_sha256(path)
        what = "no regular file" if Path(path).exists() else "no such file"
        what = "a folder" if Path(path).is_dir() else what
    except OSError as error:
        what = str(error.strerror)
    raise UsageError(
        f"cannot read {WEIGHTS}={path} ({what}); give a file of weights, relative to where the command is typed"
    )


def has_version(config: Mapping[str, Any], place: str) -> bool:
    """Return whether the node at a dotted key states a ``version`` of its target."""
    for part in filter(None, place.split(".")):
        config = config[part]
    return config.get(VERSION) is not None

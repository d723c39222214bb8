"""Identity: the part of a resolved config that says what a cell computes, and nothing else. Ids rest on it."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import yaml

from gradbench.config.compose import GROUPS, Config, shipped_folder
from gradbench.config.neutral import is_same
from gradbench.config.sources import OWN, source_sha256

LABELS = frozenset(
    ("model.metric", "model.goal", "model.unit", "model.gradient_center", "regularizer.family")
)
"""Keys that describe a cell to reports and to other keys, and change nothing that it computes."""

LOCATIONS = frozenset(("path", "root", "download", "url"))
"""Keys within the data group that say where the data lies; its fingerprint says what it is."""

TARGET, VERSION, SOURCE = "_target_", "version", "_source_sha256"


def identity(config: Mapping[str, Any], neutral: Mapping[str, Any], sources: Mapping[str, str]) -> Config:
    """Return what a cell computes: its resolved config without what only labels, locates or changes nothing.

    Left out are labels, where data lies and what loads it (the fingerprint says what was loaded), keys at their
    neutral values, and gradbench's own target of a choice that it ships.

    Args:
        config: nested, resolved, without the runtime keys.
        neutral: dotted key -> its neutral value.
        sources: node -> hash of the source of its target, as :func:`sources_of` returns them.

    Returns:
        A new nested dict (its lists are the config's), with a key ``_source_sha256`` in each node of ``sources``.
    """

    def kept(node: Mapping[str, Any], place: str) -> Config:
        result: Config = {SOURCE: sources[place]} if place in sources else {}
        for key, value in node.items():
            dotted = f"{place}.{key}" if place else key
            if dotted in LABELS or (dotted in neutral and is_same(value, neutral[dotted])):
                continue
            if is_data_location(place, key) or (key == TARGET and is_shipped_target(place, node)):
                continue
            if not isinstance(value, dict):
                result[key] = value
            # a node of neutral values alone is as good as absent; a group always has its place
            elif (inner := kept(value, dotted)) or not value or dotted in GROUPS:
                result[key] = inner
        return result

    return kept(config, "")


def is_data_location(place: str, key: str) -> bool:
    """Return whether a key says where data lies, or what loads it."""
    return place.partition(".")[0] == "data" and (key == TARGET or key in LOCATIONS)


def is_shipped_target(group: str, node: Mapping[str, Any]) -> bool:
    """Return whether a node's target is the one of the choice of that group and name that gradbench ships."""
    return group in GROUPS and node[TARGET] == shipped_target(group, str(node.get("name")))


@cache
def shipped_target(group: str, name: str) -> str | None:
    """Return the ``_target_`` that gradbench's own conf has for a choice, or inherits; ``None`` where it has none."""
    options = {path.stem: path for path in (shipped_folder("conf") / group).glob("*.yaml")}
    if name not in options:
        return None
    written = yaml.safe_load(options[name].read_text(encoding="utf-8"))
    node = written.get(group, written)  # a model's file begins above its group
    if TARGET in node:
        return str(node[TARGET])
    parents = [base for base in node.get("defaults", ()) if isinstance(base, str) and base != "_self_"]
    return shipped_target(group, parents[0]) if parents else None


# ---- targets of somebody's own -----------------------------------------------------------------------------


def foreign_targets(config: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    """Yield (node, target) of each ``_target_`` outside gradbench, but for what loads data: a fingerprint covers it."""
    for key, value in config.items() if place != "data" else ():
        if key == TARGET and str(value).partition(".")[0] != OWN:
            yield place, str(value)
        elif isinstance(value, dict):
            yield from foreign_targets(value, f"{place}.{key}" if place else key)


def hash_sources(config: Mapping[str, Any], targets: Mapping[str, str]) -> dict[str, str]:
    """Return node -> hash of the source of its target, without those that carry a ``version`` or have no source.

    Args:
        config: nested, resolved.
        targets: node -> target, as :func:`foreign_targets` yields them.
    """
    found = {node: source_sha256(target) for node, target in targets.items() if not has_version(config, node)}
    return {node: sha256 for node, sha256 in found.items() if sha256}


def has_version(config: Mapping[str, Any], place: str) -> bool:
    """Return whether the node at a dotted place says which version of its target it means."""
    for part in filter(None, place.split(".")):
        config = config[part]
    return config.get(VERSION) is not None

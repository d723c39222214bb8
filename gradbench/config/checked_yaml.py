"""Parse YAML from files that may be hostile: before anything is built of it, its values are counted."""

from typing import Any

import yaml

MAX_DIGITS = 1000
"""Digits of a whole number: YAML also has numbers to base 60, of which a megabyte takes minutes."""

INTEGER = "tag:yaml.org,2002:int"

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""PyYAML's parser in C, where it was built with one: ten times as fast, and it refuses what is nested too deep."""


def compose_yaml(text: str, most: int) -> yaml.Node | None:
    """Parse YAML into a tree of nodes; ``None`` if there is nothing in it.

    Args:
        text: content of a file.
        most: number of values that there may be, after aliases are expanded.

    Raises:
        Exception: a ``yaml.YAMLError`` if there are more, or of any type if it is no YAML.
    """
    root = yaml.compose(text, LOADER)
    if root is not None and count_values(root, {}, most) > most:
        raise yaml.YAMLError(f"its aliases stand for more than {most:,} values")
    return root


def load_yaml(text: str, most: int) -> Any:
    """Load YAML as plain values, as ``yaml.safe_load`` does; arguments and errors are those of :func:`compose_yaml`."""
    root = compose_yaml(text, most)
    return None if root is None else yaml.SafeLoader("").construct_document(root)


def count_values(node: yaml.Node, known: dict[int, int], most: int) -> int:
    """Count the values of a YAML node after its aliases are expanded.

    Args:
        node: composed node, in which an alias is the same object as its anchor.
        known: id of a node -> its count, filled here; a node that contains itself counts ``most``.
        most: as in :func:`compose_yaml`.

    Raises:
        yaml.YAMLError: if a number has more than ``MAX_DIGITS`` digits.
    """
    if id(node) not in known:
        known[id(node)] = most
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in inner for part in pair]
        elif node.tag == INTEGER and len(node.value) > MAX_DIGITS:
            raise yaml.YAMLError(f"a number has {len(node.value):,} digits")
        known[id(node)] = 1 + sum(count_values(part, known, most) for part in inner)
    return known[id(node)]

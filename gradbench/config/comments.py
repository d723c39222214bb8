"""Read the comments of a YAML file: those at its top, and those of each key."""

import re
from collections.abc import Iterator

import yaml

from gradbench.config.neutral import NEUTRAL

Position = tuple[int, int]
"""Line and column, counted from 0."""


def first_comment(text: str) -> str:
    """Return the first comment line of a YAML file, or its ``name`` if it has none."""
    return next(iter(header_comments(text)), "") or str((yaml.safe_load(text) or {}).get("name", ""))


def header_comments(text: str) -> list[str]:
    """Return the comment lines at the top of a YAML file that are not Hydra directives."""
    found = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @"):
            found.append(line.removeprefix("#").strip())
    return found


def parse_comments(text: str) -> dict[str, str]:
    """Return dotted key -> its comment, empty where it has none.

    A comment begins at the end of the key's line and continues on the lines below whose ``#`` is in the same column;
    or it stands directly above the key with the same indentation. Comments at the top of the file or after a blank
    line are headings and belong to no key.
    """
    lines = text.splitlines()
    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    return {
        key: " ".join([*comments_above(lines, line, column), *comments_beside(lines, end_line, end_column)])
        for key, (line, column), (end_line, end_column) in key_positions(root, "")
    }


def key_positions(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, Position, Position]]:
    """Yield each dotted key with the position where it begins, and the position after which its comment may begin."""
    for key, value in node.value:
        nested = isinstance(value, yaml.MappingNode) and not value.flow_style
        end = key.end_mark if nested else value.end_mark
        if key.value not in (NEUTRAL, "defaults"):
            name = f"{prefix}{key.value}"
            yield name, (key.start_mark.line, key.start_mark.column), (end.line, end.column)
            if nested:
                yield from key_positions(value, f"{name}.")


def comments_above(lines: list[str], line: int, column: int) -> list[str]:
    """Return the comment lines directly above a key."""
    first = line
    while first and re.match(rf" {{{column}}}#", lines[first - 1]):
        first -= 1
    is_heading = first == 0 or not lines[first - 1].strip()
    return [] if is_heading else [comment.strip(" #") for comment in lines[first:line]]


def comments_beside(lines: list[str], line: int, column: int) -> list[str]:
    """Return the comment at the end of a line, and its continuation on the lines below."""
    found = re.match(r":?\s*# ?(.*)", lines[line][column:])
    if not found:
        return []
    column += lines[line][column:].index("#")
    comments = [found[1]]
    for below in lines[line + 1 :]:
        if not re.match(rf" {{{column}}}#", below):
            break
        comments.append(below.strip(" #"))
    return comments

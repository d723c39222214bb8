"""What a report is made of: sections of words, tables and pictures, which page and Markdown render alike."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Entry(NamedTuple):
    """One place of a table: what is shown, what sorts it (the text itself where empty), and how it is shown.

    ``kind`` is ``verdict`` (coloured by its word), ``code`` (to be copied), or empty.
    """

    text: str
    order: float | str = ""
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table to sort and filter. ``csv`` is its file in ``tables/``, if it has one."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    caption: str = ""
    csv: str = ""


class Line(NamedTuple):
    """A line of a box: what it is about, how it ended, in which words, on what evidence; ``figure`` shows it."""

    name: str
    verdict: str
    words: str
    evidence: str
    figure: str = ""


@dataclass(frozen=True)
class Box:
    """What is known, a line each, for whoever reads no further."""

    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Picture:
    """A figure as files, with its words. ``table`` names the CSV with its numbers."""

    name: str
    title: str
    caption: str
    alt: str
    table: str
    png: bytes
    svg: bytes


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it."""

    title: str
    blocks: Sequence[str | Box | Table | Picture]  # a string is a paragraph

    @property
    def anchor(self) -> str:
        """What a link to the section is called."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())

    @property
    def pictures(self) -> Iterable[Picture]:
        """The figures under this heading."""
        return (block for block in self.blocks if isinstance(block, Picture))

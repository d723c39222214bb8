"""Define the parts of a report: sections of paragraphs, boxes, tables and pictures, for HTML and Markdown alike."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class TableEntry(NamedTuple):
    """One entry of a table.

    Attributes:
        text: the text shown.
        order: key to sort by; the text if empty.
        kind: ``verdict`` (coloured by its word), ``code`` (to be copied), ``text`` (with its line ends),
            ``wrapped`` (in a narrow column), or empty.
    """

    text: str
    order: float | str = ""
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table to sort and filter; ``csv`` names its file in ``tables/``, or is empty."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[TableEntry, ...], ...]
    caption: str = ""
    csv: str = ""


class BoxLine(NamedTuple):
    """A line of a box: name, verdict, sentence and evidence of a claim, and the name of its figure."""

    name: str
    verdict: str
    words: str
    evidence: str
    figure: str = ""


@dataclass(frozen=True)
class Box:
    """A summary of verdicts, one line each."""

    lines: tuple[BoxLine, ...]


@dataclass(frozen=True)
class Picture:
    """A figure as PNG, SVG and a narrow PNG for phones, with its texts; ``table`` names the CSV with its numbers."""

    name: str
    title: str
    caption: str
    alt: str
    table: str
    png: bytes
    svg: bytes
    narrow: bytes = b""


@dataclass(frozen=True)
class ReportSection:
    """A heading and the blocks below it."""

    title: str
    blocks: Sequence[str | Box | Table | Picture]  # a string is a paragraph

    @property
    def anchor(self) -> str:
        """Name of the section in links."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())

    @property
    def pictures(self) -> Iterable[Picture]:
        """Figures of the section."""
        return (block for block in self.blocks if isinstance(block, Picture))

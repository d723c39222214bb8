"""Render a report as one self-contained HTML page, from ``page.html.j2``."""

import base64
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from gradbench.report.render.blocks import Box, Picture, Table, TableEntry
from gradbench.report.render.contents import ANSWERS, TYPED, Contents

EMBEDDED = 6_500_000  # bytes of pictures embedded in a page; further ones are linked as files
COLUMNS = ("cell", "comparison", "treatment", "strength", "seed", "status", "metric", "ms / step")


def render_html(contents: Contents) -> str:
    """Render a report as HTML; the template escapes everything that comes from the tables."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests |= {"box": lambda block: isinstance(block, Box)}
    environment.tests |= {"table": lambda block: isinstance(block, Table)}
    environment.tests |= {"picture": lambda block: isinstance(block, Picture)}
    environment.filters |= {"order": _sort_key, "breakable": _breakable, "options_whole": _keep_options_whole}
    return environment.get_template("page.html.j2").render(
        contents=contents,
        answers=ANSWERS,
        typed=TYPED,
        sources=_picture_sources([picture for section in contents.sections for picture in section.pictures]),
        columns=COLUMNS,
        data=_to_json(contents.cells.data) if contents.cells else "",
    )


def _to_json(data: Mapping[str, Any]) -> str:
    """Write JSON that cannot end the script element around it, whatever texts it holds."""
    written = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _picture_sources(pictures: Iterable[Picture]) -> dict[str, tuple[str, str]]:
    """Map each picture's name to the data URLs of both of its widths, or to files once ``EMBEDDED`` bytes are used."""
    sources, room = {}, EMBEDDED
    for picture in pictures:
        both = {
            f"figures/{picture.name}.png": picture.png,
            f"figures/{picture.name}.narrow.png": picture.narrow,
        }
        size = sum(map(len, both.values()))
        fits = size <= room
        room -= size if fits else 0
        wide, narrow = (_data_url(png) if fits else file for file, png in both.items())
        sources[picture.name] = wide, narrow
    return sources


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _breakable(words: str) -> Markup:
    """Let a text break after signs instead of within a word."""
    return Markup("<wbr>").join(re.findall(r"[^_.=/+,]*[_.=/+,]|[^_.=/+,]+", words))


def _keep_options_whole(command: str) -> Markup:
    """Keep a line from breaking at the hyphens of an option such as ``--results``."""
    option = Markup('<span class="option">{}</span>')
    return Markup(" ").join(
        option.format(word) if word.startswith("-") else word for word in command.split(" ")
    )


def _sort_key(entry: TableEntry) -> str:
    """Compute the sort key of an entry; empty for a missing number, which sorts last."""
    if isinstance(entry.order, float):
        return "" if math.isnan(entry.order) else repr(entry.order)
    return entry.order or entry.text

"""The page: one self-contained HTML file, written from the template beside this module."""

import base64
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from gradbench.report.render.blocks import Box, Entry, Picture, Table
from gradbench.report.render.contents import Contents

EMBEDDED = 6_500_000  # bytes of pictures in a page at most; any other is shown from beside it
COLUMNS = ("cell", "group", "treatment", "strength", "seed", "status", "metric", "ms / step")


def render(contents: Contents) -> str:
    """Return the page as HTML. Everything that comes from the tables is escaped by the template."""
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
    environment.filters |= {"order": _order}
    return environment.get_template("page.html.j2").render(
        contents=contents,
        sources=_sources([picture for section in contents.sections for picture in section.pictures]),
        columns=COLUMNS,
        data=_json(contents.cells.data) if contents.cells else "",
    )


def _json(data: Mapping[str, Any]) -> str:
    """Write JSON that cannot end the script element which holds it, whatever its words are."""
    written = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _sources(pictures: Iterable[Picture]) -> dict[str, str]:
    """Return where the page finds each picture: in itself, or beside it once there are too many."""
    sources, room = {}, EMBEDDED
    for picture in pictures:
        fits = len(picture.png) <= room
        room -= len(picture.png) if fits else 0
        data = base64.b64encode(picture.png).decode("ascii") if fits else ""
        sources[picture.name] = f"data:image/png;base64,{data}" if fits else f"figures/{picture.name}.png"
    return sources


def _order(entry: Entry) -> str:
    """Return what sorts an entry; empty where it is missing, which sorts last."""
    if isinstance(entry.order, float):
        return "" if math.isnan(entry.order) else repr(entry.order)
    return entry.order or entry.text

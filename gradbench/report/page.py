"""The page: one self-contained HTML file, written from the template beside this module."""

import base64
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from gradbench.report import text
from gradbench.report.contents import Contents
from gradbench.report.sections import Entry, Picture, Table
from gradbench.report.tables import Results

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
    environment.tests |= {"table": lambda block: isinstance(block, Table)}
    environment.tests |= {"picture": lambda block: isinstance(block, Picture)}
    environment.filters |= {"order": _order}
    return environment.get_template("page.html.j2").render(
        contents=contents,
        results=contents.results,
        subtitle=subtitle(contents.results),
        sources=_sources([picture for section in contents.sections for picture in section.pictures]),
        columns=COLUMNS,
        data=_json(contents.cells.data),
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


def subtitle(results: Results) -> str:
    """Say what was run: ``3 models × 4 treatments, 3 seeds, 117 cells · 22 Nov 2026 · 2 min 41 s on cpu``."""
    cells = results.cells
    models, treatments = (text.count(cells[noun].nunique(), noun) for noun in ("model", "treatment"))
    seeds = text.count(cells["seed"].nunique(), "seed")
    parts = [f"{models} × {treatments}, {seeds}, {text.count(len(cells), 'cell')}"]
    if {"started", "finished"} <= set(cells):
        started = pd.to_datetime(cells["started"], utc=True, errors="coerce", format="ISO8601")
        finished = pd.to_datetime(cells["finished"], utc=True, errors="coerce", format="ISO8601")
        if finished.notna().any():
            day = finished.max()
            parts.append(f"{day.day} {day:%b %Y}")
        spent = text.duration(_union(started, finished))
        devices = (
            text.listed(sorted(cells["device"].dropna().astype(str).unique())) if "device" in cells else ""
        )
        parts.append(f"{spent} on {devices}" if devices else spent)
    return " · ".join(parts)


def _union(started: pd.Series, finished: pd.Series) -> float:
    """Return the seconds in which at least one cell was training: a resumed sweep's pauses do not count."""
    spans = pd.DataFrame({"from": started, "to": finished}).dropna().drop_duplicates().sort_values("from")
    total, end = 0.0, pd.Timestamp.min.tz_localize("UTC")
    for begin, until in zip(spans["from"], spans["to"], strict=True):
        total += max((until - max(begin, end)).total_seconds(), 0.0)
        end = max(end, until)
    return total

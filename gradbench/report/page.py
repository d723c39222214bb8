"""The page: one self-contained HTML file, written from the template beside this module."""

import base64
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from gradbench.report import text
from gradbench.report.answer import Answer
from gradbench.report.audit import Finding
from gradbench.report.compare import Comparison
from gradbench.report.figures import Drawing
from gradbench.report.rows import COLUMNS, rows, shared
from gradbench.report.tables import NONE, Results
from gradbench.stats import Interval


def render(
    results: Results,
    comparisons: Sequence[Comparison],
    answers: Sequence[Answer],
    findings: Sequence[Finding],
    judged: pd.DataFrame,
    drawings: Mapping[str, Sequence[Drawing]],
    pictures: Mapping[str, bytes],
) -> str:
    """Return the page as HTML. Everything that comes from the tables is escaped by the template."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sources = {name: base64.b64encode(data).decode("ascii") for name, data in pictures.items()}
    return environment.get_template("page.html.j2").render(
        results=results,
        subtitle=subtitle(results),
        answers=answers,
        judged=_judged(judged),
        sections={section: list(drawn) for section, drawn in drawings.items() if drawn},
        pictures=sources,
        columns=COLUMNS,
        rows=rows(results),
        shared=shared(results),
        findings=findings,
        quiet=[c.label for c in comparisons if not c.cells["status"].eq("diverged").any()],
    )


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
    spans = pd.DataFrame({"from": started, "to": finished}).dropna().sort_values("from")
    total, end = 0.0, pd.Timestamp.min.tz_localize("UTC")
    for begin, until in zip(spans["from"], spans["to"], strict=True):
        total += max((until - max(begin, end)).total_seconds(), 0.0)
        end = max(end, until)
    return total


def _judged(table: pd.DataFrame) -> list[dict[str, str]]:
    """Write the judgements of single treatments as text."""
    written = []
    for row in table.to_dict("records"):
        strengths = [float(value) for value in str(row["chosen"]).split()]
        written.append(
            {
                "group": str(row["comparison"]),
                "treatment": text.setting(str(row["treatment"]), str(row["quantity"]), strengths),
                "metric": str(row["metric"]),
                "value": _interval(row, "mean", row["n"] - row["diverged"]),
                "none": _interval(row, NONE, row["none_n"] - row["none_diverged"]),
                "difference": _interval(row, "difference", row["pairs"]),
                "diverged": f"{row['diverged']}/{row['n']}, none {row['none_diverged']}/{row['none_n']}",
                "verdict": str(row["verdict"]),
            }
        )
    return written


def _interval(row: Mapping[Hashable, Any], name: str, n: int) -> str:
    return text.interval(Interval(row[name], row[f"{name}_low"], row[f"{name}_high"], int(n)))

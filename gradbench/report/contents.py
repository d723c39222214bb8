"""What stands in a report, in the order in which a reader asks, before anyone decides how it is written down."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import pandas as pd

from gradbench.report import text
from gradbench.report.answer import Answer
from gradbench.report.audit import Finding
from gradbench.report.cells import Listing
from gradbench.report.compare import Comparison
from gradbench.report.sections import Entry, Picture, Section, Table
from gradbench.report.tables import NONE, Results
from gradbench.stats import Interval

DRAWN = 6  # comparisons in a figure: more would be taller than anyone scrolls

JUDGED = (
    "For each seed the strength was chosen on the other seeds and judged on this one, so the best of several "
    "strengths gets no credit for luck. Numbers are means over seeds with 95% Student t intervals; differences "
    "are paired by seed, treatment minus none. Where a strength was chosen, intervals are widened, since the seeds "
    "that judge one choice made the others (Nadeau and Bengio, 2003). A verdict other than undecided needs the "
    "interval of the difference, or Newcombe's interval of the difference in diverged shares, to leave out zero. "
    "The box above also chooses the treatment in this way; the rows of this table are judged one by one and not "
    "corrected for their number. If the treatments did nothing, every difference would straddle zero."
)


@dataclass(frozen=True)
class Contents:
    """A whole report."""

    title: str
    subtitle: str
    question: str
    command: str
    answers: Sequence[Answer]
    sections: Sequence[Section]
    findings: Sequence[Finding]
    cells: Listing | None  # None where a report has none of its own

    @property
    def warnings(self) -> int:
        """How many findings of the audit are warnings."""
        return sum(finding.warning for finding in self.findings)


def drawn(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons that figures show: the first few of every model in turn, in the order of all."""
    models = dict.fromkeys(comparison.model for comparison in comparisons)
    turns = zip_longest(*([c for c in comparisons if c.model == model] for model in models))
    kept = [c for turn in turns for c in turn if c is not None][:DRAWN]
    return [c for c in comparisons if any(c is other for other in kept)]


def sections(
    comparisons: Sequence[Comparison],
    shown: Sequence[Comparison],
    judged: pd.DataFrame,
    claims: Sequence[Section],
    pictures: Mapping[str, Sequence[Picture]],
) -> list[Section]:
    """Return the sections between the answer box and the table of cells."""
    found = [Section("Treatments", [_judged(judged)])] if len(judged) else []
    found += claims
    for title, drawings in pictures.items():
        found.append(Section(title, [*_left_out(comparisons, shown), *drawings]))
    if "Divergence" not in pictures:
        found.insert(_place(found, "Cost"), Section("Divergence", [f"No cell of {_labels(shown)} diverged."]))
    return found


def _left_out(comparisons: Sequence[Comparison], shown: Sequence[Comparison]) -> list[str]:
    gone = len(comparisons) - len(shown)
    if not gone:
        return []
    return [
        f"Figures show {len(shown)} of {len(comparisons)} groups; the tables have the other {gone}: "
        "tables/strengths.csv, tables/divergence.csv, tables/cost.csv and tables/action.csv beside this page."
    ]


def _labels(comparisons: Sequence[Comparison]) -> str:
    return text.listed([comparison.label for comparison in comparisons])


def _place(found: Sequence[Section], before: str) -> int:
    titles = [section.title for section in found]
    return titles.index(before) if before in titles else len(titles)


def _judged(table: pd.DataFrame) -> Table:
    """Write the judgements of single treatments as text."""
    columns = ("group", "treatment", "metric", NONE, "difference", "diverged", "n", "step", "verdict")
    return Table(
        "Each treatment alone",
        columns,
        tuple(_judgement(row) for row in table.to_dict("records")),
        JUDGED,
        "comparisons.csv",
    )


def _judgement(row: Mapping[Hashable, Any]) -> tuple[Entry, ...]:
    strengths = [float(value) for value in str(row["chosen"]).split()]
    lost = f"{row['diverged']}/{row['n']}, none {row['none_diverged']}/{row['none_n']}"
    return (
        Entry(str(row["comparison"])),
        Entry(text.setting(str(row["treatment"]), str(row["quantity"]), strengths)),
        _interval(row, "mean", row["n"] - row["diverged"]),
        _interval(row, NONE, row["none_n"] - row["none_diverged"]),
        _interval(row, "difference", row["pairs"]),
        Entry(lost, row["diverged"] / row["n"] if row["n"] else float("nan")),
        Entry(str(row["n"]), float(row["n"])),
        Entry(
            f"{text.number(row['step_ratio'])}×" if row["step_ratio"] > 0 else "–", float(row["step_ratio"])
        ),
        Entry(str(row["verdict"]), kind="verdict"),
    )


def _interval(row: Mapping[Hashable, Any], name: str, n: int) -> Entry:
    written = text.interval(Interval(row[name], row[f"{name}_low"], row[f"{name}_high"], int(n)))
    return Entry(written, float(row[name]))


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

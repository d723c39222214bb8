"""What stands in a report, in the order in which a reader asks, before anyone decides how it is written down."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import pandas as pd

from gradbench.report.analysis.answer import Answer
from gradbench.report.analysis.audit import Finding
from gradbench.report.analysis.comparison import UNDECIDED, Comparison
from gradbench.report.load.cells import NONE, Results
from gradbench.report.render import formatting as text
from gradbench.report.render.blocks import Entry, Picture, Section, Table
from gradbench.report.render.cells import Listing
from gradbench.stats.intervals import Interval

LISTED = 1000  # settings in the page's table of them
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
OUTCOMES = (
    "One row per treatment and strength. Means are over the seeds that completed, with 95% Student t intervals; the "
    "interquartile mean leaves out the best and the worst quarter of them (with fewer than four it is the mean). "
    "P(better than none) is the share of pairs, one cell of the setting and one of none, in which the setting's is "
    "better: ties count half, a diverged cell loses to any that is not, and the interval is Newcombe's. A "
    "treatment that did nothing would be at 0.5. Many rows are many chances of luck: this table is for looking, the "
    "answers above are for deciding."
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


def drawn(comparisons: Sequence[Comparison], answers: Sequence[Answer]) -> list[Comparison]:
    """Return the comparisons that figures show, in the order of all: a few of every model, decided ones first."""
    decided = [answer.verdict != UNDECIDED for answer in answers]
    order = sorted(range(len(comparisons)), key=lambda place: not decided[place])
    models = dict.fromkeys(comparison.model for comparison in comparisons)
    turns = zip_longest(*([p for p in order if comparisons[p].model == model] for model in models))
    kept = [place for turn in turns for place in turn if place is not None][:DRAWN]
    return [comparisons[place] for place in sorted(kept)]


def sections(
    comparisons: Sequence[Comparison],
    shown: Sequence[Comparison],
    tables: Mapping[str, pd.DataFrame],
    claims: Sequence[Section],
    pictures: Mapping[str, Sequence[Picture]],
) -> list[Section]:
    """Return the sections between the answer box and the table of cells."""
    judged, strengths = tables["comparisons.csv"], tables["strengths.csv"]
    found = [Section("Treatments", [_judged(judged)])] if len(judged) else []
    found += claims
    left_out = _left_out(comparisons, shown)
    for title, drawings in pictures.items():
        listed = [_settings(strengths)] if title == "Strengths" else []
        found.append(Section(title, [*left_out, *drawings, *listed]))
        left_out = []
    if "Divergence" not in pictures:
        which = " that figures show" if len(shown) < len(comparisons) else ""
        labels = text.several([comparison.label for comparison in shown], "group")
        found.insert(_place(found, "Cost"), Section("Divergence", [f"No cell of {labels}{which} diverged."]))
    return found


def _left_out(comparisons: Sequence[Comparison], shown: Sequence[Comparison]) -> list[str]:
    gone = len(comparisons) - len(shown)
    if not gone:
        return []
    return [
        f"Figures show {len(shown)} of {len(comparisons)} groups, of every model those with an answer first; "
        f"the tables have the other {gone}: tables/strengths.csv, tables/divergence.csv, tables/cost.csv "
        "and tables/action.csv beside this page."
    ]


def _place(found: Sequence[Section], before: str) -> int:
    titles = [section.title for section in found]
    return titles.index(before) if before in titles else len(titles)


def _judged(table: pd.DataFrame) -> Table:
    """Write the judgements of single treatments as text."""
    columns = ("group", "treatment", "verdict", "metric", NONE, "difference", "diverged", "n", "step")
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
        Entry(str(row["verdict"]), kind="verdict"),
        _interval(row, "mean", row["n"] - row["diverged"]),
        _interval(row, NONE, row["none_n"] - row["none_diverged"]),
        _interval(row, "difference", row["pairs"]),
        Entry(lost, row["diverged"] / row["n"] if row["n"] else float("nan")),
        Entry(str(row["n"]), float(row["n"])),
        Entry(
            f"{text.number(row['step_ratio'])}×" if row["step_ratio"] > 0 else "–", float(row["step_ratio"])
        ),
    )


def _settings(table: pd.DataFrame) -> Table:
    """Write every setting's outcome as text, of long tables the beginning."""
    columns = ("group", "setting", "n", "diverged", "mean", "interquartile mean", "P(better than none)")
    rows = table.iloc[:LISTED].to_dict("records")
    left = len(table) - len(rows)
    caption = f"{OUTCOMES} The first {len(rows):,} of {len(table):,} rows." if left else OUTCOMES
    return Table("Each setting", columns, tuple(map(_outcome, rows)), caption, "strengths.csv")


def _outcome(row: Mapping[Hashable, Any]) -> tuple[Entry, ...]:
    ran = row["completed"] + row["diverged"]
    strength = float(row["strength"]) if row["strength"] is not None else float("nan")
    strengths = [] if math.isnan(strength) else [strength]
    return (
        Entry(str(row["comparison"])),
        Entry(text.setting(str(row["treatment"]), str(row["quantity"]), strengths)),
        Entry(str(ran), float(ran)),
        Entry(f"{row['diverged']}/{ran}", row["diverged"] / ran if ran else float("nan")),
        _interval(row, "mean", row["completed"]),
        _interval(row, "iqm", row["completed"]),
        _interval(row, "improvement", ran),
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

"""Arrange a report: its sections and tables in order, independent of HTML or Markdown."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import pandas as pd

from gradbench.report.analysis.answer import Answer
from gradbench.report.analysis.audit import AuditNote
from gradbench.report.analysis.comparison import ComparisonGroup
from gradbench.report.load.cells import NONE, LoadedResults, split_strengths
from gradbench.report.render.blocks import Picture, ReportSection, Table, TableEntry
from gradbench.report.render.cells import CellListing
from gradbench.report.render.formatting import (
    format_change,
    format_duration,
    format_interval,
    format_percent,
    format_ratio,
    format_setting,
    join_or_count,
    join_words,
    pluralize,
)
from gradbench.stats.decisions import UNDECIDED
from gradbench.stats.intervals import Interval
from gradbench.storage.sanitize import caution

MAX_SETTINGS = 1000  # rows of the page's table of settings
MAX_DRAWN = 6  # comparisons in a figure, which has a row for each

ANSWERS = (
    "A treatment is what is done to the gradients; with none they are left alone. A seed is one repetition, with other "
    "initial weights and batches. In brackets: the 95% interval, the range in which the true value probably lies. A "
    "run has diverged once its loss, gradient or result is no longer a finite number, or its loss stays far above the "
    "first one. Undecided: the seeds so far do not tell the difference from chance."
)
TYPED = "These cells come from several commands, the first typed first:"
RANKED = (
    "Treatments in order, each at its best strength: fewest diverged runs first, then the best mean. Changes are "
    "against none, paired by seed; diverged is of so many seeds. Means, changes and their intervals are taken on the "
    "metric's own scale (of perplexities, losses and distances the logarithm, of shares the log odds) and converted "
    "back. The intervals of "
    "changes hold together, at 95%, for every strength of every treatment, so that the best of many gets no credit "
    "for luck. Better and worse: the interval leaves out no change, or the difference in diverged runs does. "
    "Equal: no strength is better by more than the margin that matters (each tested alone at 95%), and one is shown "
    "not to be worse by more. No better: no strength is better by more than the margin, and whether one is as good "
    "is open. The chance of being best is the share of resampled experiments (seeds drawn again from those there "
    "are) in which a treatment comes first. Steps changed: the share of training steps at which it changed the "
    "gradient. Step time: that of a training step relative to none, timed side by side after the sweep (see Cost)."
)
OUTCOMES = (
    "One row per treatment and strength. Means are over the seeds that completed, with 95% Student t intervals; the "
    "interquartile mean leaves out the best and the worst quarter of them (with fewer than four it is the mean). "
    "P(better than none) is the share of pairs, one run of the setting and one of none, in which the setting's is "
    "better: ties count half, a diverged run loses to any that is not, and the interval is Newcombe's. A "
    "treatment that did nothing would be at 0.5. Many rows are many chances of luck: this table is for looking, the "
    "answers above are for deciding."
)

NOT_TIMED = (
    "What a step of each treatment costs was not timed. A run times it at its end: type its command again, without "
    "--no-cost. For cells of a gradbench that did not do so, gradbench cost does, such as gradbench cost model=mlp."
)

FURTHER = (
    "Means over the seeds that completed, with 95% Student t intervals. To compare treatments by one of these metrics, "
    "add model.metric=test/NAME and model.goal=min or model.goal=max to the command."
)


@dataclass(frozen=True)
class Contents:
    """The contents of a report: of its ``commands`` the latest first; ``cells`` is None for a comparison of folders."""

    title: str
    subtitle: str
    question: str
    commands: Sequence[str]
    answers: Sequence[Answer]
    sections: Sequence[ReportSection]
    notes: Sequence[AuditNote]
    cells: CellListing | None

    @property
    def cautioned_commands(self) -> list[tuple[str, str]]:
        """The commands, the first typed first, each with why it is not to be pasted; empty if it may be."""
        return [(command, caution(command)) for command in reversed(self.commands)]

    @property
    def warnings(self) -> int:
        """Number of warnings in the audit."""
        return sum(note.warning for note in self.notes)


def choose_drawn(comparisons: Sequence[ComparisonGroup]) -> list[ComparisonGroup]:
    """Choose the comparisons that figures show: a few of every model, decided ones first, in their original order."""
    decided = [comparison.ranking.verdict != UNDECIDED for comparison in comparisons]
    order = sorted(range(len(comparisons)), key=lambda place: not decided[place])
    models = dict.fromkeys(comparison.model for comparison in comparisons)
    turns = zip_longest(*([p for p in order if comparisons[p].model == model] for model in models))
    kept = [place for turn in turns for place in turn if place is not None][:MAX_DRAWN]
    return [comparisons[place] for place in sorted(kept)]


def build_sections(
    comparisons: Sequence[ComparisonGroup],
    shown: Sequence[ComparisonGroup],
    tables: Mapping[str, pd.DataFrame],
    claims: Sequence[ReportSection],
    pictures: Mapping[str, Sequence[Picture]],
) -> list[ReportSection]:
    """Build the sections between the answer box and the table of cells.

    Args:
        comparisons: all comparisons.
        shown: the comparisons that figures show.
        tables: the report's tables by file name.
        claims: sections on claims.
        pictures: figures by section.
    """
    judged, strengths = tables["comparisons.csv"], tables["strengths.csv"]
    found = [ReportSection("Treatments", [_ranking_table(judged)])] if len(judged) else []
    found += claims
    if "metrics.csv" in tables:
        found.append(ReportSection("Further metrics", [_metrics_table(tables["metrics.csv"])]))
    left_out = _note_left_out(comparisons, shown)
    for title, drawings in pictures.items():
        listed = [_settings_table(strengths)] if title == "Strengths" else []
        found.append(ReportSection(title, [*left_out, *drawings, *listed]))
        left_out = []
    if "Cost" not in pictures and any(set(group.treatments) - {NONE} for group in comparisons):
        found.insert(_index_of(found, "Critic"), ReportSection("Cost", [NOT_TIMED]))
    if "Divergence" not in pictures:
        which = " that figures show" if len(shown) < len(comparisons) else ""
        labels = join_or_count([comparison.label for comparison in shown], "comparison")
        found.insert(
            _index_of(found, "Cost"), ReportSection("Divergence", [f"No run of {labels}{which} diverged."])
        )
    return found


def _note_left_out(comparisons: Sequence[ComparisonGroup], shown: Sequence[ComparisonGroup]) -> list[str]:
    """Write how many comparisons the figures leave out; an empty list if none."""
    gone = len(comparisons) - len(shown)
    if not gone:
        return []
    return [
        f"Figures show {len(shown)} of {len(comparisons)} comparisons, of every model those with an answer first; "
        f"the tables have the other {gone}: tables/strengths.csv, tables/divergence.csv, tables/cost.csv "
        "and tables/action.csv beside this page."
    ]


def _index_of(found: Sequence[ReportSection], before: str) -> int:
    titles = [section.title for section in found]
    return titles.index(before) if before in titles else len(titles)


def _ranking_table(table: pd.DataFrame) -> Table:
    """Write the rankings as text."""
    columns = (
        "comparison",
        "treatment",
        "verdict",
        "metric",
        "change",
        "diverged",
        "chance of being best",
        "steps changed",
        "step time",
    )
    rows = tuple(_ranking_entries(row) for row in table.to_dict("records"))
    return Table("Ranking", columns, rows, RANKED, "comparisons.csv")


def _ranking_entries(row: Mapping[Hashable, Any]) -> tuple[TableEntry, ...]:
    chosen = split_strengths("" if pd.isna(row["chosen"]) else str(row["chosen"]))
    strength = chosen if len(chosen) > 1 else next(iter(chosen), None)
    change = _interval(row, "change", row["pairs"])
    return (
        TableEntry(str(row["comparison"]), kind="wrapped"),
        TableEntry(format_setting(str(row["treatment"]), str(row["quantity"]), [strength])),
        TableEntry(str(row["verdict"]), kind="verdict"),
        _interval_entry(row, "mean", row["n"] - row["diverged"]),
        TableEntry(format_change(change, relative=bool(row["relative"])), change.estimate),
        TableEntry(f"{row['diverged']}/{row['n']}", row["diverged"] / row["n"] if row["n"] else float("nan")),
        TableEntry(f"{row['probability_best']:.2f}", float(row["probability_best"])),
        TableEntry(format_percent(row["touched"]) if row["touched"] >= 0 else "–", float(row["touched"])),
        TableEntry(_format_cost(row), float(row["step_ratio"])),
    )


def _format_cost(row: Mapping[Hashable, Any]) -> str:
    """Write the time of a step relative to ``none``, or a dash where it is unknown."""
    return format_ratio(_interval(row, "step_ratio", 0)) if row["step_ratio"] > 0 else "–"


def _interval(row: Mapping[Hashable, Any], name: str, n: float) -> Interval:
    return Interval(row[name], row[f"{name}_low"], row[f"{name}_high"], int(n) if n == n else 0)


def _metrics_table(table: pd.DataFrame) -> Table:
    """Build the table of the user's own metrics that are not compared, at most ``MAX_SETTINGS`` rows."""
    rows = tuple(
        (
            TableEntry(str(row["comparison"]), kind="wrapped"),
            TableEntry(str(row["setting"])),
            TableEntry(str(row["metric"])),
            TableEntry(str(row["completed"]), float(row["completed"])),
            _interval_entry(row, "mean", row["completed"]),
        )
        for row in table.iloc[:MAX_SETTINGS].to_dict("records")
    )
    return Table(
        "Your own metrics", ("comparison", "setting", "metric", "seeds", "mean"), rows, FURTHER, "metrics.csv"
    )


def _settings_table(table: pd.DataFrame) -> Table:
    """Build the table of settings, at most ``MAX_SETTINGS`` rows."""
    columns = (
        "comparison",
        "setting",
        "seeds",
        "diverged",
        "mean",
        "interquartile mean",
        "P(better than none)",
    )
    rows = table.iloc[:MAX_SETTINGS].to_dict("records")
    left = len(table) - len(rows)
    caption = f"{OUTCOMES} The first {len(rows):,} of {len(table):,} rows." if left else OUTCOMES
    return Table("Each setting", columns, tuple(map(_setting_entries, rows)), caption, "strengths.csv")


def _setting_entries(row: Mapping[Hashable, Any]) -> tuple[TableEntry, ...]:
    ran = row["completed"] + row["diverged"]
    return (
        TableEntry(str(row["comparison"]), kind="wrapped"),
        TableEntry(str(row["setting"])),
        TableEntry(str(ran), float(ran)),
        TableEntry(f"{row['diverged']}/{ran}", row["diverged"] / ran if ran else float("nan")),
        _interval_entry(row, "mean", row["completed"]),
        _interval_entry(row, "iqm", row["completed"]),
        _interval_entry(row, "improvement", ran),
    )


def _interval_entry(row: Mapping[Hashable, Any], name: str, n: int) -> TableEntry:
    return TableEntry(format_interval(_interval(row, name, n)), float(row[name]))


def format_subtitle(results: LoadedResults) -> str:
    """Write what was run: ``3 models × 4 treatments, 3 seeds, 117 cells · 22 Nov 2026 · 2 min 41 s on cpu``."""
    cells = results.cells
    models, treatments = (pluralize(cells[noun].nunique(), noun) for noun in ("model", "treatment"))
    seeds = pluralize(cells["seed"].nunique(), "seed")
    parts = [f"{models} × {treatments}, {seeds}, {pluralize(len(cells), 'cell')}"]
    if {"started", "finished"} <= set(cells):
        started = pd.to_datetime(cells["started"], utc=True, errors="coerce", format="ISO8601")
        finished = pd.to_datetime(cells["finished"], utc=True, errors="coerce", format="ISO8601")
        if finished.notna().any():
            day = finished.max()
            parts.append(f"{day.day} {day:%b %Y}")
        spent = format_duration(_busy_seconds(started, finished))
        devices = (
            join_words(sorted(cells["device"].dropna().astype(str).unique())) if "device" in cells else ""
        )
        parts.append(f"{spent} on {devices}" if devices else spent)
    return " · ".join(parts)


def _busy_seconds(started: pd.Series, finished: pd.Series) -> float:
    """Compute the seconds in which at least one cell was training, without the pauses of a resumed sweep."""
    spans = pd.DataFrame({"from": started, "to": finished}).dropna().drop_duplicates().sort_values("from")
    total, end = 0.0, pd.Timestamp.min.tz_localize("UTC")
    for begin, until in zip(spans["from"], spans["to"], strict=True):
        total += max((until - max(begin, end)).total_seconds(), 0.0)
        end = max(end, until)
    return total

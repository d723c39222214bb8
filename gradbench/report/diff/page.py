"""Build the report that compares the first of several results folders with each of the others."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from gradbench.errors import UsageError
from gradbench.report import figures
from gradbench.report.analysis.answer import Answer
from gradbench.report.analysis.audit import AuditNote, audit
from gradbench.report.analysis.comparison import list_comparisons
from gradbench.report.diff.pairing import SAME, FolderDiff, Pairing, count_verdicts, diff_folders
from gradbench.report.figures import compared
from gradbench.report.figures.style import assign_looks
from gradbench.report.load.cells import LoadedResults
from gradbench.report.render.blocks import ReportSection, Table, TableEntry
from gradbench.report.render.contents import Contents
from gradbench.report.render.formatting import (
    format_change,
    format_interval,
    format_number,
    format_setting,
    format_strength,
    join_words,
    pluralize,
)
from gradbench.stats.decisions import EQUAL, UNDECIDED

CAPTION = (
    "One row per setting that both folders ran, cells paired by seed. Means, changes and their 95% intervals are "
    "over the seeds that completed, taken on the metric's own scale and converted back; the change is that from the "
    "first folder to the second. Better and worse are of the second: the interval of the change, or Newcombe's of "
    "the difference in diverged shares, leaves out no change. Equal: the change is shown to be within the margin "
    "that matters. Same: every seed ended with the same number to the last bit. The rows are not corrected for "
    "their number: of settings that do not differ, up to one in twenty is called better or worse. The answers above "
    "are: a folder is called better where a setting is, with intervals that hold together for all settings, and "
    "none is worse. Stopwatch: the time of a step while both sweeps ran, second over first; it also tells of other "
    "load, devices, versions and widths of stacks, so it is not what a setting costs."
)


def build_contents(
    folders: Sequence[LoadedResults], names: Sequence[str]
) -> tuple[Contents, dict[str, pd.DataFrame], list[str]]:
    """Build the contents of the report, its tables by file name, and lines to print on what differs.

    Args:
        folders: the loaded results, two or more.
        names: short name of each folder.

    Raises:
        UsageError: no folder has a setting that the first one has, too.
    """
    first, *others = folders
    diffs = [
        diff_folders(first, folder, (names[0], name)) for folder, name in zip(others, names[1:], strict=True)
    ]
    if all(found.unpaired for found in diffs):
        unpaired = "; ".join(found.unpaired for found in diffs)
        raise UsageError(f"{unpaired}; compare folders that share models, treatments and seeds")
    styles = assign_looks([group for folder in folders for group in list_comparisons(folder)])
    sections, tables, answers, notes = [], {}, [], []
    for number, (found, name) in enumerate(zip(diffs, names[1:], strict=True), 1):
        title = f"compared-{number}" if len(others) > 1 else "compared"
        tables[f"{title}.csv"] = pd.DataFrame([_csv_row(pairing) for pairing in found.pairings])
        answers += _answer_models(found)
        notes += _note_changes(found)
        pictures = figures.render_pictures(partial(compared.draw, found, title, styles))
        shown: list[str | Table] = [f"{found.unpaired[:1].upper()}{found.unpaired[1:]}."]
        if found.pairings:
            shown = [_describe_changes(found), _verdict_table(found, f"{title}.csv")]
        sections.append(ReportSection(f"{name} beside {names[0]}", [*shown, *pictures]))
    remarks = [note.text for note in notes]
    for folder, name in zip(folders, names, strict=True):
        warnings = [note for note in audit(folder, list_comparisons(folder)) if note.warning]
        notes += [AuditNote(f"{name}: {note.text}", warning=True) for note in warnings]
    cells = [
        f"{name} {pluralize(len(folder.cells), 'cell')}" for folder, name in zip(folders, names, strict=True)
    ]
    page = Contents(
        title=" beside ".join(names),
        subtitle=f"{join_words(cells)}; each cell with its curves is in its own folder's report",
        question="What changed?",
        commands=(),
        answers=answers,
        sections=sections,
        notes=sorted(notes, key=lambda note: not note.warning),
        cells=None,
    )
    return page, tables, remarks


def check_distinct(folders: Sequence[Path]) -> None:
    """Refuse to compare a folder with itself.

    Raises:
        UsageError: two paths lead to the same folder.
    """
    seen: dict[Path, Path] = {}
    for folder in folders:
        first = seen.setdefault(folder.resolve(), folder)
        if first is not folder:
            also = "" if str(first) == str(folder) else f", also as {folder}"
            raise UsageError(
                f"{first} is given twice{also}; give two results folders to compare, or one to report on"
            )


def report_folder(folders: Sequence[Path], names: Sequence[str], out: Path | None) -> Path:
    """Choose the folder of the report: ``out``, or ``results/compare-`` and the names.

    Raises:
        UsageError: it is or lies in one of the folders, holds results of its own, or cannot be a folder.
    """
    short = [name.replace("/", "-") for name in names]
    chosen = out or Path("results") / "-".join(["compare", *short])
    place = chosen.resolve()
    for folder in folders:
        if place.is_relative_to(folder.resolve()):
            raise UsageError(
                f"{chosen} lies in {folder}, which is compared; choose another folder with --out DIR"
            )
    there = next(path for path in (place, *place.parents) if path.exists())
    if not there.is_dir():
        raise UsageError(
            f"{there} is no folder, so no report can go to {chosen}; choose a folder with --out DIR"
        )
    if (place / "cells").is_dir():
        raise UsageError(f"{chosen} holds results of its own; choose another folder with --out DIR")
    return chosen


def _describe_changes(found: FolderDiff) -> str:
    """Write what was changed from one folder to the other."""
    if not found.changes:
        return "Nothing that the tables record was changed between the cells that are compared."
    return f"What was changed: {'; '.join(found.changes)}."


def _answer_models(found: FolderDiff) -> list[Answer]:
    """Answer for each model whether the second folder is better."""
    answers = []
    second = found.names[1]
    for model in dict.fromkeys(pairing.model for pairing in found.pairings):
        own = [pairing for pairing in found.pairings if pairing.model == model]
        number = count_verdicts(own)
        parts = [f"{n} {verdict}" for verdict, n in number.items() if n]
        lost = [sum(pairing.diverged[place] for pairing in own) for place in (0, 1)]
        seeds = format_strength("", [float(pairing.n) for pairing in own])
        evidence = [
            f"Of {pluralize(len(own), 'setting')} (n = {seeds} seeds): {join_words(parts)}.",
            f"Diverged runs: {lost[0]} before, {lost[1]} after.",
        ]
        corrected = {pairing.corrected_verdict for pairing in own} - {UNDECIDED, EQUAL}
        if number[SAME] == len(own):
            verdict, says = SAME, "the same numbers, to the last bit"
        elif len(corrected) == 1:
            (verdict,) = corrected
            says = f"{second} is {verdict}"
        elif corrected:
            verdict, says = UNDECIDED, "better and worse, by setting"
        elif all(pairing.corrected_verdict == EQUAL for pairing in own):
            verdict, says = EQUAL, "equal within the margin that matters"
        else:
            verdict, says = UNDECIDED, "undecided: the seeds do not tell the difference from chance"
        answers.append(
            Answer(
                f"{model}: {second}",
                verdict,
                says,
                "",
                tuple(evidence),
                advice=f"{says[0].upper()}{says[1:]}",
            )
        )
    return answers


def _note_changes(found: FolderDiff) -> list[AuditNote]:
    """Note the changes between the folders, and warn of unmatched cells and too few seeds."""
    first, second = found.names
    if found.unpaired:
        return [AuditNote(found.unpaired, warning=True)]
    evidence = [
        AuditNote(f"changed from {first} to {second}: {change}", warning=False) for change in found.changes
    ]
    for name, other, gone in ((first, second, found.unmatched[0]), (second, first, found.unmatched[1])):
        if gone:
            words = f"{pluralize(gone, 'cell')} of {name} without one of the same role in {other}: left out"
            evidence.append(AuditNote(words, warning=True))
    few = min((pairing.n for pairing in found.pairings), default=3)
    if few < 3:
        evidence.append(
            AuditNote(f"settings with {pluralize(few, 'seed')} in both: too few to decide", warning=True)
        )
    return evidence


def _verdict_table(found: FolderDiff, csv: str) -> Table:
    columns = ("model", "setting", "verdict", *found.names, "change", "diverged", "seeds", "stopwatch")
    rows = tuple(_entries(pairing) for pairing in found.pairings)
    return Table(f"{found.names[1]} beside {found.names[0]}, setting by setting", columns, rows, CAPTION, csv)


def _entries(pairing: Pairing) -> tuple[TableEntry, ...]:
    setting = pairing.setting
    same = pairing.verdict == SAME and pairing.change.n
    change = "0" if same else format_change(pairing.change, relative=pairing.relative)
    return (
        TableEntry(pairing.model),
        TableEntry(format_setting(setting.treatment, setting.quantity, [setting.at])),
        TableEntry(pairing.verdict, kind="verdict"),
        TableEntry(format_interval(pairing.first), pairing.first.estimate),
        TableEntry(format_interval(pairing.second), pairing.second.estimate),
        TableEntry(change, pairing.change.estimate),
        TableEntry(
            f"{pairing.diverged[0]} → {pairing.diverged[1]}", float(pairing.diverged[1] - pairing.diverged[0])
        ),
        TableEntry(str(pairing.n), float(pairing.n)),
        TableEntry(f"{format_number(pairing.ratio)}×" if pairing.ratio > 0 else "–", pairing.ratio),
    )


def _csv_row(pairing: Pairing) -> dict[str, object]:
    return {
        "group": pairing.model,
        **pairing.setting._asdict(),
        "metric": pairing.unit,
        "goal": pairing.goal,
        "n": pairing.n,
        **pairing.first.columns("first"),
        **pairing.second.columns("second"),
        "pairs": pairing.change.n,
        **pairing.change.columns("change"),
        "relative": pairing.relative,
        "first_diverged": pairing.diverged[0],
        "second_diverged": pairing.diverged[1],
        "stopwatch_ratio": pairing.ratio,
        "verdict": pairing.verdict,
    }

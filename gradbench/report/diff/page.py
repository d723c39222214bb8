"""The report of several results folders: what changed from the first to each other one, and by how much."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from gradbench.errors import UsageError
from gradbench.report import figures
from gradbench.report.analysis.answer import Answer
from gradbench.report.analysis.audit import Finding, audit
from gradbench.report.analysis.comparison import UNDECIDED, comparisons
from gradbench.report.analysis.tables import spread
from gradbench.report.diff.pairing import SAME, Pairing, Versus, counts, median_ratio, versus
from gradbench.report.figures import compared
from gradbench.report.figures.style import looks
from gradbench.report.load.cells import Results
from gradbench.report.render import formatting as text
from gradbench.report.render.blocks import Entry, Section, Table
from gradbench.report.render.contents import Contents

CAPTION = (
    "One row per setting that both folders ran, cells paired by seed. Metrics are means over the seeds that "
    "completed, with 95% Student t intervals; the difference is over the seeds that completed in both, second minus "
    "first. Better and worse are of the second folder: the interval of the difference, or Newcombe's interval of the "
    "difference in diverged shares, leaves out zero. Same: every seed ended with the same number to the last bit. "
    "The rows are not corrected for their number: of settings that do not differ, up to one in twenty is called "
    "better or worse. The answers above are: a folder is called better where a setting is, with an "
    "interval corrected for the number of settings (Bonferroni), and none is worse."
)


def contents(folders: Sequence[Results], names: Sequence[str]) -> tuple[Contents, dict[str, pd.DataFrame]]:
    """Return what the report says, and its tables by file name."""
    first, *others = folders
    styles = looks([group for folder in folders for group in comparisons(folder)])
    sections, tables, answers, findings = [], {}, [], []
    for number, (folder, name) in enumerate(zip(others, names[1:], strict=True), 1):
        found = versus(first, folder, (names[0], name))
        title = f"compared-{number}" if len(others) > 1 else "compared"
        tables[f"{title}.csv"] = pd.DataFrame([_numbers(pairing) for pairing in found.pairings])
        answers += _answers(found)
        findings += _findings(found)
        pictures = figures.pictures(partial(compared.draw, found, title, styles))
        shown = (
            _table(found, f"{title}.csv") if found.pairings else "No cell of one plays a role in the other."
        )
        sections.append(Section(f"{name} beside {names[0]}", [_told(found), shown, *pictures]))
    for folder, name in zip(folders, names, strict=True):
        own = [finding for finding in audit(folder, comparisons(folder)) if finding.warning]
        findings += [Finding(f"{name}: {finding.text}", warning=True) for finding in own]
    cells = [
        f"{name} {text.count(len(folder.cells), 'cell')}" for folder, name in zip(folders, names, strict=True)
    ]
    page = Contents(
        title=" beside ".join(names),
        subtitle=f"{text.listed(cells)}; each cell with its curves is in its own folder's report",
        question="What changed?",
        command="",
        answers=answers,
        sections=sections,
        findings=sorted(findings, key=lambda finding: not finding.warning),
        cells=None,
    )
    return page, tables


def check_apart(folders: Sequence[Path]) -> None:
    """Refuse to compare a folder with itself.

    Raises:
        UsageError: where two paths lead to the same folder.
    """
    seen: dict[Path, Path] = {}
    for folder in folders:
        first = seen.setdefault(folder.resolve(), folder)
        if first is not folder:
            also = "" if str(first) == str(folder) else f", also as {folder}"
            raise UsageError(
                f"{first} is given twice{also}; give two results folders to compare, or one to report on"
            )


def folder_for(folders: Sequence[Path], names: Sequence[str], out: Path | None) -> Path:
    """Return where the report goes.

    Raises:
        UsageError: where that is one of the folders, lies in one, holds results of its own, or can be no folder.
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


def _told(found: Versus) -> str:
    """Say what was changed from one folder to the other."""
    if not found.changes:
        return "Nothing that the tables record was changed between the two."
    return f"What was changed: {'; '.join(found.changes)}."


def _answers(found: Versus) -> list[Answer]:
    """Sum up each model."""
    answers = []
    second = found.names[1]
    for model in dict.fromkeys(pairing.model for pairing in found.pairings):
        own = [pairing for pairing in found.pairings if pairing.model == model]
        number = counts(own)
        parts = [f"{n} {verdict}" for verdict, n in number.items() if n]
        ratio = median_ratio(own)
        lost = [sum(pairing.diverged[place] for pairing in own) for place in (0, 1)]
        parts[0] = f"of {text.count(len(own), 'setting')}: {parts[0]}"
        told = [f"n = {text.strength('', [float(pairing.n) for pairing in own])}"]
        told += [text.listed(parts), f"diverged cells {lost[0]} → {lost[1]}"]
        if ratio > 0:
            told.append(f"{text.number(ratio)}× the step time")
        lasting = {pairing.lasting for pairing in own} - {UNDECIDED}
        if number[SAME] == len(own):
            verdict, says = SAME, "the same numbers, to the last bit"
        elif len(lasting) == 1:
            (verdict,) = lasting
            says = f"{second} is {verdict}"
        elif lasting:
            verdict, says = UNDECIDED, "better and worse, by setting"
        else:
            verdict, says = UNDECIDED, "no difference beyond chance"
        answers.append(Answer(f"{model}: {second}", says, verdict, "", " · ".join(told)))
    return answers


def _findings(found: Versus) -> list[Finding]:
    first, second = found.names
    told = [Finding(f"{first} → {second}: {change}", warning=False) for change in found.changes]
    for name, other, gone in ((first, second, found.alone[0]), (second, first, found.alone[1])):
        if gone:
            words = f"{text.count(gone, 'cell')} of {name} without one of the same role in {other}: left out"
            told.append(Finding(words, warning=True))
    few = min((pairing.n for pairing in found.pairings), default=3)
    if few < 3:
        told.append(
            Finding(f"settings with {text.count(few, 'seed')} in both: too few to decide", warning=True)
        )
    return told


def _table(found: Versus, csv: str) -> Table:
    columns = ("group", "setting", "verdict", *found.names, "difference", "diverged", "n", "step time")
    rows = tuple(_row(pairing) for pairing in found.pairings)
    return Table(f"{found.names[1]} beside {found.names[0]}, setting by setting", columns, rows, CAPTION, csv)


def _row(pairing: Pairing) -> tuple[Entry, ...]:
    setting = pairing.setting
    same = pairing.verdict == SAME and pairing.difference.n
    difference = "0" if same else text.interval(pairing.difference)
    return (
        Entry(pairing.model),
        Entry(text.setting(setting.treatment, setting.quantity, [setting.strength])),
        Entry(pairing.verdict, kind="verdict"),
        Entry(text.interval(pairing.first), pairing.first.estimate),
        Entry(text.interval(pairing.second), pairing.second.estimate),
        Entry(difference, pairing.difference.estimate),
        Entry(
            f"{pairing.diverged[0]} → {pairing.diverged[1]}", float(pairing.diverged[1] - pairing.diverged[0])
        ),
        Entry(str(pairing.n), float(pairing.n)),
        Entry(f"{text.number(pairing.ratio)}×" if pairing.ratio > 0 else "–", pairing.ratio),
    )


def _numbers(pairing: Pairing) -> dict[str, object]:
    return {
        "group": pairing.model,
        **pairing.setting._asdict(),
        "metric": pairing.unit,
        "goal": pairing.goal,
        "n": pairing.n,
        **spread(pairing.first, "first"),
        **spread(pairing.second, "second"),
        "pairs": pairing.difference.n,
        **spread(pairing.difference, "difference"),
        "first_diverged": pairing.diverged[0],
        "second_diverged": pairing.diverged[1],
        **spread(pairing.finishing, "share_difference"),
        "step_ratio": pairing.ratio,
        "verdict": pairing.verdict,
    }

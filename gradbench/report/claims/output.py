"""Write verdicts out: ``claims.csv``, tables for the terminal, and a table inside a Markdown document."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path

import pandas as pd

from gradbench.atomic import reason, unwritable, write_atomically
from gradbench.claims.conditions import ConditionResult
from gradbench.claims.contrasts import CONTRADICTED, SUPPORTED, UNDECIDED
from gradbench.errors import UsageError
from gradbench.report.claims.verdicts import (
    Verdict,
    format_chosen,
    format_condition,
    format_effect,
    format_headline,
    format_rule,
    is_results,
)
from gradbench.report.render.formatting import pluralize
from gradbench.report.render.markdown import markdown_table
from gradbench.storage.sanitize import caution

# ---- claims.csv --------------------------------------------------------------------------------------------


def write_csv(folder: Path, verdicts: Sequence[Verdict]) -> Path:
    """Write ``claims.csv`` into a folder and return its path.

    Raises:
        StorageError: it cannot be written.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    content = verdict_table(verdicts).to_csv(index=False, lineterminator="\n")
    write_atomically(folder / "claims.csv", methodcaller("write", content.encode("utf-8")))
    return folder / "claims.csv"


def csv_folder(folder: Path) -> Path:
    """Return the folder for ``claims.csv``: the tables of a results folder's report, or a folder of several itself."""
    return folder / "report" / "tables" if is_results(folder) else folder


def verdict_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Build the table of ``claims.csv``: one row per claim and condition, numbers in full."""
    rows = [_csv_row(verdict, result) for verdict in verdicts for result in verdict.judgement.results]
    return pd.DataFrame(rows)


def _csv_row(verdict: Verdict, result: ConditionResult) -> dict[str, object]:
    claim = verdict.claim
    row: dict[str, object] = {
        "experiment": verdict.experiment,
        "claim": claim.id,
        "sentence": claim.sentence,
        "rule": format_rule(claim),
        "verdict": verdict.judgement.verdict,
        "condition": format_condition(result),
        "condition_verdict": result.verdict,
        **result.effect.columns("effect"),
        "n": result.effect.n,
        "tuning_seeds": result.tuning,
        "chosen": format_chosen(result),
        "notes": "; ".join(result.notes),
        "stated": verdict.stated,
        "figure": str(verdict.figure),
        "command": verdict.command,
    }
    if result.contrasts:
        _, contrast = result.contrasts[0]
        (lost, control_lost), (n, control_n) = contrast.lost, contrast.present
        row |= {"judged": n, "lost": lost, "control_judged": control_n, "control_lost": control_lost}
        row |= contrast.interquartile_effect.columns("interquartile_mean")
        row |= contrast.lost_difference.columns("lost_difference")
        row |= contrast.improvement.columns("probability_of_improvement")
    return row | verdict.judgement.overall.columns("overall_interquartile_mean")


# ---- terminal ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TerminalTable:
    """A table to print, and the lines to print below it."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    lines: list[str]


def terminal_tables(verdicts: Sequence[Verdict]) -> list[TerminalTable]:
    """Build one table per claim, with a row per condition."""
    return [
        TerminalTable(
            f"{verdict.claim.id}. {verdict.claim.sentence}",
            ("condition", "effect [95 % interval]", "n", "verdict", "notes"),
            [_terminal_row(verdict, result) for result in verdict.judgement.results],
            [
                f"verdict: {format_headline(verdict.judgement)}",
                *([f"the claim {verdict.stated}"] if verdict.stated else []),
                f"figure: {_format_figure(verdict)}",
                *([f"command: {verdict.command}"] if verdict.command else []),
                *([f"         {why}"] if (why := caution(verdict.command)) else []),
            ],
        )
        for verdict in verdicts
    ]


def _terminal_row(verdict: Verdict, result: ConditionResult) -> tuple[str, ...]:
    notes = [note for note in (format_chosen(result), *result.notes) if note]
    return (
        format_condition(result) or "all",
        format_effect(verdict.claim, result),
        str(result.effect.n),
        result.verdict,
        "; ".join(notes) or "–",
    )


def _format_figure(verdict: Verdict) -> str:
    """Write the path of a claim's figure, with the command that draws it where it is missing."""
    if verdict.figure.is_file():
        return str(verdict.figure)
    return f"{verdict.figure} (`gradbench report {verdict.folder}` draws it)"


def summarize(verdicts: Sequence[Verdict]) -> str:
    """Count the verdicts: ``4 claims: 2 supported, 1 contradicted, 1 undecided``."""
    counts = Counter(verdict.judgement.verdict for verdict in verdicts)
    parts = [f"{counts[name]} {name}" for name in (SUPPORTED, CONTRADICTED, UNDECIDED)]
    return f"{pluralize(len(verdicts), 'claim')}: {', '.join(parts)}"


# ---- Markdown ----------------------------------------------------------------------------------------------

BEGIN, END = "<!-- claims -->", "<!-- /claims -->"
"""Lines of a Markdown document that enclose the table of claims."""


def verdict_markdown(verdicts: Sequence[Verdict]) -> str:
    """Render the table of claims in Markdown, one row each."""
    columns = ("", "claim", "effect [95 % interval]", "n", "verdict")
    rows = []
    for verdict in verdicts:
        claim, results = verdict.claim, verdict.judgement.results
        numbers = sorted({result.effect.n for result in results})
        effects = [
            ": ".join(filter(None, (format_condition(result), format_effect(claim, result))))
            for result in results
        ]
        n = " to ".join(str(number) for number in sorted({numbers[0], numbers[-1]}))
        rows.append((claim.id, claim.sentence, " · ".join(effects), n, format_headline(verdict.judgement)))
    return markdown_table(columns, rows)


def update_document(document: Path, verdicts: Sequence[Verdict]) -> None:
    """Replace the text between the lines ``BEGIN`` and ``END`` of a Markdown file with the table of claims.

    Raises:
        UsageError: the file cannot be read, or lacks these two lines.
        StorageError: it cannot be written.
    """
    try:
        words = document.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {document} ({reason(error)}); give a Markdown file") from error
    before, begin, rest = words.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UsageError(
            f"{document} has no lines {BEGIN} and {END}; write them where the table should stand"
        )
    content = f"{before}{begin}{verdict_markdown(verdicts)}\n{end}{after}".encode()
    write_atomically(document, lambda file: file.write(content))

"""What ``gradbench claims`` says: results folders found, their claims judged, tables to print."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gradbench.atomic import reason, write_atomically
from gradbench.claims.contrasts import CONTRADICTED, SUPPORTED, UNDECIDED
from gradbench.claims.findings import Finding
from gradbench.config.compose import Configs
from gradbench.errors import UsageError
from gradbench.report.claims.verdicts import (
    Verdict,
    chosen_text,
    condition_text,
    effect_text,
    frozen_experiment,
    headline,
    verdicts,
)
from gradbench.report.render import formatting as text
from gradbench.report.render.markdown import grid


@dataclass(frozen=True)
class Block:
    """A table to print, and lines below it."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    lines: list[str]


def judge(folder: Path, config_dir: Path | None = None) -> tuple[list[Verdict], list[str]]:
    """Judge the claims of a results folder, or of every results folder in one.

    Returns:
        The verdicts, and lines that a person should read before them.

    Raises:
        UsageError: where there is nothing to judge.
    """
    inside = [folder] if _is_results(folder) else sorted(filter(_is_results, folder.glob("*")))
    if not inside:
        raise UsageError(
            f"no results at {folder}; make some with `gradbench run NAME --results {folder}/NAME`, "
            "or give another folder"
        )
    found, notes = [], []
    for results in inside:
        judged = verdicts(results)
        found += judged
        notes += [] if judged else [f"{results} has no claims"]
        notes += _changed(results, Configs(config_dir))
    return found, notes


def _is_results(folder: Path) -> bool:
    return (folder / "experiment.yaml").is_file()


def _changed(results: Path, configs: Configs) -> list[str]:
    """Say where the experiment's file has changed since the results were made."""
    frozen = frozen_experiment(results)
    name, spec = str(frozen.get("experiment")), frozen.get("spec") or {}
    if name not in configs.experiments:
        return []
    try:
        now = configs.experiment(name).source
    except UsageError as error:
        return [f"the experiment's file cannot be compared with {results}: {error}"]
    changed = [key for key in ("grid", "scales", "claims") if now.get(key) != spec.get(key)]
    if not changed:
        return []
    return [
        f"{configs.experiments[name]} has changed since {results} was made ({', '.join(changed)}): "
        "claims are judged as they stood then"
    ]


def blocks(found: Sequence[Verdict]) -> list[Block]:
    """Return a table per claim, its conditions the rows."""
    return [
        Block(
            f"{one.claim.id}. {one.claim.sentence}",
            ("condition", "effect [95 % interval]", "n", "verdict", "notes"),
            [_row(one, finding) for finding in one.judgement.findings],
            [
                f"verdict: {headline(one.judgement)}",
                f"figure: {figure_text(one)}",
                *([f"command: {one.command}"] if one.command else []),
            ],
        )
        for one in found
    ]


def _row(one: Verdict, finding: Finding) -> tuple[str, ...]:
    notes = [note for note in (chosen_text(finding), *finding.notes) if note]
    return (
        condition_text(finding) or "all",
        effect_text(one.claim, finding),
        str(finding.effect.n),
        finding.verdict,
        "; ".join(notes) or "–",
    )


def figure_text(one: Verdict) -> str:
    """Return where a claim's figure is, and how to draw it where it is not."""
    drawn = one.figure.is_file()
    return str(one.figure) if drawn else f"{one.figure} (`gradbench report {one.folder}` draws it)"


def summary(found: Sequence[Verdict]) -> str:
    """Count the verdicts: ``4 claims: 2 supported, 1 contradicted, 1 undecided``."""
    counts = Counter(one.judgement.verdict for one in found)
    parts = [f"{counts[verdict]} {verdict}" for verdict in (SUPPORTED, CONTRADICTED, UNDECIDED)]
    return f"{text.count(len(found), 'claim')}: {', '.join(parts)}"


BEGIN, END = "<!-- claims -->", "<!-- /claims -->"
"""Lines of a Markdown file between which the table of claims stands."""


def markdown(found: Sequence[Verdict]) -> str:
    """Return the table of claims in Markdown, one row each."""
    columns = ("", "claim", "effect [95 % interval]", "n", "verdict")
    rows = []
    for one in found:
        findings = one.judgement.findings
        numbers = sorted({finding.effect.n for finding in findings})
        effects = [
            ": ".join(filter(None, (condition_text(finding), effect_text(one.claim, finding))))
            for finding in findings
        ]
        n = " to ".join(str(number) for number in sorted({numbers[0], numbers[-1]}))
        rows.append((one.claim.id, one.claim.sentence, " · ".join(effects), n, headline(one.judgement)))
    return grid(columns, rows)


def put_into(document: Path, found: Sequence[Verdict]) -> None:
    """Replace what stands between the lines ``BEGIN`` and ``END`` of a Markdown file with the table of claims.

    Raises:
        UsageError: where the file cannot be read, or has not these two lines.
        StorageError: where it cannot be written.
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
    content = f"{before}{begin}{markdown(found)}\n{end}{after}".encode()
    write_atomically(document, lambda file: file.write(content))


def place(folder: Path) -> Path:
    """Return where ``claims.csv`` goes: among a results folder's own tables, or beside several."""
    return folder / "report" / "tables" if _is_results(folder) else folder

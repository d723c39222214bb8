"""What ``gradbench claims`` says: results folders found, their claims judged, tables to print."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from gradbench.config import Configs
from gradbench.errors import UsageError
from gradbench.report.verdicts import (
    Verdict,
    condition_text,
    effect_text,
    frozen_experiment,
    headline,
    verdicts,
)


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
    """Return a table per experiment."""
    made = []
    for experiment, group in groupby(found, key=lambda one: (one.experiment, one.folder, one.command)):
        judged = list(group)
        rows = [row for one in judged for row in _rows(one)]
        figures = dict.fromkeys(str(one.figure) for one in judged)
        lines = [f"figure: {figure}" for figure in figures] + [f"command: {experiment[2]}"] * bool(
            experiment[2]
        )
        columns = "claim", "sentence", "effect [95 % interval]", "n", "verdict"
        made.append(Block(f"{experiment[0]} ({experiment[1]})", columns, rows, lines))
    return made


def _rows(one: Verdict) -> list[tuple[str, ...]]:
    findings = one.judgement.findings
    if len(findings) == 1:
        (finding,) = findings
        effect = effect_text(one.claim, finding)
        return [(one.claim.id, one.claim.sentence, effect, str(finding.effect.n), finding.verdict)]
    return [
        (one.claim.id, one.claim.sentence, "", "", headline(one.judgement)),
        *(
            (
                "",
                f"  {condition_text(finding)}",
                effect_text(one.claim, finding),
                str(finding.effect.n),
                finding.verdict,
            )
            for finding in findings
        ),
    ]


def place(folder: Path) -> Path:
    """Return where ``claims.csv`` goes: among a results folder's own tables, or beside several."""
    return folder / "report" / "tables" if _is_results(folder) else folder

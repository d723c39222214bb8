"""The claims of a results folder and what became of them: read from the folder alone, judged, put in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from gradbench.atomic import reason, unwritable, write_atomically
from gradbench.claims.findings import Finding
from gradbench.claims.judge import Judgement, judge
from gradbench.claims.metrics import Evidence
from gradbench.claims.schema import Claim, claims_of
from gradbench.errors import UsageError
from gradbench.report.load.cells import leaves, load
from gradbench.report.render import formatting as text
from gradbench.stats.intervals import Interval
from gradbench.storage.sanitize import escape_controls, is_cell, is_command
from gradbench.storage.schema import concat_parts, read_parts


@dataclass(frozen=True)
class Verdict:
    """A claim, what became of it, and where it comes from.

    Attributes:
        experiment: its name.
        folder: the results that were judged.
        judgement: the claim, its verdict, and what each condition says.
        command: that made the results; empty where it is not told.
    """

    experiment: str
    folder: Path
    judgement: Judgement
    command: str

    @property
    def claim(self) -> Claim:
        """The claim."""
        return self.judgement.claim

    @property
    def figure(self) -> Path:
        """The figure to look at: kept beside the tables, or in the report; that of all claims where it is not drawn."""
        report = self.folder / "report" / "figures"
        names = f"{self.claim.figure}.png", "claims.png"
        places = [place / name for name in names for place in (self.folder, report)]
        return next(filter(Path.is_file, places), report / names[0])


def verdicts(results: Path) -> list[Verdict]:
    """Judge every claim that stands in a results folder, by its own frozen file and the cells that this names.

    Raises:
        UsageError: the folder holds no cells, or its claims cannot be read.

    """
    frozen = frozen_experiment(results)
    claims = claims_of(frozen.get("spec") or {}, str(results / "experiment.yaml"))
    if not claims:
        return []
    loaded = load(results)
    cells, asked = loaded.cells, frozen.get("cells")
    if isinstance(asked, list) and asked:
        cells = cells[cells["cell"].isin([one for one in asked if is_cell(one)])]
    columns = {claim.metric for claim in claims if claim.reads_curves}
    curves = pd.DataFrame({"cell": [], "step": []})
    if columns:
        parts = read_parts(results / "curves", ["cell", "step", *sorted(columns)])
        curves = concat_parts(parts) if parts else curves
    evidence = Evidence(cells, curves, leaves(cells))
    command = str(frozen.get("command", ""))
    command = command if is_command(command) else ""
    return [Verdict(loaded.name, results, judge(claim, evidence), command) for claim in claims]


def frozen_experiment(results: Path) -> Mapping[str, Any]:
    """Return what a results folder's ``experiment.yaml`` says; empty where there is none.

    Raises:
        UsageError: where it cannot be read.

    """
    path = results / "experiment.yaml"
    try:
        frozen = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except Exception as error:  # PyYAML fails in any way at all on a tag that does not suit its value
        raise UsageError(f"cannot read {path} ({reason(error)}): run its experiment again") from error
    frozen = frozen if isinstance(frozen, dict) else {}
    spec = frozen.get("spec")
    return {**frozen, "spec": spec if isinstance(spec, dict) else {}}


# ---- words -------------------------------------------------------------------------------------------------


def effect_text(claim: Claim, finding: Finding) -> str:
    """Say how large an effect is: ``+0.12 [0.02, 0.22] accuracy; lost 0 of 6 against 4 of 6``."""
    parts = []
    if not math.isnan(finding.effect.estimate):
        parts.append(interval_text(claim, finding.effect))
    for name, found in finding.contrasts:
        if any(found.lost):
            (lost, control_lost), (n, control_n) = found.lost, found.present
            counts = f"lost {lost} of {n}, {control_lost} of {control_n}"
            parts.append(f"{counts} {name}".strip())
    return "; ".join(parts) or "–"


def interval_text(claim: Claim, effect: Interval) -> str:
    """Write an effect with its interval, as the difference or the ratio that it is."""
    return (text.ratio if claim.effect == "ratio" else text.interval)(effect)


def condition_text(finding: Finding) -> str:
    """Write ``depth = 16, lr = 0.5``; an empty string where there are no conditions."""
    return ", ".join(f"{short(key)} = {told(value)}" for key, value in finding.condition.items())


def chosen_text(finding: Finding) -> str:
    """Write what was chosen on how many seeds."""
    parts = [
        f"{name}: {', '.join(f'{short(key)} {told(value)}' for key, value in setting.items())}"
        for name, setting in finding.chosen
    ]
    return "; ".join(parts)


def headline(judgement: Judgement) -> str:
    """Write the verdict, and under which conditions where they differ."""
    by: dict[str, list[str]] = {}
    for finding in judgement.findings:
        by.setdefault(finding.verdict, []).append(condition_text(finding))
    if len(by) == 1:
        return judgement.verdict
    parts = [f"{verdict} at {'; '.join(where)}" for verdict, where in by.items()]
    return f"{judgement.verdict}: {' · '.join(parts)}"


def evidence_text(one: Verdict) -> str:
    """Say what a verdict rests on: the effect and n, or how each condition ended."""
    claim, findings = one.claim, one.judgement.findings
    if len(findings) == 1:
        (finding,) = findings
        effect = f"effect {effect_text(claim, finding)}, n = {finding.effect.n}" if finding.effect.n else ""
        return " · ".join(filter(None, (effect, *finding.notes)))
    by: dict[str, list[str]] = {}
    for finding in findings:
        by.setdefault(finding.verdict, []).append(condition_text(finding))
    parts = [f"{verdict} at {text.listed(where)}" for verdict, where in by.items()]
    parts.append(f"n = {text.strength('', [float(finding.effect.n) for finding in findings])}")
    if not math.isnan(one.judgement.overall.estimate):
        parts.append(f"interquartile mean of all {interval_text(claim, one.judgement.overall)}")
    return " · ".join(parts)


def rule_text(claim: Claim) -> str:
    """Say what decides: ``effect above 0.05 (difference of test/accuracy, paired by seed)``."""
    where = f"above {text.number(claim.least)}" if claim.sign > 0 else f"below {text.number(claim.least)}"
    if claim.apart is not None:
        where = f"more than {text.number(claim.apart)} from {text.number(claim.neutral)}, either way"
    what = {
        "final": claim.metric,
        "mean": f"mean over steps of {claim.metric}",
        "steps_to": f"steps to {text.number(claim.level or 0)} of {claim.metric}",
        "equal_seconds": f"{claim.metric} at equal wall-clock time",
        "distance": f"distance from {text.number(claim.level or 0)} of {claim.metric}",
    }[claim.take]
    of_test = {
        "contrast": f"{claim.effect} of {what}",
        "trend": f"slope of the {claim.effect} of {what}, per tenfold {claim.along}",
        "interior": f"{claim.effect} of {what}, best {claim.along} inside against both ends",
        "shift": f"slope of the best {claim.along} for {what} along {claim.versus}, both logarithms",
    }[claim.test]
    return f"{of_test}: {where}"


def short(key: str) -> str:
    """Return a key without its group."""
    return escape_controls(key.rsplit(".", 1)[-1])


def told(value: object) -> str:
    """Return a setting's value as words."""
    return text.number(float(value)) if isinstance(value, int | float) else escape_controls(str(value))


# ---- tables ------------------------------------------------------------------------------------------------


def write(place: Path, found: Sequence[Verdict]) -> Path:
    """Write ``claims.csv`` into a folder and return its path.

    Raises:
        StorageError: where it cannot be written.

    """
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(place, error) from error
    content = table(found).to_csv(index=False, lineterminator="\n")
    write_atomically(place / "claims.csv", methodcaller("write", content.encode("utf-8")))
    return place / "claims.csv"


def table(found: Sequence[Verdict]) -> pd.DataFrame:
    """Return one row per claim and condition: numbers in full, as they are written to ``claims.csv``."""
    return pd.DataFrame([_row(one, finding) for one in found for finding in one.judgement.findings])


def _row(one: Verdict, finding: Finding) -> dict[str, object]:
    claim = one.claim
    row: dict[str, object] = {
        "experiment": one.experiment,
        "claim": claim.id,
        "sentence": claim.sentence,
        "rule": rule_text(claim),
        "verdict": one.judgement.verdict,
        "condition": condition_text(finding),
        "condition_verdict": finding.verdict,
        **_spread("effect", finding.effect),
        "n": finding.effect.n,
        "tuning_seeds": finding.tuning,
        "chosen": chosen_text(finding),
        "notes": "; ".join(finding.notes),
        "figure": str(one.figure),
        "command": one.command,
    }
    if finding.contrasts:
        _, found = finding.contrasts[0]
        (lost, control_lost), (n, control_n) = found.lost, found.present
        row |= {"judged": n, "lost": lost, "control_judged": control_n, "control_lost": control_lost}
        row |= _spread("interquartile_mean", found.middle) | _spread("lost_difference", found.losses)
        row |= _spread("probability_of_improvement", found.improvement)
    return row | _spread("overall_interquartile_mean", one.judgement.overall)


def _spread(name: str, interval: Interval) -> dict[str, object]:
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}

"""What was compared with what: versions, devices, budgets, seeds, missing cells; warnings first."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from gradbench.report.analysis.comparison import Comparison
from gradbench.report.load.cells import NONE, Results
from gradbench.report.render import formatting as text

VERSIONS = {
    "gradbench": "gradbench",
    "torch": "torch",
    "python": "Python",
    "device": "device",
    "device_name": "device name",
    "git_commit": "commit",
}


@dataclass(frozen=True)
class Finding:
    """A line of the audit."""

    text: str
    warning: bool


def audit(results: Results, comparisons: Sequence[Comparison], notes: Sequence[str] = ()) -> list[Finding]:
    """Return the findings, warnings first; ``notes`` are what reading the curves had to decide."""
    findings = [Finding(note, warning=True) for note in (*results.notes, *notes)]
    findings += _outcomes(results)
    for comparison in comparisons:
        findings += _mixed(comparison) + _seeds(comparison)
    findings += _apart(results, comparisons) + _provenance(results) + _rules(results)
    return sorted(findings, key=lambda finding: not finding.warning)


def _outcomes(results: Results) -> list[Finding]:
    cells = results.cells
    counts = cells["status"].value_counts()
    words = [f"{counts.get(status, 0)} {status}" for status in ("completed", "diverged", "failed")]
    found = [Finding(f"{text.count(len(cells), 'cell')}: {text.listed(words)}", warning=False)]
    failed = cells[cells["status"] == "failed"]
    if len(failed):
        error = failed["error"].dropna() if "error" in failed else pd.Series(dtype=str)
        reason = f", the first with: {str(error.iloc[0]).splitlines()[0]}" if len(error) else ""
        found.append(
            Finding(
                f"{text.count(len(failed), 'cell')} failed and left out of every number{reason}", warning=True
            )
        )
    lacking = cells[(cells["status"] == "completed") & cells["value"].isna()]
    if len(lacking):
        names = text.listed(sorted(lacking["model.metric"].astype(str).unique()))
        found.append(
            Finding(f"{text.count(len(lacking), 'completed cell')} without a value of {names}", warning=True)
        )
    return found


def _mixed(comparison: Comparison) -> list[Finding]:
    """Warn where cells that are compared were made by different programs or machines."""
    found = []
    for column, name in VERSIONS.items():
        if column in comparison.cells:
            counts = comparison.cells[column].fillna("unknown").astype(str).value_counts().sort_index()
            if len(counts) > 1:
                words = text.listed([f"{value} ({n} cells)" for value, n in counts.items()])
                found.append(
                    Finding(f"{comparison.label} mixes several values of {name}: {words}", warning=True)
                )
    return found


def _seeds(comparison: Comparison) -> list[Finding]:
    """Warn where settings have unequal seeds, too few of them, or nothing to be compared with."""
    seeds = set(comparison.cells["seed"])
    found = []
    holes = {s: seeds - set(comparison.at(s)["seed"]) for s in comparison.settings}
    short = {setting: gone for setting, gone in holes.items() if gone}
    if short:
        named = [text.setting(s.treatment, s.quantity, [s.strength]) for s in list(short)[:4]]
        more = f" and {len(short) - 4} more settings" if len(short) > 4 else ""
        missing = sum(map(len, short.values()))
        where = f"{', '.join(named)}{more}"
        words = f"{comparison.label} misses {text.count(missing, 'cell')} of its grid, in {where}"
        found.append(Finding(f"{words}: seed counts differ between what is compared", warning=True))
    if len(seeds) < 3:
        words = f"{comparison.label} has {text.count(len(seeds), 'seed')}: too few to decide anything"
        found.append(Finding(f"{words}; add some, such as seed=range(5)", warning=True))
    if NONE not in comparison.treatments:
        found.append(Finding(f"{comparison.label} has no cells of none to compare with", warning=True))
    return found


def _apart(results: Results, comparisons: Sequence[Comparison]) -> list[Finding]:
    """Say which models were run in several versions, and that those are never averaged."""
    found = []
    for model in dict.fromkeys(comparison.model for comparison in comparisons):
        labels = [f"“{comparison.label}”" for comparison in comparisons if comparison.model == model]
        if len(labels) > 1:
            words = f"{model} was run in {len(labels)} ways, kept apart: {text.listed(labels)}"
            found.append(Finding(words, warning=True))
    for name, cells in results.cells.groupby("model"):
        parts = [text.count(cells["seed"].nunique(), "seed")]
        for leaf in ("steps", "precision", "optimizer.lr", "data"):
            if leaf in cells:
                values = cells[leaf].drop_duplicates().sort_values().tolist()
                words = text.listed([text.number(v) if isinstance(v, float) else str(v) for v in values])
                parts.append(f"{leaf} {words}")
        found.append(Finding(f"{name}: {', '.join(parts)}", warning=False))
        if "steps" in cells and cells["steps"].nunique() > 1:
            found.append(Finding(f"{name} was trained with different budgets of steps", warning=True))
    return found


def _provenance(results: Results) -> list[Finding]:
    found = []
    for column, name in VERSIONS.items():
        if column in results.cells:
            values = sorted(results.cells[column].dropna().astype(str).unique())
            found.append(Finding(f"{name}: {text.listed(values) or 'unknown'}", warning=False))
    if "git_dirty" in results.cells:
        dirty = int(results.cells["git_dirty"].fillna(False).astype(bool).sum())
        if dirty:
            words = f"{text.count(dirty, 'cell')} made from a working tree with uncommitted changes"
            found.append(Finding(words, warning=True))
    if "data_sha256" in results.cells and "data" in results.cells:
        pairs = (
            results.cells[["data", "data_sha256"]]
            .dropna()
            .drop_duplicates()
            .sort_values(["data", "data_sha256"])
        )
        found += [
            Finding(f"data {d}: sha256 {str(h)[:16]}…", warning=False)
            for d, h in zip(*pairs.T.values, strict=True)
        ]
    return found


def _rules(results: Results) -> list[Finding]:
    """Print the rule by which cells counted as diverged."""
    columns = [column for column in results.cells if str(column).startswith("divergence.")]
    if not columns:
        return []
    found = []
    for rule in results.cells[columns].drop_duplicates().to_dict("records"):
        words = ", ".join(f"{leaf}={value}" for leaf, value in rule.items())
        rules = (
            "diverged means: a loss or gradient that is not finite, parameters or a compared metric that are not "
            f"finite at the end, or the rule {words}"
        )
        found.append(Finding(rules, warning=False))
    return found

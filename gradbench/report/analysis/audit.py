"""List what was compared: versions, devices, budgets, seeds and missing cells; warnings first."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from gradbench.config.identity import SOURCE
from gradbench.report.analysis.comparison import ComparisonGroup
from gradbench.report.load.cells import NONE, LoadedResults, config_columns
from gradbench.report.load.read import to_numbers
from gradbench.report.render.formatting import format_number, format_setting, join_words, pluralize

VERSIONS = {
    "gradbench": "gradbench",
    "torch": "torch",
    "python": "Python",
    "device": "device",
    "device_name": "device name",
    "git_commit": "commit",
}


@dataclass(frozen=True)
class AuditNote:
    """A line of the audit, and whether it is a warning."""

    text: str
    warning: bool


def audit(
    results: LoadedResults, comparisons: Sequence[ComparisonGroup], read_notes: Sequence[str] = ()
) -> list[AuditNote]:
    """List the notes of the audit, warnings first; ``read_notes`` are warnings from reading the curves."""
    notes = [AuditNote(note, warning=True) for note in (*results.notes, *read_notes)]
    notes += _note_outcomes(results)
    for comparison in comparisons:
        notes += _warn_of_mixed_versions(comparison) + _warn_of_seeds(comparison)
        notes += [AuditNote(line, warning=False) for line in note_widths(comparison)]
    notes += _note_budgets(results, comparisons) + _note_text(results)
    notes += _note_provenance(results) + _note_divergence_rules(results)
    return sorted(notes, key=lambda note: not note.warning)


def _note_outcomes(results: LoadedResults) -> list[AuditNote]:
    """Note how many cells completed, diverged and failed, and warn of missing values."""
    cells = results.cells
    counts = cells["status"].value_counts()
    words = [f"{counts.get(status, 0)} {status}" for status in ("completed", "diverged", "failed")]
    found = [AuditNote(f"{pluralize(len(cells), 'cell')}: {join_words(words)}", warning=False)]
    failed = cells[cells["status"] == "failed"]
    if len(failed):
        error = failed["error"].dropna() if "error" in failed else pd.Series(dtype=str)
        reason = f", the first with: {str(error.iloc[0]).splitlines()[0]}" if len(error) else ""
        found.append(
            AuditNote(
                f"{pluralize(len(failed), 'cell')} failed and left out of every number{reason}", warning=True
            )
        )
    lacking = cells[(cells["status"] == "completed") & cells["value"].isna()]
    if len(lacking):
        names = join_words(sorted(lacking["model.metric"].astype(str).unique()))
        found.append(
            AuditNote(f"{pluralize(len(lacking), 'completed cell')} without a value of {names}", warning=True)
        )
    return found


def _warn_of_mixed_versions(comparison: ComparisonGroup) -> list[AuditNote]:
    """Warn if the cells of a comparison were made with different versions, devices or commits."""
    found = []
    for column, name in VERSIONS.items():
        if column in comparison.cells:
            counts = comparison.cells[column].fillna("unknown").astype(str).value_counts().sort_index()
            if len(counts) > 1:
                words = join_words([f"{value} ({n} cells)" for value, n in counts.items()])
                found.append(
                    AuditNote(f"{comparison.label} mixes several values of {name}: {words}", warning=True)
                )
    return found


def note_widths(comparison: ComparisonGroup) -> list[str]:
    """Return a line if cells whose numbers depend on the width of their stack were trained at different widths."""
    cells = comparison.cells
    if not {"width", "exact"} <= set(cells):
        return []
    widths = cells.loc[cells["exact"] == 0, "width"].dropna().astype(int)
    if widths.nunique() < 2:
        return []
    return [
        f"{comparison.label}: cells were trained in stacks of {widths.min()} to {widths.max()} cells; the last digits "
        "of their numbers depend on that, and in a long training further ones"
    ]


def _warn_of_seeds(comparison: ComparisonGroup) -> list[AuditNote]:
    """Warn if settings have unequal seeds, too few of them, or no ``none`` to compare with."""
    seeds = set(comparison.cells["seed"])
    found = []
    holes = {s: seeds - set(comparison.cells_at(s)["seed"]) for s in comparison.settings}
    short = {setting: gone for setting, gone in holes.items() if gone}
    if short:
        named = [format_setting(s.treatment, s.quantity, [s.at]) for s in list(short)[:4]]
        more = f" and {len(short) - 4} more settings" if len(short) > 4 else ""
        missing = sum(map(len, short.values()))
        where = f"{', '.join(named)}{more}"
        words = f"{comparison.label} misses {pluralize(missing, 'cell')} of its grid, in {where}"
        found.append(AuditNote(f"{words}: seed counts differ between what is compared", warning=True))
    if len(seeds) < 3:
        words = f"{comparison.label} has {pluralize(len(seeds), 'seed')}: too few to decide anything"
        found.append(AuditNote(f"{words}; add some, such as seed=range(5)", warning=True))
    if NONE not in comparison.treatments:
        found.append(AuditNote(f"{comparison.label} has no cells of none to compare with", warning=True))
    return found


def _note_budgets(results: LoadedResults, comparisons: Sequence[ComparisonGroup]) -> list[AuditNote]:
    """Note each model's seeds and budget, and warn of models that were run in several ways."""
    found = []
    for model in dict.fromkeys(comparison.model for comparison in comparisons):
        labels = [f"“{comparison.label}”" for comparison in comparisons if comparison.model == model]
        if len(labels) > 1:
            words = f"{model} was run in {len(labels)} ways, kept apart: {join_words(labels)}"
            found.append(AuditNote(words, warning=not _was_asked_for(results.cells, model)))
    for name, cells in results.cells.groupby("model"):
        parts = [pluralize(cells["seed"].nunique(), "seed")]
        for leaf in ("steps", "precision", "optimizer.lr", "data"):
            if leaf in cells:
                values = cells[leaf].drop_duplicates().sort_values().tolist()
                words = join_words([format_number(v) if isinstance(v, float) else str(v) for v in values])
                parts.append(f"{leaf} {words}")
        found.append(AuditNote(f"{name}: {', '.join(parts)}", warning=False))
        if "steps" in cells and cells["steps"].nunique() > 1:
            found.append(AuditNote(f"{name} was trained with different budgets of steps", warning=True))
    return found


def _was_asked_for(cells: pd.DataFrame, model: str) -> bool:
    """Return whether what keeps a model's comparisons apart was typed: keys, and not only hashes of code or data."""
    rows = cells[cells["model"] == model]
    keys = [
        column
        for column in config_columns(rows)
        if column != "seed" and not column.startswith("regularizer") and not column.endswith(SOURCE)
    ]
    return len(rows[keys].astype(str).drop_duplicates()) >= rows["comparison"].nunique()


def _note_text(results: LoadedResults) -> list[AuditNote]:
    """Note how much of a test text evaluations read, and how much of it is unknown words, unless all and none."""
    says = {
        "test/read": "of the test text was read by each evaluation, from its beginning (model.evaluation_tokens)",
        "test/unknown": "of the test text's tokens are <unk>",
    }
    found = []
    for column, words in says.items():
        cells = results.cells
        if not {column, "data"} <= set(cells):
            continue
        whole = column == "test/read"
        shares = cells.assign(share=to_numbers(cells[column]))[["model", "data", "share"]].dropna()
        for model, data, share in shares.drop_duplicates().itertuples(index=False):
            if share != whole:
                found.append(
                    AuditNote(f"{model} on {data}: {format_number(100 * share)} % {words}", warning=False)
                )
    return found


def _note_provenance(results: LoadedResults) -> list[AuditNote]:
    """Note the versions, devices and data hashes of all cells, and warn of uncommitted code."""
    found = []
    for column, name in VERSIONS.items():
        if column in results.cells:
            values = sorted(results.cells[column].dropna().astype(str).unique())
            found.append(AuditNote(f"{name}: {join_words(values) or 'unknown'}", warning=False))
    if "git_dirty" in results.cells:
        dirty = int(results.cells["git_dirty"].fillna(False).astype(bool).sum())
        if dirty:
            words = f"{pluralize(dirty, 'cell')} made from a working tree with uncommitted changes"
            found.append(AuditNote(words, warning=True))
    if "data_sha256" in results.cells and "data" in results.cells:
        pairs = (
            results.cells[["data", "data_sha256"]]
            .dropna()
            .drop_duplicates()
            .sort_values(["data", "data_sha256"])
        )
        found += [
            AuditNote(f"data {d}: sha256 {str(h)[:16]}…", warning=False)
            for d, h in zip(*pairs.T.values, strict=True)
        ]
    return found


def _note_divergence_rules(results: LoadedResults) -> list[AuditNote]:
    """Note the rule by which cells count as diverged."""
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
        found.append(AuditNote(rules, warning=False))
    return found

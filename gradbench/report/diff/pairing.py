"""Results folders side by side: the same settings, seed by seed, in one folder and in another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd

from gradbench.report.analysis.audit import VERSIONS
from gradbench.report.analysis.comparison import BETTER, UNDECIDED, WORSE, Setting
from gradbench.report.load.cells import Results, leaves
from gradbench.report.render import formatting as text
from gradbench.stats import intervals as stats
from gradbench.stats.intervals import CONFIDENCE, Interval

SAME = "same"
ROLE = ("treatment", "quantity", "strength", "seed")


@dataclass(frozen=True)
class Pairing:
    """One setting of a model in two folders, cells paired by seed. Differences are second minus first."""

    model: str  # with what else sets its cells apart
    unit: str
    goal: str
    setting: Setting
    first: Interval
    second: Interval
    difference: Interval
    diverged: tuple[int, int]
    n: int
    finishing: Interval  # difference of the shares that diverged
    ratio: float  # of median step times
    verdict: str  # of the second: better, worse, undecided; same where every pair is alike to the last bit
    lasting: (
        str  # better, worse or undecided, with the interval corrected for the number of the model's settings
    )


@dataclass(frozen=True)
class Versus:
    """Two folders beside each other."""

    names: tuple[str, str]
    changes: tuple[str, ...]  # what is different, in words
    pairings: tuple[Pairing, ...]
    alone: tuple[int, int]  # cells of either that the other has no match for


def versus(first: Results, second: Results, names: tuple[str, str]) -> Versus:
    """Pair the cells of two folders and judge each setting."""
    joined, changes, lonely = [], [], [0, 0]
    models = dict.fromkeys([*first.cells["model"], *second.cells["model"]])
    for model in models:
        a, b = (folder.cells[folder.cells["model"] == model] for folder in (first, second))
        key, changed = _key(a, b)
        changes += [f"{model}: {words}" for words in changed]
        pairs = _paired(a, b, key) if len(a) and len(b) else a.iloc[:0]
        lonely[0] += len(a) - len(pairs)
        lonely[1] += len(b) - len(pairs)
        if len(pairs):
            joined.append((model, key, pairs))
    changes += _provenance(first.cells, second.cells)
    found = [pairing for model, key, pairs in joined for pairing in _pairings(model, key, pairs)]
    return Versus(names, tuple(changes), tuple(found), (lonely[0], lonely[1]))


def _key(a: pd.DataFrame, b: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return the leaves that cells must agree in, beside their role, and those in which the folders differ.

    A leaf with one value throughout each folder, and not the same one, is what was changed between them: it is
    told, and does not keep cells from being paired.
    """
    key, changed = [], []
    for leaf in dict.fromkeys([*leaves(a), *leaves(b), "data_sha256"]):
        mine, yours = _values(a, leaf), _values(b, leaf)
        if leaf == "seed" or leaf.startswith("regularizer") or not mine or not yours:
            continue
        if len(mine) == len(yours) == 1:
            changed += [f"{leaf} {mine[0][:24]} → {yours[0][:24]}"] if mine != yours else []
        elif leaf in a and leaf in b:
            key.append(leaf)
    return key, changed


def _values(cells: pd.DataFrame, column: str) -> list[str]:
    if column not in cells:
        return ["absent"] if len(cells) else []
    return sorted({text.value(value) for value in cells[column].unique()})


def _provenance(a: pd.DataFrame, b: pd.DataFrame) -> list[str]:
    """Say what made the cells of one folder and not those of the other."""
    changes = []
    for column, name in VERSIONS.items():
        mine, yours = ([value[:16] for value in _values(cells.dropna(subset=[column]), column)]
                       if column in cells else [] for cells in (a, b))  # fmt: skip
        if mine != yours:
            changes.append(f"{name} {' and '.join(mine) or 'unknown'} → {' and '.join(yours) or 'unknown'}")
    return changes


def _paired(a: pd.DataFrame, b: pd.DataFrame, key: Sequence[str]) -> pd.DataFrame:
    """Put each cell beside the one that plays its role in the other folder: columns of it end in ``_b``."""
    kept = ["cell", "status", "value", "score", "model.metric", "model.goal"]
    kept += [name for name in ("model.unit", "step_seconds") if name in a and name in b]
    on = [*ROLE, *key]
    written = [{leaf: cells[leaf].map(text.value) for leaf in key} for cells in (a, b)]
    frames = [cells[[*on, *kept]].assign(**told) for cells, told in zip((a, b), written, strict=True)]
    return frames[0].merge(frames[1], on=on, suffixes=("", "_b"))  # missing strengths match one another


def _pairings(model: str, key: Sequence[str], pairs: pd.DataFrame) -> Iterator[Pairing]:
    varying = [leaf for leaf in key if pairs[leaf].nunique() > 1]
    by = [*varying, "treatment", "quantity", "strength"]
    groups = list(pairs.groupby(by, dropna=False, sort=True))
    for values, rows in groups:
        settings = ", ".join(
            f"{leaf.rsplit('.', 1)[-1]}={value}" for leaf, value in zip(varying, values, strict=False)
        )
        first = rows.iloc[0]
        strength = float(first["strength"])
        setting = Setting(
            str(first["treatment"]), str(first["quantity"]), None if np.isnan(strength) else strength
        )
        yield _pairing(f"{model} ({settings})" if settings else model, setting, rows, len(groups))


def _pairing(model: str, setting: Setting, rows: pd.DataFrame, settings: int) -> Pairing:
    ran = rows[(rows["status"] != "failed") & (rows["status_b"] != "failed")]
    lost = [int((ran[column] == "diverged").sum()) for column in ("status", "status_b")]
    goal = str(rows["model.goal"].iloc[0])
    n = len(ran)
    difference, finishing = _differences(ran, lost, CONFIDENCE)
    corrected = _differences(ran, lost, 1 - (1 - CONFIDENCE) / settings)  # Bonferroni
    alike = n > 0 and bool((ran["score"] == ran["score_b"]).all())
    unit = rows["model.unit"].iloc[0] if "model.unit" in rows else None
    timed = "step_seconds" in rows
    return Pairing(
        model=model,
        unit=unit if isinstance(unit, str) and unit else str(rows["model.metric"].iloc[0]),
        goal=goal,
        setting=setting,
        first=stats.mean_interval(ran["value"]),
        second=stats.mean_interval(ran["value_b"]),
        difference=difference,
        diverged=(lost[0], lost[1]),
        n=n,
        finishing=finishing,
        ratio=float(rows["step_seconds_b"].median() / rows["step_seconds"].median()) if timed else np.nan,
        verdict=SAME if alike else _verdict(goal, difference, finishing),
        lasting=_verdict(goal, *corrected),
    )


def _differences(ran: pd.DataFrame, lost: Sequence[int], confidence: float) -> tuple[Interval, Interval]:
    """Return the differences of the metric and of the shares that diverged, second minus first."""
    difference = stats.paired_difference(ran["value_b"], ran["value"], confidence=confidence)
    n = len(ran)
    if not n:
        return difference, Interval(np.nan, np.nan, np.nan, 0)
    return difference, stats.share_difference(lost[1], n, lost[0], n, confidence=confidence)


def _verdict(goal: str, difference: Interval, finishing: Interval) -> str:
    worse = difference.sign * (-1 if goal == "max" else 1) + finishing.sign
    return BETTER if worse < 0 else WORSE if worse > 0 else UNDECIDED


def counts(pairings: Sequence[Pairing]) -> dict[str, int]:
    """Count the verdicts, in the order in which they are told."""
    verdicts = [pairing.verdict for pairing in pairings]
    return {name: verdicts.count(name) for name in (BETTER, WORSE, UNDECIDED, SAME)}


def median_ratio(pairings: Sequence[Pairing]) -> float:
    """Return the typical ratio of step times."""
    known = [pairing.ratio for pairing in pairings if pairing.ratio > 0]
    return float(np.median(known)) if known else np.nan


def names(paths: Sequence[str]) -> list[str]:
    """Return short names for folders: the last part of each path, or as many as tell them apart."""
    parts = [path.strip("/").split("/") for path in paths]
    longest = max(map(len, parts))
    for depth in range(1, longest + 1):
        short = ["/".join(part[-depth:]) for part in parts]
        if len(set(short)) == len(short):
            return short
    return reduce(lambda found, path: [*found, f"{path} ({len(found) + 1})"], paths, list[str]())

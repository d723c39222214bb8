"""Pair the cells of two results folders by setting and seed, and judge each setting."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd

from gradbench.config.identity import SOURCE
from gradbench.report.analysis.audit import VERSIONS
from gradbench.report.analysis.comparison import BETTER, UNDECIDED, WORSE, Setting
from gradbench.report.load.cells import LoadedResults, config_columns, follows_from_node
from gradbench.report.load.read import ADDED
from gradbench.report.render.formatting import format_value
from gradbench.stats.intervals import (
    CONFIDENCE,
    NO_VALUES,
    Interval,
    mean_interval,
    paired_difference,
    share_difference,
)

SAME = "same"
ROLE = ("treatment", "quantity", "strength", "strengths", "seed")


@dataclass(frozen=True)
class Pairing:
    """One setting of a model in two folders, cells paired by seed. Differences are second minus first."""

    model: str  # name of the model, with the config values that set its cells apart
    unit: str
    goal: str
    setting: Setting
    first: Interval
    second: Interval
    difference: Interval
    diverged: tuple[int, int]
    n: int
    diverged_difference: Interval  # difference of diverged shares
    ratio: float  # of the median step times while the sweeps ran: load, device and width of stacks are in it
    verdict: str  # on the second folder: better, worse, undecided, or same if every pair has equal numbers
    corrected_verdict: str  # better, worse or undecided, corrected for the number of the model's settings


@dataclass(frozen=True)
class FolderDiff:
    """The differences between two results folders."""

    names: tuple[str, str]
    changes: tuple[str, ...]  # changed config values, versions and devices, in words
    pairings: tuple[Pairing, ...]
    unmatched: tuple[int, int]  # number of cells of each folder without a match in the other


def diff_folders(first: LoadedResults, second: LoadedResults, names: tuple[str, str]) -> FolderDiff:
    """Pair the cells of two folders and judge each setting."""
    joined, changes, unmatched = [], [], [0, 0]
    models = dict.fromkeys([*first.cells["model"], *second.cells["model"]])
    for model in models:
        a, b = (folder.cells[folder.cells["model"] == model] for folder in (first, second))
        key, changed = _split_leaves(a, b)
        changes += [f"{model}: {words}" for words in changed]
        pairs = _pair_cells(a, b, key) if len(a) and len(b) else a.iloc[:0]
        unmatched[0] += len(a) - len(pairs)
        unmatched[1] += len(b) - len(pairs)
        if len(pairs):
            joined.append((model, key, pairs))
    changes += _provenance_changes(first.cells, second.cells)
    found = [pairing for model, key, pairs in joined for pairing in _pair_settings(model, key, pairs)]
    return FolderDiff(names, tuple(changes), tuple(found), (unmatched[0], unmatched[1]))


def _split_leaves(a: pd.DataFrame, b: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Split the config leaves into those that paired cells must agree in, and those changed between the folders.

    A leaf with a single value in each folder, but not the same one, was changed: it is reported and ignored in
    pairing. So is the hash of a network's source where each folder has one per network: it was edited in between.
    """
    key, changed = [], []
    for leaf in dict.fromkeys([*config_columns(a), *config_columns(b), "data_sha256"]):
        mine, yours = _list_values(a, leaf), _list_values(b, leaf)
        if leaf == "seed" or leaf.startswith("regularizer") or not mine or not yours:
            continue
        if len(mine) == len(yours) == 1:
            changed += [f"{leaf} {mine[0][:24]} → {yours[0][:24]}"] if mine != yours else []
        elif leaf.endswith(SOURCE) and follows_from_node(leaf, a) and follows_from_node(leaf, b):
            changed += (
                [f"the source of {leaf.removesuffix(f'.{SOURCE}')} was edited"] if mine != yours else []
            )
        elif leaf in a and leaf in b:
            key.append(leaf)
    return key, changed


def _list_values(cells: pd.DataFrame, column: str) -> list[str]:
    """List the distinct values of a column, as text; ``absent`` for a missing column, unless it came later."""
    if column not in cells:
        return [format_value(ADDED.get(column, "absent"))] if len(cells) else []
    return sorted({format_value(value) for value in cells[column].unique()})


def _provenance_changes(a: pd.DataFrame, b: pd.DataFrame) -> list[str]:
    """List the versions, devices and commits that differ between the folders."""
    changes = []
    for column, name in VERSIONS.items():
        mine, yours = ([value[:16] for value in _list_values(cells.dropna(subset=[column]), column)]
                       if column in cells else [] for cells in (a, b))  # fmt: skip
        if mine != yours:
            changes.append(f"{name} {' and '.join(mine) or 'unknown'} → {' and '.join(yours) or 'unknown'}")
    return changes


def _pair_cells(a: pd.DataFrame, b: pd.DataFrame, key: Sequence[str]) -> pd.DataFrame:
    """Merge each cell with the one of the same role in the other folder, whose columns end in ``_b``."""
    kept = ["cell", "status", "value", "score", "model.metric", "model.goal"]
    kept += [name for name in ("model.unit", "step_seconds") if name in a and name in b]
    on = [*ROLE, *key]
    written = [{leaf: cells[leaf].map(format_value) for leaf in key} for cells in (a, b)]
    frames = [cells[[*on, *kept]].assign(**texts) for cells, texts in zip((a, b), written, strict=True)]
    return frames[0].merge(frames[1], on=on, suffixes=("", "_b"))  # missing strengths match one another


def _pair_settings(model: str, key: Sequence[str], pairs: pd.DataFrame) -> Iterator[Pairing]:
    """Group the paired cells of a model by setting and judge each group."""
    varying = [leaf for leaf in key if pairs[leaf].nunique() > 1]
    by = [*varying, "treatment", "quantity", "strength", "strengths"]
    groups = list(pairs.groupby(by, dropna=False, sort=True))
    for values, rows in groups:
        settings = ", ".join(
            f"{leaf.rsplit('.', 1)[-1]}={value}" for leaf, value in zip(varying, values, strict=False)
        )
        first = rows.iloc[0]
        where = f"{model} ({settings})" if settings else model
        yield _judge_setting(where, Setting.of(first.to_dict()), rows, len(groups))


def _judge_setting(model: str, setting: Setting, rows: pd.DataFrame, settings: int) -> Pairing:
    """Judge one setting from its paired cells; ``settings`` is the number of settings to correct for."""
    ran = rows[(rows["status"] != "failed") & (rows["status_b"] != "failed")]
    lost = [int((ran[column] == "diverged").sum()) for column in ("status", "status_b")]
    goal = str(rows["model.goal"].iloc[0])
    n = len(ran)
    difference, diverged_difference = _differences(ran, lost, CONFIDENCE)
    corrected = _differences(ran, lost, 1 - (1 - CONFIDENCE) / settings)  # Bonferroni
    alike = n > 0 and bool((ran["score"] == ran["score_b"]).all())
    unit = rows["model.unit"].iloc[0] if "model.unit" in rows else None
    timed = "step_seconds" in rows
    return Pairing(
        model=model,
        unit=unit if isinstance(unit, str) and unit else str(rows["model.metric"].iloc[0]),
        goal=goal,
        setting=setting,
        first=mean_interval(ran["value"]),
        second=mean_interval(ran["value_b"]),
        difference=difference,
        diverged=(lost[0], lost[1]),
        n=n,
        diverged_difference=diverged_difference,
        ratio=float(rows["step_seconds_b"].median() / rows["step_seconds"].median()) if timed else np.nan,
        verdict=SAME if alike else _judge_differences(goal, difference, diverged_difference),
        corrected_verdict=_judge_differences(goal, *corrected),
    )


def _differences(ran: pd.DataFrame, lost: Sequence[int], confidence: float) -> tuple[Interval, Interval]:
    """Compute the differences of the metric and of the diverged shares, second minus first."""
    difference = paired_difference(ran["value_b"], ran["value"], confidence=confidence)
    n = len(ran)
    if not n:
        return difference, NO_VALUES
    return difference, share_difference(lost[1], n, lost[0], n, confidence=confidence)


def _judge_differences(goal: str, difference: Interval, diverged_difference: Interval) -> str:
    """Judge the second folder by the signs of two intervals. Used by ``gradbench report FOLDER FOLDER``."""
    worse = difference.sign * (-1 if goal == "max" else 1) + diverged_difference.sign
    return BETTER if worse < 0 else WORSE if worse > 0 else UNDECIDED


def count_verdicts(pairings: Sequence[Pairing]) -> dict[str, int]:
    """Count the settings with each verdict."""
    verdicts = [pairing.verdict for pairing in pairings]
    return {name: verdicts.count(name) for name in (BETTER, WORSE, UNDECIDED, SAME)}


def short_names(paths: Sequence[str]) -> list[str]:
    """Shorten paths of folders to as many of their last parts as make them distinct."""
    parts = [path.strip("/").split("/") for path in paths]
    longest = max(map(len, parts))
    for depth in range(1, longest + 1):
        short = ["/".join(part[-depth:]) for part in parts]
        if len(set(short)) == len(short):
            return short
    return reduce(lambda found, path: [*found, f"{path} ({len(found) + 1})"], paths, list[str]())

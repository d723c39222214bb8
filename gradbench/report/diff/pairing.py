"""Pair the cells of two results folders by setting and seed, and judge each setting."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd

from gradbench.config.identity import SOURCE
from gradbench.report.analysis.audit import VERSIONS
from gradbench.report.analysis.comparison import Setting, margin_of, scale_of_cells
from gradbench.report.load.cells import LoadedResults, abbreviations, config_columns, follows_from_node
from gradbench.report.load.read import ADDED
from gradbench.report.render.formatting import format_strength, format_value
from gradbench.stats.decisions import (
    BETTER,
    EQUAL,
    NO_BETTER,
    UNDECIDED,
    WORSE,
    Comparison,
    Margins,
    compare_settings,
    judge_arm,
)
from gradbench.stats.intervals import Floats, Interval, mean_interval
from gradbench.stats.scales import Scale

SAME = "same"
READING = ("model.scale", "model.margin", "test_examples")
"""Columns of the first folder that say how a metric is read."""
ROLE = ("treatment", "quantity", "strength", "strengths", "seed")


@dataclass(frozen=True)
class Pairing:
    """One setting of a model in two folders, cells paired by seed."""

    model: str  # name of the model, with the config values that set its cells apart
    unit: str
    goal: str
    setting: Setting
    first: Interval
    second: Interval
    change: Interval  # from the first to the second, as people read it (see ``Scale.change``)
    relative: bool  # whether the change is a share of the first
    diverged: tuple[int, int]
    n: int
    ratio: float  # of the median step times while the sweeps ran: load, device and width of stacks are in it
    verdict: (
        str  # on the second folder: better, worse, equal, undecided, or same if every pair has equal numbers
    )
    corrected_verdict: str  # the same, corrected for the number of the model's settings, and never same


@dataclass(frozen=True)
class FolderDiff:
    """The differences between two results folders."""

    names: tuple[str, str]
    changes: tuple[str, ...]  # changed config values, versions and devices, in words
    pairings: tuple[Pairing, ...]
    unmatched: tuple[int, int]  # number of cells of each folder without a match in the other
    unpaired: str = ""  # why there is no pairing, with what was run in each folder; empty where there is one


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
        else:
            sides = ((leaf, _list_values(a, leaf), _list_values(b, leaf)) for leaf in key)
            apart = [side for side in sides if set(side[1]).isdisjoint(side[2])]
            changes += [
                f"{model}: {leaf} {', '.join(of_a)} → {', '.join(of_b)}" for leaf, of_a, of_b in apart
            ]
    changes += _provenance_changes(first.cells, second.cells)
    found = [pairing for model, key, pairs in joined for pairing in _pair_settings(model, key, pairs)]
    unpaired = ""
    if not joined:
        differing = "; ".join([*_role_differences(first.cells, second.cells), *changes])
        unpaired = f"no cell of {names[0]} has a partner in {names[1]}: {differing}"
    elif not found:
        unpaired = f"every cell of {names[0]} that has a partner in {names[1]} failed, or its partner did"
    return FolderDiff(names, tuple(changes), tuple(found), (unmatched[0], unmatched[1]), unpaired)


def _role_differences(a: pd.DataFrame, b: pd.DataFrame) -> list[str]:
    """List how the models, treatments and seeds of two folders differ, and data and optimizers of other models."""
    shared = not set(a["model"]).isdisjoint(b["model"])
    columns = ["treatment"] if shared else ["model", "data", "optimizer", "treatment"]
    texts = {name: [", ".join(_list_values(cells, name)) for cells in (a, b)] for name in columns}
    texts["strength"] = [format_strength("", cells["strength"].dropna().unique()) for cells in (a, b)]
    texts["seed"] = [format_strength("", cells["seed"].astype(float).unique()) for cells in (a, b)]
    return [
        f"{name} {mine or 'absent'} → {yours or 'absent'}"
        for name, (mine, yours) in texts.items()
        if mine != yours
    ]


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
            short = abbreviations(leaf, {*mine, *yours})
            changed += [f"{leaf} {short[mine[0]]} → {short[yours[0]]}"] if mine != yours else []
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
    a = a.reindex(columns=[*a, *(name for name in READING if name not in a)])
    on = [*ROLE, *key]
    written = [{leaf: cells[leaf].map(format_value) for leaf in key} for cells in (a, b)]
    columns = [*on, *kept, *READING], [*on, *kept]
    frames = [cells[own].assign(**texts) for cells, own, texts in zip((a, b), columns, written, strict=True)]
    return frames[0].merge(frames[1], on=on, suffixes=("", "_b"))  # missing strengths match one another


def _pair_settings(model: str, key: Sequence[str], pairs: pd.DataFrame) -> Iterator[Pairing]:
    """Group the paired cells of a model by setting and judge each group, alone and together with the others."""
    varying = [leaf for leaf in key if pairs[leaf].nunique() > 1]
    by = [*varying, "treatment", "quantity", "strength", "strengths"]
    pairs = pairs[(pairs["status"] != "failed") & (pairs["status_b"] != "failed")]
    groups = list(pairs.groupby(by, dropna=False, sort=True))
    if not groups:
        return
    scale, goal = scale_of_cells(pairs, ("value", "value_b")), str(pairs["model.goal"].iloc[0])
    sign = -1 if goal == "max" else 1
    seeds = sorted(pairs["seed"].unique())
    scores = np.full((2, len(groups), len(seeds)), np.nan)  # [folder, S, R]
    for place, (_, rows) in enumerate(groups):
        at = np.searchsorted(seeds, rows["seed"])
        scores[0, place, at] = _scores(scale, sign, rows["value"], rows["status"])
        scores[1, place, at] = _scores(scale, sign, rows["value_b"], rows["status_b"])
    together = compare_settings(scores[1], scores[0])
    for place, ((values, rows), joint) in enumerate(zip(groups, together, strict=True)):
        settings = ", ".join(
            f"{leaf.rsplit('.', 1)[-1]}={value}" for leaf, value in zip(varying, values, strict=False)
        )
        (alone,) = compare_settings(scores[1, place], scores[0, place])
        where = f"{model} ({settings})" if settings else model
        yield _judge_setting(where, rows, scale, sign, alone, joint)


def _scores(scale: Scale, sign: int, values: pd.Series, status: pd.Series) -> Floats:
    """Compute the scores of cells on the metric's scale: lower is better, inf diverged."""
    return np.where(status == "diverged", np.inf, sign * scale.forward(values))


def _judge_setting(
    model: str, rows: pd.DataFrame, scale: Scale, sign: int, alone: Comparison, joint: Comparison
) -> Pairing:
    """Judge one setting from its paired cells, compared alone and together with the others of its model."""
    first, second = (
        scale.interval(mean_interval(scale.forward(rows[name]))) for name in ("value", "value_b")
    )
    margin = margin_of(rows)
    margins = scale.gains_within(margin, first.estimate, sign) if margin else None
    gain = alone.gain
    difference = Interval(-gain.estimate, -gain.high, -gain.low, gain.n) if sign > 0 else gain
    unit = rows["model.unit"].iloc[0] if "model.unit" in rows else None
    return Pairing(
        model=model,
        unit=unit if isinstance(unit, str) and unit else str(rows["model.metric"].iloc[0]),
        goal=str(rows["model.goal"].iloc[0]),
        setting=Setting.of(rows.iloc[0].to_dict()),
        first=first,
        second=second,
        change=scale.change(difference, first.estimate),
        relative=scale.name == "log",
        diverged=(alone.lost[1], alone.lost[0]),
        n=len(rows),
        ratio=float(rows["step_seconds_b"].median() / rows["step_seconds"].median())
        if "step_seconds" in rows
        else np.nan,
        verdict=SAME if (rows["score"] == rows["score_b"]).all() else _judge(alone, margins),
        corrected_verdict=_judge(joint, margins),
    )


def _judge(found: Comparison, margins: Margins | None) -> str:
    """Judge a change: one that is no better may still be worse, which is what is asked here."""
    verdict = judge_arm([[found]], [found], margins)
    return UNDECIDED if verdict == NO_BETTER else verdict


def count_verdicts(pairings: Sequence[Pairing]) -> dict[str, int]:
    """Count the settings with each verdict."""
    verdicts = [pairing.verdict for pairing in pairings]
    return {name: verdicts.count(name) for name in (BETTER, WORSE, EQUAL, UNDECIDED, SAME)}


def short_names(paths: Sequence[str]) -> list[str]:
    """Shorten paths of folders to as many of their last parts as make them distinct."""
    parts = [path.strip("/").split("/") for path in paths]
    longest = max(map(len, parts))
    for depth in range(1, longest + 1):
        short = ["/".join(part[-depth:]) for part in parts]
        if len(set(short)) == len(short):
            return short
    return reduce(lambda found, path: [*found, f"{path} ({len(found) + 1})"], paths, list[str]())

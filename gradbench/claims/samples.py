"""One side of a comparison as arrays, and the choice of a setting on seeds that do not judge.

A setting is what the side's cells may still differ in: a threshold, a learning rate. X places along a key (1 where
a claim goes along none), S settings, R seeds (or replicates: see ``pool``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradbench.claims.schema import Claim
from gradbench.stats import selection
from gradbench.stats.intervals import Floats

Booleans = npt.NDArray[np.bool_]

Setting = dict[str, object]
"""Key -> value."""

Replicate = tuple[int | str, ...]
"""A seed, and the values of what is pooled."""


@dataclass(frozen=True)
class Row:
    """One number per seed, of one setting at one place.

    Attributes:
        values: [R], nan where the cell is absent or lost.
        lost: [R], whether the cell diverged, or never came to have a value.
        setting: what was chosen.
    """

    values: Floats
    lost: Booleans
    setting: Setting

    def scores(self, goal: str) -> Floats:
        """Return scores [R] as :mod:`gradbench.stats.intervals` has them: lower is better, inf is lost, nan absent."""
        return np.where(self.lost, np.inf, -self.values if goal == "max" else self.values)


@dataclass(frozen=True)
class Side:
    """The cells of one side under one condition.

    Attributes:
        values: [X, S, R], nan where a cell is absent or lost.
        lost: [X, S, R].
        tuned: [X, S, R], the scores that settings are chosen by: lower is better, inf lost, nan absent.
        settings: of length S.
    """

    values: Floats
    lost: Booleans
    tuned: Floats
    settings: tuple[Setting, ...] = ({},)

    @property
    def present(self) -> Booleans:
        """Which settings have a cell at which place, [X, S]."""
        return np.asarray((~np.isnan(self.values) | self.lost).any(axis=2))

    @property
    def has_choice(self) -> bool:
        """Whether there is more than one setting at some place."""
        return bool((self.present.sum(axis=1) > 1).any())

    def choose(self, place: int, tuning: int) -> Row | None:
        """Return the judging seeds of the setting that the first ``tuning`` seeds choose; ``None`` without cells."""
        present = self.present[place]
        if not present.any():
            return None
        best = int(present.argmax())
        if present.sum() > 1:
            best = max(selection.best_setting(self.tuned[place, :, :tuning]), 0)
        return Row(
            self.values[place, best, tuning:],
            self.lost[place, best, tuning:],
            self.settings[best] if present.sum() > 1 else {},
        )


def replicates_of(claim: Claim, cells: pd.DataFrame) -> list[Replicate]:
    """Return what pairs each cell with one of the other side: its seed, then the values of what is pooled."""
    pooled = [cells[key].astype(str) if key in cells else pd.Series("", cells.index) for key in claim.pool]
    return list(zip(cells["seed"].astype(int), *pooled, strict=True))


def side_of(
    claim: Claim,
    cells: pd.DataFrame,
    keys: Sequence[str],
    replicates: Sequence[Replicate],
    along: Sequence[object],
) -> Side:
    """Return measured cells as a side.

    Args:
        claim: says which keys are no settings.
        cells: measured (see :func:`gradbench.claims.metrics.measure`).
        keys: columns that are keys of a config.
        replicates: the R of them, in the order in which they choose and then judge.
        along: the X values along the claim's key; one value, whatever it is, where the claim goes along none.
    """
    fixed = [key for key in (claim.along, *claim.per, *claim.pool) if key in cells]
    varying: list[str] = []
    for key in keys:
        if key not in ("seed", *fixed) and key in cells and varies(cells, key, [*fixed, *varying]):
            varying.append(key)
    setting, told = pd.Series(0, index=cells.index), [Setting()]
    if varying and len(cells):
        groups = cells.groupby(varying, dropna=False, sort=True)
        setting = groups.ngroup()
        told = [_told(dict(zip(varying, name, strict=True))) for name, _ in groups]
    place = pd.Series(0, index=cells.index)
    if claim.along:
        place = cells[claim.along].map({value: index for index, value in enumerate(along)})
    order = {one: index for index, one in enumerate(replicates)}
    replicate = pd.Series([order[one] for one in replicates_of(claim, cells)], index=cells.index, dtype=int)
    shape = (len(along), len(told), len(replicates))
    values, tuned, lost = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=np.bool_)
    known = place.notna()
    index = tuple(one[known].astype(int).to_numpy() for one in (place, setting, replicate))
    values[index] = cells.loc[known, "value"].to_numpy(dtype=float)
    tuned[index] = cells.loc[known, "tuned"].to_numpy(dtype=float)
    lost[index] = cells.loc[known, "lost"].to_numpy(dtype=bool)
    return Side(values, lost, tuned, tuple(told))


def varies(cells: pd.DataFrame, key: str, known: Sequence[str]) -> bool:
    """Return whether a key varies where others do not, rather than follow from them, as data's keys from its name."""
    groups = cells.groupby(list(known), dropna=False)[key] if known else cells[key]
    return bool(np.any(groups.nunique(dropna=False) > 1))


def _told(setting: dict[str, object]) -> Setting:
    """Return what tells a setting: what is absent does not."""
    return {key: value for key, value in setting.items() if value is not None and value == value}


def once(rows: Sequence[Row]) -> list[Row]:
    """Keep one seed per set of timings: cells that trained together share a stopwatch, and it counts once."""
    together = np.array([row.values for row in rows])
    _, first = np.unique(together, axis=1, return_index=True)
    keep = np.isin(np.arange(together.shape[1]), first)
    return [Row(np.where(keep, row.values, np.nan), row.lost & keep, row.setting) for row in rows]

"""Arrange the cells of treatment and control as arrays, and choose a setting on the tuning seeds.

A setting holds the keys in which the cells of a side still differ, such as a threshold or a learning rate. Shapes:
X values of the key ``along`` (1 without one), S settings, R seeds (or replicates: see ``pool``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradbench.claims.schema import Claim
from gradbench.stats.intervals import Floats
from gradbench.stats.selection import choose_setting

Booleans = npt.NDArray[np.bool_]

KeyValues = dict[str, object]
"""Config key -> value."""

Replicate = tuple[int | str, ...]
"""A seed, and the values of the pooled keys."""


@dataclass(frozen=True)
class SeedValues:
    """The values of one setting at one value of ``along``, one per seed.

    Attributes:
        values: [R], nan if the cell is absent or lost.
        lost: [R], whether the cell diverged or never reached a value.
        setting: the chosen setting; empty if there was no choice.
    """

    values: Floats
    lost: Booleans
    setting: KeyValues

    def scores(self, goal: str) -> Floats:
        """Convert values to scores [R]: lower is better, inf lost, nan absent."""
        return np.where(self.lost, np.inf, -self.values if goal == "max" else self.values)


@dataclass(frozen=True)
class Side:
    """The cells of the treatment or of the control under one condition.

    Attributes:
        values: [X, S, R], nan if a cell is absent or lost.
        lost: [X, S, R], whether a cell diverged or never reached a value.
        tuned: [X, S, R], the scores that settings are chosen by: lower is better, inf lost, nan absent.
        settings: [S], the settings.
    """

    values: Floats
    lost: Booleans
    tuned: Floats
    settings: tuple[KeyValues, ...] = ({},)

    @property
    def present(self) -> Booleans:
        """Whether there is a cell of each setting at each value of ``along``, [X, S]."""
        return np.asarray((~np.isnan(self.values) | self.lost).any(axis=2))

    @property
    def has_choice(self) -> bool:
        """Whether there is more than one setting to choose from."""
        return bool((self.present.sum(axis=1) > 1).any())

    def choose(self, place: int, tuning: int) -> SeedValues | None:
        """Choose a setting on the first ``tuning`` seeds and return its values on the others; ``None`` without cells.

        Args:
            place: index of the value of ``along``.
            tuning: number of seeds that choose.
        """
        present = self.present[place]
        if not present.any():
            return None
        best = int(present.argmax())
        if present.sum() > 1:
            best = max(choose_setting(self.tuned[place, :, :tuning]), 0)
        return SeedValues(
            self.values[place, best, tuning:],
            self.lost[place, best, tuning:],
            self.settings[best] if present.sum() > 1 else {},
        )


def list_replicates(claim: Claim, cells: pd.DataFrame) -> list[Replicate]:
    """List the replicate of each cell, which pairs it with a cell of the other side."""
    pooled = [cells[key].astype(str) if key in cells else pd.Series("", cells.index) for key in claim.pool]
    return list(zip(cells["seed"].astype(int), *pooled, strict=True))


def build_side(
    claim: Claim,
    cells: pd.DataFrame,
    keys: Sequence[str],
    replicates: Sequence[Replicate],
    along: Sequence[object],
) -> Side:
    """Arrange the cells of one side as arrays.

    Args:
        claim: the claim, whose keys ``along``, ``per`` and ``pool`` are not settings.
        cells: cells with their values (see :func:`gradbench.claims.metrics.add_claim_values`).
        keys: columns that are config keys.
        replicates: the R replicates, in the order in which they choose and then judge.
        along: the X values of the key ``along``; any single value without such a key.
    """
    fixed = [key for key in (claim.along, *claim.per, *claim.pool) if key in cells]
    varying: list[str] = []
    for key in keys:
        if key not in ("seed", *fixed) and key in cells and is_free_key(cells, key, [*fixed, *varying]):
            varying.append(key)
    setting, settings = pd.Series(0, index=cells.index), [KeyValues()]
    if varying and len(cells):
        groups = cells.groupby(varying, dropna=False, sort=True)
        setting = groups.ngroup()
        settings = [_drop_absent(dict(zip(varying, name, strict=True))) for name, _ in groups]
    place = pd.Series(0, index=cells.index)
    if claim.along:
        place = cells[claim.along].map({value: index for index, value in enumerate(along)})
    order = {one: index for index, one in enumerate(replicates)}
    replicate = pd.Series([order[one] for one in list_replicates(claim, cells)], index=cells.index, dtype=int)
    shape = (len(along), len(settings), len(replicates))
    values, tuned, lost = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=np.bool_)
    known = place.notna()
    index = tuple(one[known].astype(int).to_numpy() for one in (place, setting, replicate))
    values[index] = cells.loc[known, "value"].to_numpy(dtype=float)
    tuned[index] = cells.loc[known, "tuned"].to_numpy(dtype=float)
    lost[index] = cells.loc[known, "lost"].to_numpy(dtype=bool)
    return Side(values, lost, tuned, tuple(settings))


def is_free_key(cells: pd.DataFrame, key: str, known: Sequence[str]) -> bool:
    """Whether a key varies among cells that agree in the known keys (``data.source`` follows from ``data``)."""
    groups = cells.groupby(list(known), dropna=False)[key] if known else cells[key]
    return bool(np.any(groups.nunique(dropna=False) > 1))


def _drop_absent(setting: dict[str, object]) -> KeyValues:
    """Drop the keys without a value."""
    return {key: value for key, value in setting.items() if value is not None and value == value}


def drop_repeated_timings(rows: Sequence[SeedValues]) -> list[SeedValues]:
    """Keep one seed of those with equal timings: cells of one stack are timed together, which counts once."""
    times = np.array([row.values for row in rows])
    _, first = np.unique(times, axis=1, return_index=True)
    keep = np.isin(np.arange(times.shape[1]), first)
    return [SeedValues(np.where(keep, row.values, np.nan), row.lost & keep, row.setting) for row in rows]

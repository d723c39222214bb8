"""Fill in keys that gradbench had not yet when a cell was stored."""

import pandas as pd

from gradbench.config.compose import GROUPS
from gradbench.config.composite import JOINT
from gradbench.config.identity import shipped_neutral


def fill_added_keys(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells with the neutral values of keys that some of them lack, though their options have them.

    A key that is added later has a neutral value, at which cells keep their ids: those that were stored before are the
    same cells as those stored since.
    """
    cells = cells.copy()
    for group in {*GROUPS} & {*cells}:
        for option in (one for one in cells[group].dropna().unique() if isinstance(one, str)):
            parts = option.split(JOINT)
            for part in parts:
                at = f"{group}.{part}" if len(parts) > 1 else group
                for key, value in shipped_neutral(group, part).items():
                    column = f"{at}.{key}"
                    if column in cells and value is not None:
                        cells.loc[(cells[group] == option) & cells[column].isna(), column] = value
    return cells

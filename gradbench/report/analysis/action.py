"""How a treatment acted on the steps of its cells, in numbers and in words."""

from typing import NamedTuple

import pandas as pd

from gradbench.report.analysis.comparison import ComparisonGroup, Setting
from gradbench.report.render.formatting import format_number, format_percent

ALWAYS = 0.995  # share of steps from which a clip is called normalisation

SCALED = ("sgd",)
"""How the names of optimizers begin whose step is proportional to the gradient."""


class Action(NamedTuple):
    """How one setting acted, as means over its cells; nan where it is not known.

    Attributes:
        touched: share of recorded steps whose gradient was changed.
        kept: norm used over norm given, a geometric mean.
        penalty_share: the penalty's share of the objective.
        learning_rate: the learning rate times ``kept``, where a step is proportional to its gradient.
    """

    touched: float
    kept: float
    penalty_share: float
    learning_rate: float

    @property
    def words(self) -> str:
        """What a reader should know of it; empty if nothing is known."""
        if self.penalty_share > 0:
            return f"the penalty makes up {format_percent(self.penalty_share)} of the objective"
        if not self.touched >= 0:
            return ""
        if self.touched == 0:
            return "changed no step"
        size = f", to {format_percent(self.kept)} of its length on average" if self.kept < ALWAYS else ""
        rate = (
            f": an effective learning rate of {format_number(self.learning_rate, 2)}"
            if self.learning_rate > 0 and size
            else ""
        )
        if self.touched >= ALWAYS:
            return f"changed every step{size}{rate}; that is normalisation rather than clipping"
        return f"changed {format_percent(self.touched)} of the steps{size}{rate}"


UNKNOWN = Action(*[float("nan")] * 4)


def action_of(comparison: ComparisonGroup, setting: Setting, actions: pd.DataFrame | None) -> Action:
    """Average the action of a setting over its cells.

    Args:
        comparison: the comparison.
        setting: one of its settings.
        actions: :attr:`gradbench.report.load.curves.Curves.action`; None if no curves were read.
    """
    cells = comparison.cells_at(setting)
    if actions is None or cells.empty:
        return UNKNOWN
    means = actions.reindex(cells["cell"]).mean()
    first = cells.iloc[0]
    scaled = str(first.get("optimizer", "")).startswith(SCALED)
    changed = means["touched"] > 0 or not means["penalty_share"] > 0  # a penalty alone changes no gradient
    rate = (
        float(first["optimizer.lr"]) * means["ratio"] if scaled and "optimizer.lr" in cells else float("nan")
    )
    return Action(means["touched"] if changed else float("nan"), means["ratio"], means["penalty_share"], rate)

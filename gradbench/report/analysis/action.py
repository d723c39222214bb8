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
        measured: share of the recorded steps that ``touched`` is of: a clip by value is measured at some of them.
    """

    touched: float
    kept: float
    penalty_share: float
    learning_rate: float
    measured: float

    @property
    def words(self) -> str:
        """What a reader should know of it, in a sentence or two; empty if nothing is known."""
        penalty = f"The penalty makes up {format_percent(self.penalty_share)} of the objective."
        return " ".join(filter(None, (penalty if self.penalty_share > 0 else "", self._change)))

    @property
    def _change(self) -> str:
        """What it changed of the gradients."""
        if not self.touched >= 0:
            return ""
        where = "" if self.measured >= ALWAYS else " at the steps where that was measured"
        if self.touched == 0:
            return f"It changed no gradient{where}."
        always = self.touched >= ALWAYS
        words = (
            f"It changed {'every gradient' if always else f'{format_percent(self.touched)} of the gradients'}"
        )
        words += where
        if self.kept < ALWAYS:
            words += f", to {format_percent(self.kept)} of their length on average"
            if self.learning_rate > 0:
                words += f": an effective learning rate of {format_number(self.learning_rate, 2)}"
        return f"{words}; that is normalisation rather than clipping." if always else f"{words}."


UNKNOWN = Action(*[float("nan")] * 5)


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
    lr = pd.to_numeric(cells.get("optimizer.lr", pd.Series([float("nan")])), errors="coerce").iloc[0]
    rate = lr * means["ratio"] if scaled else float("nan")
    return Action(
        means["touched"] if changed else float("nan"),
        means["ratio"],
        means["penalty_share"],
        rate,
        means["measured"],
    )

"""The figures of a report, one file each: numbers in, a drawing with its words out."""

import matplotlib as mpl

from gradbench.report.figures import (
    action,
    cost,
    critic,
    divergence,
    gradients,
    histograms,
    layers,
    learning,
    strengths,
)
from gradbench.report.figures.panels import Context, Drawing
from gradbench.report.style import RC

__all__ = ["SECTIONS", "Context", "Drawing", "draw"]

# In the order in which a reader asks.
SECTIONS = {
    "Strengths": (strengths.draw,),
    "Learning": (learning.draw,),
    "Gradients": (gradients.draw, action.draw, histograms.draw),
    "Divergence": (divergence.draw,),
    "Cost": (cost.draw,),
    "Critic": (critic.draw, layers.draw),
}


def draw(context: Context) -> dict[str, list[Drawing]]:
    """Draw every figure that these results have something for, by section."""
    with mpl.rc_context(RC):
        return {
            section: [drawing for figure in figures for drawing in figure(context)]
            for section, figures in SECTIONS.items()
        }

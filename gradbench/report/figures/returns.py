"""Draw the returns of an agent's episodes after training. A model shows them by storing ``returns`` [episodes]."""

import numpy as np

from gradbench.report.analysis.comparison import ComparisonGroup
from gradbench.report.figures.panels import Context, Drawing, panels_of_treatments
from gradbench.report.render.formatting import format_number
from gradbench.stats.intervals import Floats

CAPTION = (
    "How the returns of single evaluation episodes are distributed after the last step: shares of all episodes, "
    "pooled over the completed seeds at the chosen strength. The dashed line is their mean. A mean can hide that an "
    "agent balances some episodes to the end and loses others at once. If the treatments did nothing, the panels would "
    "look alike. Episodes of a seed share a policy, so seeds are what intervals are made of, not episodes."
)
BINS = 25


def draw(context: Context) -> list[Drawing]:
    """Draw a row per comparison and a column per treatment whose cells stored returns."""
    found = {c.label: _pool_returns(context, c) for c in context.comparisons}
    kept = [comparison for comparison in context.comparisons if found[comparison.label]]
    if not kept:
        return []
    title = _title({comparison.label: found[comparison.label] for comparison in kept})
    figure, axes = panels_of_treatments(context, title, kept, found)
    for comparison, row in zip(kept, axes, strict=True):
        pooled = found[comparison.label]
        every = np.concatenate(list(pooled.values()))
        edges = np.linspace(min(every.min(), 0.0), max(every.max(), 1.0), BINS + 1)
        shares = {name: np.histogram(returns, edges)[0] / returns.size for name, returns in pooled.items()}
        highest = max(share.max() for share in shares.values())
        for ax, (treatment, returns) in zip(row, pooled.items(), strict=True):
            ax.stairs(shares[treatment], edges, color=context.looks[treatment].color, fill=True)
            ax.set_ylim(0, 1.05 * highest)
            ax.axvline(returns.mean(), color="black", linestyle="--", lw=0.8)
            ax.set_xlabel("return")
    alt = f"Histograms of the returns of evaluation episodes per treatment. {title}"
    return [Drawing("returns", title, CAPTION, alt, "", figure)]


def _pool_returns(context: Context, comparison: ComparisonGroup) -> dict[str, Floats]:
    """Pool the finite returns of each treatment's cells at its chosen strength."""
    found: dict[str, Floats] = {}
    for treatment in comparison.treatments:
        cells = comparison.cells_at(comparison.chosen_setting(treatment))["cell"]
        stored = [context.results.arrays_of(str(cell)).get("returns") for cell in cells]
        kept = [one.astype(float).ravel() for one in stored if one is not None]
        returns = np.concatenate(kept) if kept else np.zeros(0)
        if np.isfinite(returns).any():
            found[treatment] = returns[np.isfinite(returns)]
    return found


def _title(found: dict[str, dict[str, Floats]]) -> str:
    """Name the treatment with the highest and the lowest mean return."""
    parts = []
    for label, pooled in found.items():
        means = {treatment: float(returns.mean()) for treatment, returns in pooled.items()}
        best = max(means, key=lambda treatment: means[treatment])
        text = f"{label} with {best} returns {format_number(means[best], 3)} per episode"
        worst = min(means, key=lambda treatment: means[treatment])
        if worst != best:
            text += f", with {worst} {format_number(means[worst], 3)}"
        parts.append(text)
    return "; ".join(parts)

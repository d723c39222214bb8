"""Build the report's section of claims: a box of verdicts, a table of conditions and a forest plot."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from gradbench.claims.conditions import ConditionResult
from gradbench.claims.contrasts import CONTRADICTED, SUPPORTED, UNDECIDED
from gradbench.claims.schema import Claim
from gradbench.errors import UsageError
from gradbench.report.claims.verdicts import (
    Verdict,
    format_chosen,
    format_claim_interval,
    format_condition,
    format_effect,
    format_evidence,
    format_rule,
    judge_folder,
)
from gradbench.report.figures import render_pictures
from gradbench.report.figures.panels import (
    CHARACTERS,
    WIDE,
    Drawing,
    Layout,
    axis_limits,
    log_ticks,
    panels,
    width_of,
    wrap_name,
)
from gradbench.report.figures.style import FAINT
from gradbench.report.render.blocks import Box, BoxLine, ReportSection, Table, TableEntry
from gradbench.report.render.formatting import format_interval, format_number, shorten

COLUMNS = (
    "claim",
    "condition",
    "verdict",
    "effect [95 % interval]",
    "n",
    "interquartile mean",
    "P(improvement)",
    "rule",
    "chosen",
    "notes",
)
CAPTION = (
    "One row per claim and condition. The rule stands in the experiment's file; where it was recorded, the verdict "
    "above says whether it stood there before the runs. The "
    "claim is supported where the whole interval lies beyond the smallest effect that matters, contradicted where "
    "it falls short of it, and undecided where it contains it. Seeds are paired. A strength or a learning rate was "
    "chosen on the first quarter of the seeds (at least two) and judged on the others. Diverged cells are in every "
    "count: where shares lost differ by more than Newcombe's interval, they decide. Intervals are corrected for the "
    "number of comparisons within a claim (Bonferroni): its conditions, both ends where a value between is compared "
    "with them, values and shares where cells were lost; not for the number of claims. Values that all agree have an "
    "interval only where a sign test would be as sure, from six seeds on. Beside the effect, for whoever distrusts "
    "means: the effect's interquartile mean, and the probability that a treated cell is better than one of the "
    "control."
)
FOREST_CAPTION = (
    "Each point is an effect with its interval, corrected for the number of comparisons within its claim; the line "
    "is what a treatment without effect would give, the shaded side is where the claim says the effect lies. "
    "Filled: supported; crossed: contradicted; hollow: undecided."
)
COLORS = {SUPPORTED: "#009E73", CONTRADICTED: "#D55E00", UNDECIDED: "#6b6b6b"}
MARKERS = {SUPPORTED: "o", CONTRADICTED: "X", UNDECIDED: "o"}


def build_sections(results: Path) -> tuple[list[ReportSection], Sequence[Verdict]]:
    """Build the section on a results folder's claims, and judge them; both are empty if it has none.

    If the claims cannot be read, the section says why and the report is written all the same.
    """
    try:
        verdicts = judge_folder(results)
    except UsageError as error:
        return [ReportSection("Claims", [f"The claims cannot be judged: {error}."])], []
    if not verdicts:
        return [], []
    box = Box(tuple(_box_line(verdict) for verdict in verdicts))
    rows = tuple(row for verdict in verdicts for row in _entries(verdict))
    table = Table("Each condition", COLUMNS, rows, CAPTION, "claims.csv")
    forest = render_pictures(partial(draw_forest, verdicts))
    return [ReportSection("Claims", [box, table, *forest])], verdicts


def _box_line(verdict: Verdict) -> BoxLine:
    claim = verdict.claim
    return BoxLine(
        claim.id, verdict.judgement.verdict, claim.sentence, format_evidence(verdict), claim.figure
    )


def _entries(verdict: Verdict) -> list[tuple[TableEntry, ...]]:
    claim = verdict.claim
    return [
        (
            TableEntry(claim.id),
            TableEntry(format_condition(result) or "all", kind="wrapped"),
            TableEntry(result.verdict, kind="verdict"),
            TableEntry(format_effect(claim, result), result.effect.estimate),
            TableEntry(str(result.effect.n), float(result.effect.n)),
            *_side_entries(claim, result),
            TableEntry(format_rule(claim), kind="wrapped"),
            TableEntry(format_chosen(result) or "–", kind="wrapped"),
            TableEntry("; ".join(result.notes) or "–", kind="wrapped"),
        )
        for result in verdict.judgement.results
    ]


def _side_entries(claim: Claim, result: ConditionResult) -> tuple[TableEntry, TableEntry]:
    """Build the entries of an effect's interquartile mean and probability of improvement."""
    if not result.contrasts:
        return TableEntry("–"), TableEntry("–")
    _, contrast = result.contrasts[0]
    middle, improvement = contrast.interquartile_effect, contrast.improvement
    return (
        TableEntry(format_claim_interval(claim, middle), middle.estimate),
        TableEntry(format_interval(improvement), improvement.estimate),
    )


def draw_forest(verdicts: Sequence[Verdict], layout: Layout = WIDE) -> list[Drawing]:
    """Draw the effect of every condition with its interval, one panel per claim."""
    counts = Counter(verdict.judgement.verdict for verdict in verdicts)
    title = f"Claims of this experiment: {', '.join(f'{counts[name]} {name}' for name in COLORS)}"
    left = 0.25 * layout.width
    most = max(sum(name.count("\n") + 1 for name in _names(verdict, left)) for verdict in verdicts)
    headings = [
        f"{verdict.claim.id}  {verdict.claim.sentence.rstrip('.')}: {verdict.judgement.verdict}"
        for verdict in verdicts
    ]
    figure, axes = panels(title, headings, 1, layout=layout, height=0.15 + 0.19 * most, left=left, right=0.3)
    for verdict, (ax,) in zip(verdicts, axes, strict=True):
        _draw_panel(ax, verdict, left)
    alt = f"Effect of each claim with its interval. {title}"
    return [Drawing("claims", title, FOREST_CAPTION, alt, "claims.csv", figure)]


def _names(verdict: Verdict, width: float) -> list[str]:
    """Name a claim's conditions, wrapped to a width in inches."""
    conditions = (format_condition(result) or "all" for result in verdict.judgement.results)
    return [wrap_name(name, int(CHARACTERS * width) - 2) for name in conditions]


def _draw_panel(ax: Axes, verdict: Verdict, left: float) -> None:
    """Draw the effects of one claim, a line per condition."""
    claim, results = verdict.claim, verdict.judgement.results
    known = [value for result in results for value in result.effect[:3] if np.isfinite(value)]
    known += [claim.smallest_effect, claim.no_effect]
    low, high = axis_limits(known, log=_is_log(claim, known))
    if _is_log(claim, known):
        ax.set_xscale("log")
        ticks = log_ticks(float(np.log10(low)), float(np.log10(high)))
        ax.set_xticks(ticks, [format_number(tick, 2) for tick in ticks])
        ax.minorticks_off()
    ax.set_xlim(low, high)
    ends = (claim.smallest_effect, high) if claim.sign > 0 else (low, claim.smallest_effect)
    ax.axvspan(*ends, color="#009E73", alpha=0.09, lw=0)
    ax.axvline(claim.no_effect, color=FAINT, lw=1)
    for place, result in enumerate(results):
        effect, color = result.effect, COLORS[result.verdict]
        if np.isfinite(effect.estimate):
            face = "white" if result.verdict == UNDECIDED else color
            ax.plot([effect.low, effect.high], [place, place], color=color, lw=1.2)
            ax.plot(effect.estimate, place, MARKERS[result.verdict], color=color, mfc=face, ms=5.5)
        else:
            ax.annotate(
                "no effect to draw", (0.5, place), xycoords=("axes fraction", "data"),
                ha="center", va="center", size=7.5, color=color,
            )  # fmt: skip
    ax.set_yticks(range(len(results)), _names(verdict, left))
    ax.set_ylim(len(results) - 0.5, -0.5)
    ax.set_xlabel(shorten(textwrap.fill(format_rule(claim), int(CHARACTERS * width_of(ax))), 110))


def _is_log(claim: Claim, values: Sequence[float]) -> bool:
    """Whether to draw ratios on a log axis: only if they span a factor of two, below which it looks linear."""
    return claim.effect == "ratio" and claim.test != "trend" and 0 < 2 * min(values) < max(values)

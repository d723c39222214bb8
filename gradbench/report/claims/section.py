"""The section of claims: each sentence, what it came to, and a picture of its effects."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from gradbench.claims.contrasts import CONTRADICTED, SUPPORTED, UNDECIDED
from gradbench.claims.findings import Finding
from gradbench.claims.schema import Claim
from gradbench.errors import UsageError
from gradbench.report.claims.verdicts import (
    Verdict,
    chosen_text,
    condition_text,
    effect_text,
    evidence_text,
    interval_text,
    rule_text,
    verdicts,
)
from gradbench.report.figures.panels import limits, log_ticks, panels
from gradbench.report.figures.style import FAINT, RC
from gradbench.report.render import formatting as text
from gradbench.report.render.blocks import Box, Entry, Line, Picture, Section, Table

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
    "One row per claim and condition. The rule stands in the experiment's file and was fixed before the run: the "
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
FOREST = (
    "Each point is an effect with its interval, corrected for the number of comparisons within its claim; the line "
    "is what a treatment without effect would give, the shaded side is where the claim says the effect lies. "
    "Filled: supported; crossed: contradicted; hollow: undecided."
)
COLORS = {SUPPORTED: "#009E73", CONTRADICTED: "#D55E00", UNDECIDED: "#6b6b6b"}
MARKERS = {SUPPORTED: "o", CONTRADICTED: "X", UNDECIDED: "o"}


def sections(results: Path) -> tuple[list[Section], Sequence[Verdict]]:
    """Return the section of a results folder's claims, and their verdicts; both empty where it has no claim.

    Claims that cannot be read take nothing else with them: the section then says why.
    """
    try:
        found = verdicts(results)
    except UsageError as error:
        return [Section("Claims", [f"The claims cannot be judged: {error}."])], []
    if not found:
        return [], []
    lines = [
        Line(
            one.claim.id, one.judgement.verdict, one.claim.sentence, evidence_text(one), one.claim.figure
        ) for one in found
    ]  # fmt: skip
    table = Table(
        "Each condition", COLUMNS, tuple(row for one in found for row in _rows(one)), CAPTION, "claims.csv"
    )
    return [Section("Claims", [Box(tuple(lines)), table, forest(found)])], found


def _rows(one: Verdict) -> list[tuple[Entry, ...]]:
    claim = one.claim
    return [
        (
            Entry(claim.id),
            Entry(condition_text(finding) or "all"),
            Entry(finding.verdict, kind="verdict"),
            Entry(effect_text(claim, finding), finding.effect.estimate),
            Entry(str(finding.effect.n), float(finding.effect.n)),
            *_beside(claim, finding),
            Entry(rule_text(claim)),
            Entry(chosen_text(finding) or "–"),
            Entry("; ".join(finding.notes) or "–"),
        )
        for finding in one.judgement.findings
    ]


def _beside(claim: Claim, finding: Finding) -> tuple[Entry, Entry]:
    """Return the interquartile mean of an effect, and the probability of improvement."""
    if not finding.contrasts:
        return Entry("–"), Entry("–")
    _, contrast = finding.contrasts[0]
    middle, improvement = contrast.middle, contrast.improvement
    return (
        Entry(interval_text(claim, middle), middle.estimate),
        Entry(text.interval(improvement), improvement.estimate),
    )


def forest(found: Sequence[Verdict]) -> Picture:
    """Draw every effect of every claim, a panel each."""
    title = ", ".join(
        f"{sum(one.judgement.verdict == verdict for one in found)} {verdict}" for verdict in COLORS
    )
    title = f"Claims of this experiment: {title}"
    with mpl.rc_context(RC):
        most = max(len(one.judgement.findings) for one in found)
        headings = [f"{one.claim.id}  {one.claim.sentence}: {one.judgement.verdict}" for one in found]
        figure, axes = panels(title, headings, 1, height=0.15 + 0.19 * most, left=1.9, right=0.3)
        for one, (ax,) in zip(found, axes, strict=True):
            _panel(ax, one)
        pictures = {}
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            buffer = BytesIO()
            figure.savefig(buffer, format=kind, metadata=metadata)
            pictures[kind] = buffer.getvalue()
    alt = f"Effect of each claim with its interval. {title}"
    return Picture("claims", title, FOREST, alt, "claims.csv", pictures["png"], pictures["svg"])


def _panel(ax: Axes, one: Verdict) -> None:
    claim, findings = one.claim, one.judgement.findings
    known = [value for finding in findings for value in finding.effect[:3] if np.isfinite(value)]
    known += [claim.least, claim.neutral]
    low, high = limits(known, log=_is_log(claim, known))
    if _is_log(claim, known):
        ax.set_xscale("log")
        ticks = log_ticks(float(np.log10(low)), float(np.log10(high)))
        ax.set_xticks(ticks, [text.number(tick, 2) for tick in ticks])
        ax.minorticks_off()
    ax.set_xlim(low, high)
    ends = (claim.least, high) if claim.sign > 0 else (low, claim.least)
    ax.axvspan(*ends, color="#009E73", alpha=0.09, lw=0)
    ax.axvline(claim.neutral, color=FAINT, lw=1)
    for place, finding in enumerate(findings):
        effect, color = finding.effect, COLORS[finding.verdict]
        if np.isfinite(effect.estimate):
            face = "white" if finding.verdict == UNDECIDED else color
            ax.plot([effect.low, effect.high], [place, place], color=color, lw=1.2)
            ax.plot(effect.estimate, place, MARKERS[finding.verdict], color=color, mfc=face, ms=5.5)
        else:
            ax.annotate(
                "no effect to draw", (0.5, place), xycoords=("axes fraction", "data"),
                ha="center", va="center", size=7.5, color=color,
            )  # fmt: skip
    names = [text.shortened(condition_text(finding) or "all", 30) for finding in findings]
    ax.set_yticks(range(len(findings)), names)
    ax.set_ylim(len(findings) - 0.5, -0.5)
    ax.set_xlabel(text.shortened(rule_text(claim), 110))


def _is_log(claim: Claim, values: Sequence[float]) -> bool:
    """Whether an axis of ratios is logarithmic, where one can tell: twice as much is as far from 1 as half."""
    return claim.effect == "ratio" and claim.test != "trend" and 0 < 2 * min(values) < max(values)

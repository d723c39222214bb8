"""Assign a colour, marker and dash to each treatment, the same in every figure.

Colours are from Okabe and Ito's palette for colour-blind readers, and never the only difference. Families share a
hue: clippings blue, penalties red, projections green.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradbench.report.analysis.comparison import ComparisonGroup, Setting
from gradbench.report.load.cells import NONE

INK = "#222222"
FAINT = "#8a8a8a"
STRIP = "#f1f1f1"

# Any, because Matplotlib's type of the keys changes from version to version.
RC: Any = {
    "text.parse_math": False,  # names may hold a dollar sign
    "font.size": 8.5,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "lines.linewidth": 1.4,
    "lines.markersize": 5.0,
    "savefig.dpi": 200,
    "figure.dpi": 100,
    "svg.fonttype": "none",
    "svg.hashsalt": "gradbench",  # a fixed salt of element ids, so that equal figures give equal files
    "path.simplify": True,
}

Dash = str | tuple[int, tuple[float, ...]]


@dataclass(frozen=True)
class Look:
    """Colour, marker and dash of a treatment."""

    color: str
    marker: str
    dash: Dash


SOLID, DASHED, DOTTED = "-", (0, (5.0, 2.0)), (0, (1.5, 1.5))
DASH_DOT, LONG = (0, (6.0, 1.5, 1.5, 1.5)), (0, (9.0, 2.0))

KNOWN = {
    NONE: Look("#808080", "o", DASHED),
    "clip_norm": Look("#0072B2", "o", SOLID),
    "clip_value": Look("#56B4E9", "s", LONG),
    "agc": Look("#004C78", "D", DASH_DOT),
    "autoclip": Look("#3A8FC2", "P", DOTTED),
    "zclip": Look("#7FA8D9", "X", DASHED),
    "gp": Look("#D55E00", "^", SOLID),
    "weight_clip": Look("#009E73", "v", SOLID),
    "spectral_norm": Look("#4FB89A", "p", LONG),
}
# Treatments that are not in KNOWN take the hues of their family.
FAMILIES = {
    "clipping": ("#1B4F8C", "#4A90C4", "#8FC1E3"),
    "penalty": ("#A63C00", "#E8875A", "#8C1C13"),
    "projection": ("#117A5C", "#6DC5A6", "#2F5D3A"),
    "": ("#CC79A7", "#E69F00", "#6B4C9A"),
}
STRENGTHS = {
    "threshold": "clipping",
    "lambda": "penalty",
}  # kind of strength -> family, if no config names one
MARKERS = ("D", "v", "P", "X", "<", ">", "h")
GLYPHS = {
    **{"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖"},
    **{"<": "◀", ">": "▶", "h": "⬢", "p": "⬟"},
}
HOLLOW = {
    **{"o": "○", "s": "□", "^": "△", "D": "◇", "v": "▽", "P": "✢", "X": "✕"},
    **{"<": "◁", ">": "▷", "h": "⬡", "p": "⬠"},
}
"""Marker -> glyph of a treatment's further lines, whose markers are hollow."""

DASHES: tuple[Dash, ...] = (DASH_DOT, DOTTED, LONG, DASHED)


def assign_looks(comparisons: Sequence[ComparisonGroup]) -> dict[str, Look]:
    """Assign a look to every treatment of the comparisons."""
    families = {
        setting.treatment: _family_of(comparison, setting)
        for comparison in comparisons
        for setting in comparison.settings
    }
    return assign_looks_by_family(families)


def assign_looks_by_family(families: Mapping[str, str]) -> dict[str, Look]:
    """Assign a look to every treatment, given its family; unknown treatments are ordered by name."""
    found = {name: KNOWN[name] for name in families if name in KNOWN}
    served = dict.fromkeys(FAMILIES, 0)
    for index, name in enumerate(sorted(families.keys() - found.keys())):
        colors = FAMILIES[families[name]]
        color = colors[served[families[name]] % len(colors)]
        served[families[name]] += 1
        found[name] = Look(color, MARKERS[index % len(MARKERS)], DASHES[index % len(DASHES)])
    return found


def _family_of(comparison: ComparisonGroup, setting: Setting) -> str:
    """Return the family in the regularizer's config, otherwise the usual one of its kind of strength."""
    cells = comparison.cells_at(setting)
    named = cells["regularizer.family"].iloc[0] if "regularizer.family" in cells else None
    return str(named) if named in FAMILIES else STRENGTHS.get(setting.quantity, "")

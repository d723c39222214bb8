"""One colour, marker and dash per treatment, the same in every figure.

Colours are of Okabe and Ito's palette for colour-blind readers, and never the only difference. Families share
a hue: clippings blue, penalties red, projections green.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradbench.report.compare import Comparison
from gradbench.report.tables import NONE

INK = "#222222"
FAINT = "#8a8a8a"
STRIP = "#f1f1f1"

# Any: the names that matplotlib types as keys change from version to version.
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
    "svg.hashsalt": "gradbench",  # element ids are salted hashes: without this no two files are alike
    "path.simplify": True,
}

Dash = str | tuple[int, tuple[float, ...]]


@dataclass(frozen=True)
class Look:
    """How a treatment is drawn."""

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
# Unknown treatments take hues of their family, told by the kind of strength they have.
FAMILIES = {
    "threshold": ("#1B4F8C", "#4A90C4", "#8FC1E3"),
    "lambda": ("#A63C00", "#E8875A", "#8C1C13"),
    "": ("#CC79A7", "#E69F00", "#6B4C9A"),
}
MARKERS = ("D", "v", "P", "X", "<", ">", "h")
GLYPHS = {
    **{"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖"},
    **{"<": "◀", ">": "▶", "h": "⬢", "p": "⬟"},
}
DASHES: tuple[Dash, ...] = (DASH_DOT, DOTTED, LONG, DASHED)


def looks(comparisons: Sequence[Comparison]) -> dict[str, Look]:
    """Return a look for every treatment of the folder, unknown ones in the order of their names."""
    quantities = {
        setting.treatment: setting.quantity for comparison in comparisons for setting in comparison.settings
    }
    found = {name: KNOWN[name] for name in quantities if name in KNOWN}
    served = dict.fromkeys(FAMILIES, 0)
    for index, name in enumerate(sorted(quantities.keys() - found.keys())):
        family = quantities[name] if quantities[name] in FAMILIES else ""
        colors = FAMILIES[family]
        color = colors[served[family] % len(colors)]
        served[family] += 1
        found[name] = Look(color, MARKERS[index % len(MARKERS)], DASHES[index % len(DASHES)])
    return found

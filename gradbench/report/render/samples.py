"""Show the text that trained language models write: a table per comparison, a row per treatment."""

import unicodedata
from collections.abc import Sequence

import numpy as np

from gradbench.report.analysis.comparison import ComparisonGroup
from gradbench.report.load.cells import LoadedResults
from gradbench.report.render.blocks import ReportSection, Table, TableEntry
from gradbench.report.render.formatting import format_setting, format_value
from gradbench.storage.sanitize import escape_controls

MAX_CHARACTERS = 600  # of a text that is shown
MAX_BYTES = 2**14  # of a stored text that are read
JOINERS, VIRAMA = (
    "\u200d\u200c",
    9,
)  # characters that join and separate letters; class of the sign that joins consonants

Row = tuple[TableEntry, ...]


def text_sections(results: LoadedResults, comparisons: Sequence[ComparisonGroup]) -> list[ReportSection]:
    """Build the section with the texts of these comparisons; none if no cell stored one."""
    tables = [table for comparison in comparisons if (table := _text_table(results, comparison))]
    return [ReportSection("Text", tables)] if tables else []


def _text_table(results: LoadedResults, comparison: ComparisonGroup) -> Table | None:
    """Build the table of one comparison: each treatment at its chosen strength, from its first completed seed."""
    rows: list[Row] = []
    prompts: list[str] = []
    for treatment in comparison.treatments:
        setting = comparison.chosen_setting(treatment)
        cells = comparison.cells_at(setting)
        completed = cells[cells["value"].notna()].sort_values("seed")
        stored = results.arrays_of(str(completed["cell"].iloc[0])) if len(completed) else {}
        prompts += [read_text(stored["prompt"])] if "prompt" in stored else []
        words = read_text(stored["sample"]) if "sample" in stored else ""
        rows.append(
            (
                TableEntry(format_setting(treatment, setting.quantity, [setting.at])),
                TableEntry(str(completed["seed"].iloc[0]) if len(completed) else "–"),
                TableEntry(words, words[:20], "text") if words else TableEntry("–"),
            )
        )
    if not any(row[-1].kind == "text" for row in rows):
        return None
    return Table(comparison.label, ("treatment", "seed", "text"), tuple(rows), _caption(comparison, prompts))


def _caption(comparison: ComparisonGroup, prompts: Sequence[str]) -> str:
    cells = comparison.cells
    temperatures = cells["model.temperature"].dropna() if "model.temperature" in cells else cells["seed"][:0]
    drawn = f" at temperature {format_value(temperatures.iloc[0])}" if len(temperatures) else ""
    after = (
        f" All continue the same piece of the test text, “…{last_letters(prompts[0], 60)}”."
        if prompts
        else ""
    )
    return (
        "What each treatment's network writes after its last evaluation, at the chosen strength and from the first "
        f"seed that completed, token by token{drawn}.{after} Networks of one seed draw by the same random numbers, so "
        "if the treatments did nothing, the texts of one seed would be the same. One text proves nothing: the "
        "answers above do."
    )


def read_text(stored: np.ndarray) -> str:
    """Return stored UTF-8, uint8 [bytes], as text to show; an empty string if it is anything else."""
    if stored.dtype != np.uint8 or stored.ndim != 1:
        return ""
    words = stored[:MAX_BYTES].tobytes().decode(errors="replace")
    return escape_controls(
        words if len(words) <= MAX_CHARACTERS else f"{first_letters(words, MAX_CHARACTERS - 1)}…"
    )


def first_letters(words: str, length: int) -> str:
    """Return at most ``length`` characters from the beginning of a text, the last letter whole."""
    while 0 < length < len(words) and _is_within_letter(words, length):
        length -= 1
    return words[:length]


def last_letters(words: str, length: int) -> str:
    """Return at most ``length`` characters from the end of a text, the first letter whole."""
    start = max(len(words) - length, 0)
    while 0 < start < len(words) and _is_within_letter(words, start):
        start += 1
    return words[start:]


def _is_within_letter(words: str, place: int) -> bool:
    """Whether a text may not be cut before a character: before a mark, or after a joiner or a virama."""
    before, after = words[place - 1], words[place]
    return (
        unicodedata.category(after).startswith("M")
        or after in JOINERS
        or before == JOINERS[0]
        or (unicodedata.combining(before) == VIRAMA and unicodedata.category(after).startswith("L"))
    )

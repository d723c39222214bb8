"""Show the text that trained language models write, and translations: a table per comparison."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from gradbench.report.analysis.comparison import ComparisonGroup
from gradbench.report.load.cells import LoadedResults
from gradbench.report.render.blocks import ReportSection, Table, TableEntry
from gradbench.report.render.formatting import format_setting, format_value
from gradbench.storage.sanitize import escape_controls

MAX_CHARACTERS = 600  # of a text that is shown
MAX_BYTES = 2**14  # of a stored text that are read
MAX_LINES = 10  # translations that are shown
RIGHT = "✓"
JOINERS, VIRAMA = (
    "\u200d\u200c",
    9,
)  # characters that join and separate letters; class of the sign that joins consonants

Row = tuple[TableEntry, ...]


def text_sections(results: LoadedResults, comparisons: Sequence[ComparisonGroup]) -> list[ReportSection]:
    """Build the sections with the texts and the translations of these comparisons; none of what no cell stored."""
    tables: dict[str, list[Table]] = {"Text": [], "Translations": []}
    for comparison in comparisons:
        chosen = list(_chosen_cells(results, comparison))
        for title, build in (("Text", _text_table), ("Translations", _translation_table)):
            if table := build(comparison, chosen):
                tables[title].append(table)
    return [ReportSection(title, found) for title, found in tables.items() if found]


Chosen = tuple[str, str, Mapping[str, np.ndarray]]
"""A treatment at its chosen strength, in words, its first seed that completed, and what that one's cell stored."""


def _chosen_cells(results: LoadedResults, comparison: ComparisonGroup) -> Iterator[Chosen]:
    """Yield one cell of each treatment, without a seed where none completed."""
    for treatment in comparison.treatments:
        setting = comparison.chosen_setting(treatment)
        cells = comparison.cells_at(setting)
        completed = cells[cells["value"].notna()].sort_values("seed")
        stored = results.arrays_of(str(completed["cell"].iloc[0])) if len(completed) else {}
        seed = str(completed["seed"].iloc[0]) if len(completed) else "–"
        yield format_setting(treatment, setting.quantity, [setting.at]), seed, stored


def _text_table(comparison: ComparisonGroup, chosen: Sequence[Chosen]) -> Table | None:
    """Build the table of one comparison's texts: a row per treatment."""
    rows: list[Row] = []
    for name, seed, stored in chosen:
        words = read_text(stored["sample"]) if "sample" in stored else ""
        entry = TableEntry(words, words[:20], "text") if words else TableEntry("–")
        rows.append((TableEntry(name), TableEntry(seed), entry))
    if not any(row[-1].kind == "text" for row in rows):
        return None
    prompts = [read_text(stored["prompt"]) for *_, stored in chosen if "prompt" in stored]
    return Table(comparison.label, ("treatment", "seed", "text"), tuple(rows), _caption(comparison, prompts))


def _translation_table(comparison: ComparisonGroup, chosen: Sequence[Chosen]) -> Table | None:
    """Build the table of one comparison's translations: a row per pair of the test part, a column per treatment."""
    found = {
        f"{name}, seed {seed}": dict(read_translations(stored["translations"]))
        for name, seed, stored in chosen
        if "translations" in stored
    }
    pairs = dict.fromkeys(pair for of_treatment in found.values() for pair in of_treatment)
    if not pairs:
        return None
    rows = []
    for source, target in list(pairs)[:MAX_LINES]:
        written = [of_treatment.get((source, target), "–") for of_treatment in found.values()]
        words = [source, target, *(RIGHT if text == target else text for text in written)]
        rows.append(tuple(TableEntry(text, text[:20]) for text in words))
    return Table(comparison.label, ("source", "target", *found), tuple(rows), TRANSLATIONS)


TRANSLATIONS = (
    "What each treatment's network makes of the first pairs of the test part after its last evaluation, at the chosen "
    f"strength and from the first seed that completed: the likeliest token each time. {RIGHT}: the target. A few "
    "translations prove nothing: the answers above do."
)


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


def read_translations(stored: np.ndarray) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield source and target, and the translation, of each stored line that has these three."""
    if stored.dtype == np.uint8 and stored.ndim == 1:
        for line in stored[:MAX_BYTES].tobytes().decode(errors="replace").split("\n")[:MAX_LINES]:
            columns = [escape_controls(first_letters(text, MAX_CHARACTERS)) for text in line.split("\t")]
            if len(columns) == 3:
                yield (columns[0], columns[1]), columns[2]


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

"""The report in Markdown: the same words, tables and figures, for a README, an issue or a mail."""

from collections.abc import Iterable, Sequence

from gradbench.report.render.blocks import Box, Entry, Picture, Section, Table
from gradbench.report.render.contents import Contents

ROWS = 200  # of a table; beyond, its CSV is better reading
SPECIAL = str.maketrans(
    {**{letter: f"\\{letter}" for letter in r"\`*_[]|#~$"}, "<": "&lt;", ">": "&gt;", "&": "&amp;"}
)


def render(contents: Contents) -> str:
    """Return the report; nothing in it that comes from the tables is markup."""
    cells = contents.cells
    parts = [f"# gradbench · {plain(contents.title)}", plain(contents.subtitle)]
    parts += [plain(contents.question)] if contents.question else []
    parts += [code(contents.command)] if contents.command else []
    rows = [(a.model, a.treatment, a.value, a.sentence) for a in contents.answers]
    parts += ["## Answer", grid(("group", "answer", "metric", "evidence"), rows)]
    for section in contents.sections:
        parts += _section(section)
    if cells:
        parts += ["## Cells", f"All {cells.total} of them are in [tables/cells.csv](tables/cells.csv)."]
    if cells and cells.shared:
        shared = [f"- {plain(leaf)}: {plain(value)}" for leaf, value in cells.shared]
        parts += ["What they share:", "\n".join(shared)]
    found = [f"- {'**Warning:** ' * finding.warning}{plain(finding.text)}" for finding in contents.findings]
    return "\n\n".join([*parts, "## Audit", "\n".join(found)]) + "\n"


def plain(words: str) -> str:
    """Return words that Markdown shows as they are, on one line."""
    return " ".join(words.split()).translate(SPECIAL)


def code(words: str) -> str:
    """Return words as code, between more backticks than they hold in a row."""
    fence = "`"
    while fence in words:
        fence += "`"
    return f"{fence} {words} {fence}" if "`" in words else f"`{words}`"


def grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = [columns, ["---"] * len(columns)]
    body = [[plain(place) for place in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (*lines, *body))


def _section(section: Section) -> list[str]:
    parts = [f"## {plain(section.title)}"]
    for block in section.blocks:
        if isinstance(block, Box):
            parts.append(grid(("", "verdict", "claim", "evidence"), [line[:4] for line in block.lines]))
        elif isinstance(block, Table):
            parts += _table(block)
        elif isinstance(block, Picture):
            parts += [f"![{plain(block.alt)}](figures/{block.name}.png)", plain(block.caption)]
        else:
            parts.append(plain(block))
    return parts


def _table(table: Table) -> list[str]:
    parts = [f"### {plain(table.title)}"]
    parts.append(grid([plain(column) for column in table.columns], map(_texts, table.rows[:ROWS])))
    source = f"[tables/{table.csv}](tables/{table.csv})" if table.csv else ""
    if len(table.rows) > ROWS:
        parts.append(
            f"The first {ROWS} of {len(table.rows)} rows{f'; the others are in {source}' if source else ''}."
        )
    return [*parts, *([plain(table.caption)] if table.caption else [])]


def _texts(row: Sequence[Entry]) -> list[str]:
    return [entry.text for entry in row]

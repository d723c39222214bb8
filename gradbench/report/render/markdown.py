"""Render a report as Markdown: the same words, tables and figures, for a README, an issue or a mail."""

from collections.abc import Iterable, Sequence

from gradbench.report.render.blocks import Box, Picture, ReportSection, Table, TableEntry
from gradbench.report.render.contents import ANSWERS, TYPED, Contents

MAX_ROWS = 200  # rows of a table; its CSV has all
SPECIAL = str.maketrans(
    {**{letter: f"\\{letter}" for letter in r"\`*_[]|#~$"}, "<": "&lt;", ">": "&gt;", "&": "&amp;"}
)


def render_markdown(contents: Contents) -> str:
    """Render a report; texts from the tables are escaped."""
    cells = contents.cells
    parts = [f"# gradbench · {escape_markdown(contents.title)}", escape_markdown(contents.subtitle)]
    parts += [escape_markdown(contents.question)] if contents.question else []
    parts += [TYPED] if len(contents.commands) > 1 else []
    for command, why in contents.cautioned_commands:
        parts += [code_span(command)]
        parts += [escape_markdown(why)] if why else []
    rows = [(a.group, a.context, a.advice, a.value, a.sentence) for a in contents.answers]
    columns = ("comparison", "trained", "what to do", "metric", "evidence")
    parts += ["## Answer", markdown_table(columns, rows), escape_markdown(ANSWERS)]
    for answer in contents.answers:
        if answer.command:
            parts += [
                f"Next for {escape_markdown(answer.group)}: {code_span(answer.command)} {answer.caution}".strip()
            ]
    for section in contents.sections:
        parts += _render_section(section)
    if cells:
        parts += ["## Cells", f"All {cells.total} of them are in [tables/cells.csv](tables/cells.csv)."]
    if cells and cells.shared:
        shared = [f"- {escape_markdown(leaf)}: {escape_markdown(value)}" for leaf, value in cells.shared]
        parts += ["What they share:", "\n".join(shared)]
    notes = [f"- {'**Warning:** ' * note.warning}{escape_markdown(note.text)}" for note in contents.notes]
    return "\n\n".join([*parts, "## Audit", "\n".join(notes)]) + "\n"


def escape_markdown(words: str) -> str:
    """Escape a text so that Markdown shows it as it is, on one line."""
    return " ".join(words.split()).translate(SPECIAL)


def code_span(words: str) -> str:
    """Write a text as a code span, fenced by more backticks than it contains in a row."""
    fence = "`"
    while fence in words:
        fence += "`"
    return f"{fence} {words} {fence}" if "`" in words else f"`{words}`"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; its entries are escaped."""
    lines = [columns, ["---"] * len(columns)]
    body = [[escape_markdown(place) for place in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (*lines, *body))


def _render_section(section: ReportSection) -> list[str]:
    """Render a section as a list of Markdown blocks."""
    parts = [f"## {escape_markdown(section.title)}"]
    for block in section.blocks:
        if isinstance(block, Box):
            parts.append(
                markdown_table(("", "verdict", "claim", "evidence"), [line[:4] for line in block.lines])
            )
        elif isinstance(block, Table):
            parts += _render_table(block)
        elif isinstance(block, Picture):
            parts += [
                f"![{escape_markdown(block.alt)}](figures/{block.name}.png)",
                escape_markdown(block.caption),
            ]
        else:
            parts.append(escape_markdown(block))
    return parts


def _render_table(table: Table) -> list[str]:
    """Render a table as Markdown blocks: title, at most ``MAX_ROWS`` rows, source and caption."""
    parts = [f"### {escape_markdown(table.title)}"]
    parts.append(
        markdown_table(
            [escape_markdown(column) for column in table.columns], map(_entry_texts, table.rows[:MAX_ROWS])
        )
    )
    source = f"[tables/{table.csv}](tables/{table.csv})" if table.csv else ""
    if len(table.rows) > MAX_ROWS:
        parts.append(
            f"The first {MAX_ROWS} of {len(table.rows)} rows{f'; the others are in {source}' if source else ''}."
        )
    return [*parts, *([escape_markdown(table.caption)] if table.caption else [])]


def _entry_texts(row: Sequence[TableEntry]) -> list[str]:
    return [entry.text for entry in row]

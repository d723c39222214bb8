"""The table of answers, which prints as text to be read and holds every column for programs."""

import html
import textwrap
from collections.abc import Iterator

import pandas as pd

SHOWN = ("group", "context", "advice", "value", "sentence", "command")
WIDTH = 100
"""Characters of a printed line; a command is never broken."""


class Answers(pd.DataFrame):
    """A row per answer. Printed, and in a notebook, it shows the texts alone; what is selected of it is a plain table.

    Columns are those of ``report/tables/answers.csv``.
    """

    def __repr__(self) -> str:
        """Write each answer as a paragraph: what was trained, what to do, why, and what to type next."""
        if not self._has_texts():
            return super().__repr__()
        blocks = []
        for trained, advice, value, sentence, command in self._texts():
            lines = [
                advice,
                value,
                *textwrap.wrap(sentence, WIDTH - 2),
                f"next: {command}" if command else "",
            ]
            blocks.append("\n  ".join([trained, *filter(None, lines)]))
        return "\n".join(blocks)

    def _repr_html_(self) -> str:
        """Make a table of the same texts."""
        if not self._has_texts():
            return self.to_html()
        left = '<td style="text-align: left; vertical-align: top">'
        rows = []
        for trained, advice, value, sentence, command in self._texts():
            why = [f"<b>{html.escape(advice)}</b>", html.escape(value), html.escape(sentence)]
            why += [f"next: <code>{html.escape(command)}</code>"] if command else []
            rows.append(
                f"<tr>{left}{html.escape(trained)}</td>{left}{'<br>'.join(filter(None, why))}</td></tr>"
            )
        return f"<table><tr><th>trained</th><th>what to do, and why</th></tr>{''.join(rows)}</table>"

    def _has_texts(self) -> bool:
        """Whether there is an answer, none of whose texts was removed in place."""
        return len(self) > 0 and set(SHOWN) <= set(self.columns)

    def _texts(self) -> Iterator[tuple[str, str, str, str, str]]:
        """List what was trained, what to do, the metric, the evidence and the command of each answer."""
        for group, context, *texts in self[list(SHOWN)].astype(str).itertuples(index=False, name=None):
            advice, value, sentence, command = texts
            yield f"{group}: {context}" if context else group, advice, value, sentence, command

"""The results of a run: tables as DataFrames, figures, answers, and the report."""

import html
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from gradbench.api.answers import Answers
from gradbench.errors import StorageError, UsageError, nearest
from gradbench.storage import results as tables
from gradbench.storage.sanitize import check_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gradbench.report import Report
    from gradbench.report.claims.verdicts import Verdict


class Results:
    """A results folder.

    Tables are read when they are first asked for; :func:`gradbench.load` reads them anew.

    Args:
        folder: the folder.

    Raises:
        UsageError: if it is no results folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = to_path("folder", folder)
        self._stored()
        check_folder(self.folder)

    def _stored(self) -> tables.Results:
        """Return the tables.

        Raises:
            UsageError: if the folder holds none, or none any more.
        """
        stored = tables.Results(self.folder)
        if not self.folder.is_dir() or not stored.is_results():
            raise UsageError(f"no results at {self.folder}; gradbench.run('quick') makes some")
        return stored

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The table of cells: one row each, with config, status and final metrics."""
        return self._stored().cells()

    @cached_property
    def curves(self) -> pd.DataFrame:
        """The table of curves: one row per cell and recorded step."""
        return self._stored().curves().reset_index(drop=True)

    def answers(self) -> Answers:
        """Answer, for each comparison, which treatment to use: a row each, with the evidence. It prints as text.

        Raises:
            UsageError: if no cell is finished.
        """
        from gradbench import report

        return Answers(report.answer_table(report.answers(self.folder)))

    def claims(self) -> pd.DataFrame:
        """Judge the claims of the experiment: a row per claim and condition; none where it claims nothing.

        Raises:
            UsageError: if the claims cannot be read.
        """
        from gradbench.report.claims.output import verdict_table
        from gradbench.report.claims.verdicts import judge_folder

        self._stored()
        return verdict_table(judge_folder(self.folder))

    def figure(self, name: str) -> "Figure":
        """Draw a figure of the report.

        Args:
            name: as in the report's folder ``figures``: ``strengths``, ``learning``, ``gradients``, ``divergence``, …

        Raises:
            UsageError: if these results have no such figure.
        """
        from gradbench import report
        from gradbench.report.figures import save_figure

        drawn = report.draw(self.folder, str(name))
        if name not in drawn:
            raise UsageError(
                f"{self.folder} has no figure {name!r}{nearest(str(name), drawn)} (there are: {', '.join(drawn)})"
            )
        found = drawn[name].figure
        found._repr_png_ = lambda: save_figure(found, "png")  # type: ignore[attr-defined]  # a notebook shows it
        return found

    def report(self) -> Path:
        """Write the report, and return the path of its page.

        Raises:
            UsageError: if there is nothing to report on.
            StorageError: if it cannot be written.
        """
        built, _ = write_report(self.folder)
        return built.page

    def __repr__(self) -> str:
        return f"Results('{self.folder}'): {self._counts()}"

    def _repr_html_(self) -> str:
        """Show the number of cells, the answers and the folder in a notebook."""
        parts = [f"<p>{html.escape(self._counts())} · <code>{html.escape(str(self.folder))}</code></p>"]
        try:
            parts.append(self.answers()._repr_html_())
        except UsageError as error:
            parts.append(f"<p>{html.escape(str(error))}</p>")
        return "\n".join(parts)

    def _counts(self) -> str:
        """Count the cells by status: ``4 cells: 3 completed, 1 diverged``."""
        counts = Counter(self.cells["status"]) if len(self.cells) else Counter[str]()
        cells = "1 cell" if len(self.cells) == 1 else f"{len(self.cells)} cells"
        parts = [f"{count} {status}" for status, count in sorted(counts.items())]
        return ": ".join(filter(None, (cells, ", ".join(parts))))


def to_path(name: str, value: object) -> Path:
    """Return the path that an argument gives.

    Raises:
        UsageError: if it is none.
    """
    if not isinstance(value, str | Path):
        raise UsageError(f"{name} is a path, such as 'results/quick', got {value!r}")
    return Path(value)


def load(folder: str | Path) -> Results:
    """Return the results in a folder, of a run from Python or from the command line.

    Raises:
        UsageError: if it is no results folder.
    """
    return Results(folder)


def write_report(
    folder: Path, on_unwritable: Callable[[StorageError], None] | None = None
) -> "tuple[Report, Sequence[Verdict]]":
    """Write the report of a results folder, its claims included; return it and their verdicts.

    Args:
        folder: the results folder.
        on_unwritable: called where the report cannot be written, instead of raising; then its answers are returned.

    Raises:
        UsageError: if there is nothing to report on.
        StorageError: if it cannot be written.
    """
    from gradbench import report
    from gradbench.report.claims.output import write_csv
    from gradbench.report.claims.section import build_sections

    sections, judged = build_sections(folder)
    try:
        built = report.build(folder, sections)
        if judged:
            write_csv(folder / "report" / "tables", judged)
    except StorageError as error:
        if on_unwritable is None:
            raise
        on_unwritable(error)
        built = report.Report(folder / "report" / "index.html", tuple(report.answers(folder)))
    return built, judged

"""Write the report of a results folder, or of several compared: figures, tables, a page and an answer.

It reads tables and never trains anything. Nothing here imports torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import methodcaller
from pathlib import Path

import pandas as pd

from gradbench.atomic import make_shared_folder, unwritable, write_atomically
from gradbench.report import figures
from gradbench.report.analysis.answer import Answer, answer_all, answer_table
from gradbench.report.analysis.audit import audit, note_widths
from gradbench.report.analysis.comparison import ComparisonGroup, list_comparisons
from gradbench.report.analysis.profiles import profile_table
from gradbench.report.analysis.tables import build_tables
from gradbench.report.diff.page import build_contents, check_distinct, report_folder
from gradbench.report.diff.pairing import short_names
from gradbench.report.figures.style import assign_looks
from gradbench.report.load.cells import LoadedResults, load_results
from gradbench.report.load.curves import scan_curves
from gradbench.report.load.read import LEFT_OUT
from gradbench.report.render import contents
from gradbench.report.render.blocks import ReportSection
from gradbench.report.render.cells import MAX_CELLS, list_cells, points_per_curve
from gradbench.report.render.html import render_html
from gradbench.report.render.markdown import render_markdown
from gradbench.report.render.samples import text_sections
from gradbench.storage.sanitize import check_folder

__all__ = ["Answer", "Report", "answer_table", "answers", "build", "compare", "draw"]


@dataclass(frozen=True)
class Report:
    """A written report: the path of its page, one answer per comparison, and lines to read beside them."""

    page: Path
    answers: tuple[Answer, ...]
    remarks: tuple[str, ...] = ()


def answers(results: Path) -> list[Answer]:
    """Compute the answer box of a results folder, one answer per comparison.

    Raises:
        UsageError: the folder holds nothing to report on.

    """
    loaded = load_results(results)
    actions = scan_curves(loaded.path, loaded.cells, (), 0).action
    return answer_all(loaded, list_comparisons(loaded), actions)


def build(results: Path, claims: Sequence[ReportSection] = ()) -> Report:
    """Write ``report/`` in a results folder, from its tables alone.

    Figures and tables of an earlier report are replaced; the same tables give the same files, byte for byte.

    Args:
        results: the results folder.
        claims: sections on claims, shown after the answer.

    Raises:
        UsageError: the folder holds nothing to report on.
        StorageError: the report cannot be written.

    """
    loaded = load_results(results)
    comparisons, found, context = _prepare_drawing(loaded, points_per_curve(len(loaded.cells)))
    drawn, scanned = context.comparisons, context.curves
    pictures = figures.start_drawing(context)
    tables = build_tables(loaded, comparisons, scanned.action)
    tables["profiles.csv"] = profile_table(drawn)
    tables["answers.csv"] = answer_table(found)
    page = contents.Contents(
        title=loaded.name,
        subtitle=contents.format_subtitle(loaded),
        question=loaded.question,
        commands=loaded.commands,
        answers=found,
        notes=audit(loaded, comparisons, scanned.notes),
        cells=list_cells(loaded, scanned.sparklines),
        sections=[
            *contents.build_sections(comparisons, drawn, tables, claims, pictures()),
            *text_sections(loaded, drawn),
        ],
    )
    written = _write_report(results / "report", page, tables)
    damaged = [note for note in (*loaded.notes, *scanned.notes) if note.startswith(LEFT_OUT)]
    widths = [line for group in comparisons for line in note_widths(group)]
    return replace(written, remarks=(*damaged, *widths))


def draw(results: Path, name: str = "") -> dict[str, figures.Drawing]:
    """Draw the figures of a report, and write nothing.

    Args:
        results: the results folder.
        name: of a figure; of the others, only those that are drawn with it are returned, and all if there is no such.

    Returns:
        Name -> drawing.

    Raises:
        UsageError: the folder holds nothing to report on.

    """
    from gradbench.report.claims.section import draw_forest
    from gradbench.report.claims.verdicts import judge_folder

    _, _, context = _prepare_drawing(load_results(results), 0)

    def draw_claims(_context: figures.Context) -> list[figures.Drawing]:
        verdicts = judge_folder(results)
        return draw_forest(verdicts) if verdicts else []

    wanted = [draw_claims] if name == "claims" else figures.named(name)
    drawn = figures.draw(wanted, context)
    if name not in drawn:
        drawn |= figures.draw(
            [one for one in [*figures.named(""), draw_claims] if one not in wanted], context
        )
    return drawn


def _prepare_drawing(
    loaded: LoadedResults, points: int
) -> tuple[list[ComparisonGroup], list[Answer], figures.Context]:
    """Return the comparisons of some results, the answer of each, and what figures are drawn from.

    Args:
        loaded: the results.
        points: of a sparkline; 0 makes none.
    """
    comparisons = list_comparisons(loaded)
    drawn = contents.choose_drawn(comparisons)
    shown = [
        group.cells_at(group.chosen_setting(treatment)) for group in drawn for treatment in group.treatments
    ]
    wanted = {cell for cells in shown for cell in cells["cell"]}
    scanned = scan_curves(loaded.path, loaded.cells, wanted, points, MAX_CELLS)
    found = answer_all(loaded, comparisons, scanned.action)
    drawn_answers = [found[comparisons.index(group)] for group in drawn]
    return (
        comparisons,
        found,
        figures.Context(loaded, scanned, drawn, drawn_answers, assign_looks(comparisons), every=comparisons),
    )


def compare(folders: Sequence[Path], out: Path | None = None) -> Report:
    """Write a report that compares the first results folder with each of the others.

    Args:
        folders: two or more results folders.
        out: folder of the report, never one of ``folders``; by default ``results/compare-`` and their names.

    Raises:
        UsageError: a folder is given twice, holds nothing to report on, or none shares a setting with the first; or
            the report would lie in one, or a link in its folder leads outside.
        StorageError: the report cannot be written.

    """
    check_distinct(folders)
    loaded = [load_results(folder) for folder in folders]
    names = short_names([str(folder) for folder in folders])
    target = report_folder(folders, names, out)
    page, tables, remarks = build_contents(loaded, names)
    return replace(_write_report(target, page, tables), remarks=tuple(remarks))


def _write_report(folder: Path, page: contents.Contents, tables: dict[str, pd.DataFrame]) -> Report:
    """Write a report's page, Markdown, figures and tables."""
    files = {f"tables/{name}": _to_csv(table) for name, table in tables.items()}
    for picture in (picture for section in page.sections for picture in section.pictures):
        files[f"figures/{picture.name}.png"] = picture.png
        files[f"figures/{picture.name}.svg"] = picture.svg
        files[f"figures/{picture.name}.narrow.png"] = picture.narrow
    files["report.md"] = render_markdown(page).encode("utf-8")
    files["index.html"] = render_html(page).encode("utf-8")
    _write_files(folder, files)
    return Report(folder / "index.html", tuple(page.answers))


def _to_csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False, lineterminator="\n").encode("utf-8")


def _write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write each file atomically, and remove the figures and tables of an earlier report."""
    check_folder(folder, ("figures", "tables"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        make_shared_folder(folder)
        for kind in ("figures", "tables"):
            make_shared_folder(folder / kind)
            for old in (folder / kind).iterdir():
                if old.suffix in (".png", ".svg", ".csv") and f"{kind}/{old.name}" not in files:
                    old.unlink()
    except OSError as error:
        raise unwritable(folder, error) from error
    for name, data in files.items():
        write_atomically(folder / name, methodcaller("write", data))

"""From the tables of a results folder to figures, a page and an answer. Nothing here imports torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path

import pandas as pd

from gradbench.atomic import unwritable, write_atomically
from gradbench.report import figures
from gradbench.report.analysis import answer as answering
from gradbench.report.analysis import profiles
from gradbench.report.analysis import tables as summary
from gradbench.report.analysis.answer import Answer
from gradbench.report.analysis.audit import audit
from gradbench.report.analysis.comparison import comparisons
from gradbench.report.diff import page as side_by_side
from gradbench.report.diff import pairing as versus
from gradbench.report.figures.style import looks
from gradbench.report.load import curves
from gradbench.report.load.cells import load
from gradbench.report.render import cells, contents, markdown
from gradbench.report.render import html as page
from gradbench.report.render.blocks import Section

__all__ = ["Answer", "Report", "answers", "build", "compare"]


@dataclass(frozen=True)
class Report:
    """A report that has been written: its page, and one answer per comparison."""

    page: Path
    answers: tuple[Answer, ...]


def answers(results: Path) -> list[Answer]:
    """Return the answer box of a results folder, one answer per comparison.

    Raises:
        UsageError: the folder holds nothing to report on.

    """
    return answering.answers(load(results))


def build(results: Path, claims: Sequence[Section] = ()) -> Report:
    """Write ``report/`` in a results folder, from its tables alone.

    The folder's figures and tables are replaced; the same tables give the same files, byte for byte.

    Args:
        results: the folder.
        claims: sections that stand behind the answer.

    Raises:
        UsageError: the folder holds nothing to report on.
        StorageError: the report cannot be written.

    """
    loaded = load(results)
    groups = comparisons(loaded)
    found = [answering.answer(group) for group in groups]
    drawn = contents.drawn(groups, found)
    shown = [group.at(group.chosen(treatment)) for group in drawn for treatment in group.treatments]
    wanted = {cell for part in shown for cell in part["cell"]}
    scanned = curves.scan(results, loaded.cells, wanted, cells.points(len(loaded.cells)))
    told = [found[groups.index(group)] for group in drawn]
    pictures = figures.begin(figures.Context(loaded, scanned, drawn, told, looks(groups)))
    tables = summary.tables(loaded, groups, scanned.action)
    tables["profiles.csv"] = profiles.table(drawn)
    tables["answers.csv"] = pd.DataFrame(found)
    findings = audit(loaded, groups, scanned.notes)
    listed = cells.listing(loaded, scanned.sketches)
    sections = contents.sections(groups, drawn, tables, claims, pictures())
    about = (loaded.name, contents.subtitle(loaded), loaded.question, loaded.command)
    content = contents.Contents(*about, found, sections, findings, listed)
    return _written(results / "report", content, tables)


def compare(folders: Sequence[Path], out: Path | None = None) -> Report:
    """Write a report of several results folders side by side, the first against each other one.

    Args:
        folders: two or more.
        out: where it goes; ``results/compare-`` and their names by default. Never into one of them.

    Raises:
        UsageError: a folder is given twice, or holds nothing to report on; or the report would lie in one.
        StorageError: the report cannot be written.

    """
    side_by_side.check_apart(folders)
    loaded = [load(folder) for folder in folders]
    names = versus.names([str(folder) for folder in folders])
    place = side_by_side.folder_for(folders, names, out)
    content, tables = side_by_side.contents(loaded, names)
    return _written(place, content, tables)


def _written(folder: Path, content: contents.Contents, tables: dict[str, pd.DataFrame]) -> Report:
    """Write page, Markdown, figures and tables."""
    files = {f"tables/{name}": _csv(table) for name, table in tables.items()}
    for picture in (picture for section in content.sections for picture in section.pictures):
        files[f"figures/{picture.name}.png"] = picture.png
        files[f"figures/{picture.name}.svg"] = picture.svg
    files["report.md"] = markdown.render(content).encode("utf-8")
    files["index.html"] = page.render(content).encode("utf-8")
    _write(folder, files)
    return Report(folder / "index.html", tuple(content.answers))


def _csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False, lineterminator="\n").encode("utf-8")


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Write each file whole or not at all, and remove figures and tables of an earlier report."""
    try:
        for kind in ("figures", "tables"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            for old in (folder / kind).iterdir():
                if old.suffix in (".png", ".svg", ".csv") and f"{kind}/{old.name}" not in files:
                    old.unlink()
    except OSError as error:
        raise unwritable(folder, error) from error
    for name, data in files.items():
        write_atomically(folder / name, methodcaller("write", data))

"""From the tables of a results folder to figures, a page and an answer. Nothing here imports torch."""

from io import BytesIO
from operator import methodcaller
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from gradbench.files import unwritable, write_atomically
from gradbench.report import answer as answering
from gradbench.report import figures, page, summary
from gradbench.report.answer import Answer
from gradbench.report.audit import audit
from gradbench.report.compare import comparisons
from gradbench.report.style import RC, looks
from gradbench.report.tables import load

__all__ = ["Answer", "answers", "build"]


def answers(results: Path) -> list[Answer]:
    """Return the answer box of a results folder, one answer per comparison.

    Raises:
        UsageError: the folder holds nothing to report on.

    """
    return answering.answers(load(results))


def build(results: Path) -> Path:
    """Write ``report/`` in a results folder, from its tables alone, and return the page.

    The folder's figures and tables are replaced; the same tables give the same files, byte for byte.

    Raises:
        UsageError: the folder holds nothing to report on.
        StorageError: the report cannot be written.

    """
    loaded = load(results)
    groups = comparisons(loaded)
    found = [answering.answer(group) for group in groups]
    tables = summary.tables(loaded, groups)
    tables["answers.csv"] = pd.DataFrame(found)
    drawings = figures.draw(figures.Context(loaded, groups, found, looks(groups)))
    drawn = [drawing for section in drawings.values() for drawing in section]
    pictures = {drawing.name: _picture(drawing.figure, "png") for drawing in drawn}
    files = {f"figures/{name}.png": data for name, data in pictures.items()}
    files |= {f"figures/{drawing.name}.svg": _picture(drawing.figure, "svg") for drawing in drawn}
    files |= {f"tables/{name}": _csv(table) for name, table in tables.items()}
    judged = tables["comparisons.csv"]
    html = page.render(loaded, groups, found, audit(loaded, groups), judged, drawings, pictures)
    files["index.html"] = html.encode("utf-8")
    _write(results / "report", files)
    return results / "report" / "index.html"


def _picture(figure: Figure, kind: str) -> bytes:
    """Return a figure as a file's bytes, without the date that would make each one different."""
    buffer = BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context(RC):
        figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


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

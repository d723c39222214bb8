"""Make the reference results that git keeps from a run of the article's experiments; verdicts stay the same.

    python experiments/article/reference.py results/article-full results/article

Of each experiment it keeps its frozen file, all cells in one part, of the curves what the claims read and ``POINTS``
whole rows per cell, and the figures that the claims name. Arrays and the rest of the report are left out.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from gradbench.errors import StorageError, UsageError
from gradbench.files import write_table
from gradbench.parts import part_name
from gradbench.report.verdicts import Verdict, table, verdicts
from gradbench.results import Results

POINTS = 20
"""Whole rows of a cell's curve."""

ELSEWHERE = ["command", "figure"]
"""Columns of the table of claims that say where something is, not what was found."""


def thinned(curves: pd.DataFrame, read: Sequence[str]) -> pd.DataFrame:
    """Keep ``POINTS`` rows of each cell, evenly spread, the last among them; of other rows what ``read`` names."""
    curves = curves.sort_values(["cell", "step"]).reset_index(drop=True)
    steps = curves.groupby("cell")["step"]
    place, n = steps.cumcount(), steps.transform("size")
    whole = (place + 1) * POINTS // n > place * POINTS // n
    kept = whole | curves[list(read)].notna().any(axis=1)
    others = curves.columns.difference(["cell", "step", *read])
    curves[others] = curves[others].where(whole)
    return curves[kept].reset_index(drop=True)


def halved(curves: pd.DataFrame) -> pd.DataFrame:
    """Return numbers in 32 bits where that loses nothing."""
    small = curves.select_dtypes("float64").astype(np.float32)
    return curves.assign(
        **{name: small[name] for name in small if small[name].astype(float).equals(curves[name])}
    )


def keep(run: Path, place: Path) -> None:
    """Write one experiment's reference results.

    Args:
        run: its results folder, report included.
        place: where to; what was there is replaced.

    Raises:
        UsageError: where there is no run, no figure, or another verdict than before.
    """
    found, results = verdicts(run), Results(run)
    cells, curves = results.cells(), results.curves()
    read = sorted({one.claim.metric for one in found if one.claim.reads_curves} & set(curves))
    figures = {one.figure for one in found}
    for figure in figures:
        if not figure.is_file():
            raise UsageError(f"there is no {figure}; draw it with `gradbench report {run}`")
    if (place / "experiment.yaml").is_file():
        shutil.rmtree(place)
    name = part_name(cells["cell"])
    for folder in ("cells", "curves"):
        (place / folder).mkdir(parents=True)
    shutil.copyfile(run / "experiment.yaml", place / "experiment.yaml")
    write_table(place / "cells" / name, pa.Table.from_pandas(cells, preserve_index=False))
    curves = halved(thinned(curves, read))
    write_table(place / "curves" / name, pa.Table.from_pandas(curves, preserve_index=False))
    for figure in figures:
        Image.open(figure).convert("RGB").quantize(64).save(place / figure.name, optimize=True)
    compare(found, verdicts(place))


def compare(before: Sequence[Verdict], after: Sequence[Verdict]) -> None:
    """Refuse reference results that say anything else than their run."""
    tables = [table(found).drop(columns=ELSEWHERE) for found in (before, after)]
    if not tables[0].equals(tables[1]):
        raise UsageError(f"the claims of {after[0].folder} do not come out as those of {before[0].folder}")


def main(run: Path, place: Path) -> None:
    """Write the reference results of every experiment in a folder."""
    folders = sorted(path.parent for path in run.glob("*/experiment.yaml"))
    if not folders:
        raise UsageError(f"no results in {run}; make them with `make article`")
    for folder in folders:
        keep(folder, place / folder.name)
        size = sum(path.stat().st_size for path in (place / folder.name).rglob("*") if path.is_file())
        print(f"{place / folder.name}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: python {sys.argv[0]} RUN PLACE, like results/article-full results/article")
    try:
        main(*map(Path, sys.argv[1:]))
    except (UsageError, StorageError) as error:
        sys.exit(f"error: {error}")

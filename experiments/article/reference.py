"""Reduce a run of the article's experiments to the reference results in git, with the same verdicts.

    python experiments/article/reference.py results/article-full results/article

Of each experiment it keeps the frozen file, all cells in one part, what was timed, the figures that the claims name,
and of the curves all that the claims read, and ``POINTS`` steps per cell of what a report draws. Arrays and the rest of
the report are left out.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.testing import assert_frame_equal
from PIL import Image

from gradbench.errors import StorageError, UsageError
from gradbench.report.claims.output import verdict_table
from gradbench.report.claims.verdicts import Verdict, judge_folder
from gradbench.report.load.read import CURVES
from gradbench.storage.costs import NAME
from gradbench.storage.parquet import write_table
from gradbench.storage.results import RECORDED, Results
from gradbench.storage.schema import part_name

POINTS = 10
"""Number of steps of a cell's curve at which all that a report draws is kept."""

ELSEWHERE = ["command", "figure"]
"""Columns of the table of claims that locate something, and are no findings."""


def thinned(curves: pd.DataFrame, read: Sequence[str]) -> pd.DataFrame:
    """Keep ``POINTS`` evenly spaced rows of each cell, the last included; of other rows only the columns ``read``."""
    curves = curves.sort_values(["cell", "step"]).reset_index(drop=True)
    steps = curves.groupby("cell")["step"]
    place, n = steps.cumcount(), steps.transform("size")
    whole = (place + 1) * POINTS // n > place * POINTS // n
    kept = whole | curves[list(read)].notna().any(axis=1)
    others = curves.columns.difference(["cell", "step", *read])
    curves[others] = curves[others].where(whole)
    return curves[kept].reset_index(drop=True)


def halved(curves: pd.DataFrame) -> pd.DataFrame:
    """Convert columns to float32 where that is lossless."""
    small = curves.select_dtypes("float64").astype(np.float32)
    return curves.assign(
        **{name: small[name] for name in small if small[name].astype(float).equals(curves[name])}
    )


def keep(run: Path, place: Path) -> None:
    """Write one experiment's reference results.

    Args:
        run: results folder with its report.
        place: folder to write; existing reference results are replaced once the new ones give the run's verdicts.

    Raises:
        UsageError: if the run or a figure is missing, a verdict differs, or ``place`` holds something else.
    """
    if place.exists() and not (place / "experiment.yaml").is_file():
        raise UsageError(f"{place} holds something else than reference results; move it away")
    found, fresh = judge_folder(run), place.with_name(f".{place.name}")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        write(run, found, fresh)
        compare(found, judge_folder(fresh))
        shutil.rmtree(place, ignore_errors=True)
        fresh.rename(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def write(run: Path, found: Sequence[Verdict], place: Path) -> None:
    """Write the reduced results of a run, and the figures of its claims, to a new folder."""
    results = Results(run)
    # what its rows promise is left out or reduced, so they promise nothing
    cells, curves = results.cells().drop(columns=RECORDED, errors="ignore"), results.curves()
    read = sorted({one.claim.metric for one in found if one.claim.reads_curves} & set(curves))
    figures = {one.figure for one in found}
    for figure in figures:
        if not figure.is_file():
            raise UsageError(f"there is no {figure}; draw it with `gradbench report {run}`")
    name = part_name(cells["cell"])
    for folder in ("cells", "curves"):
        (place / folder).mkdir(parents=True)
    shutil.copyfile(run / "experiment.yaml", place / "experiment.yaml")
    if (run / NAME).is_dir():
        shutil.copytree(run / NAME, place / NAME)
    write_table(place / "cells" / name, pa.Table.from_pandas(cells, preserve_index=False))
    drawn = {"cell", "step", *CURVES, *cells["model.metric"], *read}
    curves = halved(thinned(curves[[column for column in curves if column in drawn]], read))
    write_table(place / "curves" / name, pa.Table.from_pandas(curves, preserve_index=False))
    for figure in figures:
        Image.open(figure).convert("RGB").quantize(64).save(place / figure.name, optimize=True)


def compare(before: Sequence[Verdict], after: Sequence[Verdict]) -> None:
    """Raise ``UsageError`` if verdicts differ, up to the rounding of sums in another order."""
    tables = [verdict_table(found).drop(columns=ELSEWHERE, errors="ignore") for found in (before, after)]
    try:
        assert_frame_equal(*tables, rtol=1e-9, atol=1e-12)
    except AssertionError as error:
        raise UsageError(
            f"what would be kept of {before[0].folder} says something else of its claims; it is not written"
        ) from error


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
    except (UsageError, StorageError, OSError) as error:
        sys.exit(f"error: {error}")

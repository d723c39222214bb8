"""Results folders without training: what a worker would write, what a stranger reads, and a kill at a given instant."""

import itertools
import os

import numpy as np
import pandas as pd

from gradbench.storage.results import Results

A, B, C, D = (letter * 16 for letter in "abcd")


def train(folder, cells, **more):
    """Write what a worker writes of cells; the same each time. D has no arrays."""
    rows = [
        {"cell": cell, "status": "completed", "command": f"gradbench run seed={cell}"} | more
        for cell in cells
    ]
    curves = pd.DataFrame([{"cell": cell, "step": step} for cell in cells for step in (1, 2, 3)])
    arrays = {cell: {"z": np.full(40, ord(cell[0]))} for cell in cells if cell != D}
    Results(folder).write(rows, curves, arrays)


def content(folder):
    """Return tables and arrays as a stranger reads them."""
    tables = [
        pd.read_parquet(folder / table).sort_values(by, ignore_index=True).to_dict("list")
        for table, by in (("cells", ["cell"]), ("curves", ["cell", "step"]))
    ]
    arrays = {}
    for path in sorted((folder / "arrays").glob("*.npz")):
        with np.load(path) as stored:
            arrays[path.name] = {name: stored[name].tolist() for name in stored}
    return tables, arrays


def flip(path):
    """Flip a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


class Killed(BaseException):
    pass


def kill_at(monkeypatch, number):
    """Die before the given rename or removal of a file, of which files still being written are not counted."""
    counted = itertools.count()

    def deadly(real):
        def dying(path, *others, **named):
            torn = real is unlink and str(path).endswith(".tmp")
            if not torn and next(counted) == number:
                raise Killed
            return real(path, *others, **named)

        return dying

    unlink = os.unlink
    for name in ("replace", "rename", "unlink"):
        monkeypatch.setattr(os, name, deadly(getattr(os, name)))

"""TensorBoard: event files in ``tensorboard/CELL`` of the results folder, shown by ``tensorboard --logdir``."""

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams

from gradbench.grid.cell import Cell
from gradbench.storage.results import describe
from gradbench.trackers.tracker import Points


class TensorBoard:
    """Writes one folder of event files per cell.

    Torch's writer would need a thread and an open file for each cell of a stack.
    """

    def __init__(self, cells: Sequence[Cell], folder: Path) -> None:
        # a new file each time: what follows a record that a kill cut short is not read
        name = f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        self.cells, self.paths = cells, [folder / "tensorboard" / cell.id / name for cell in cells]

    def open(self, first: int) -> None:
        """Begin a file for each cell; earlier events from the first step on are not shown."""
        for cell, path in zip(self.cells, self.paths, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            config = {
                key: value if isinstance(value, bool | int | float | str) else str(value)
                for key, value in describe(cell).items()
            }
            metric = {str(cell.config["model"]["metric"]): 0.0}
            experiment, start, end = hparams(config, metric)  # type: ignore[no-untyped-call]
            events = [
                Event(file_version="brain.Event:2"),
                Event(step=first, session_log=SessionLog(status=SessionLog.START)),
                *(Event(summary=summary) for summary in (experiment, start, end)),
            ]
            write(path, events)

    def log(self, points: Points) -> None:
        """Append the values of some steps to each cell's file."""
        for k, path in enumerate(self.paths):
            events = []
            for step, values in points.items():
                found = [
                    Summary.Value(tag=name, simple_value=float(value[k]))
                    for name, value in values.items()
                    if not math.isnan(value[k])
                ]
                events += [Event(step=step, summary=Summary(value=found))] if found else []
            write(path, events)

    def end(self, statuses: Sequence[str]) -> None:
        """Do nothing: a file has no end."""


def write(path: Path, events: Sequence[Event]) -> None:
    """Append events to a file."""
    with path.open("ab") as file:
        records = RecordWriter(file)
        for event in events:
            event.wall_time = time.time()
            records.write(event.SerializeToString())


backend = TensorBoard

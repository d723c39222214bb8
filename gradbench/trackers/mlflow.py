"""MLflow: a run per cell, where ``MLFLOW_TRACKING_URI`` says; its experiment has the name of the results folder."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from gradbench.grid.cell import Cell
from gradbench.storage.results import describe
from gradbench.trackers.tracker import Points

CELL, STATUS = "gradbench.cell", "gradbench.status"
"""Tags of a run: the cell's id, and how it ended."""

MAX_METRICS, MAX_PARAMS, MAX_TEXT = 1000, 100, 500
"""Numbers and parameters of a request, and characters of a parameter, as MLflow limits them."""


class MLflow:
    """Writes one run per cell."""

    def __init__(self, cells: Sequence[Cell], folder: Path) -> None:
        self.client = MlflowClient()
        self.cells, self.name = cells, f"gradbench/{folder.resolve().name}"
        self.runs: list[str] = []
        self.seen: list[int] = []

    def open(self, first: int) -> None:
        """Begin a run for each cell, or go on with the one that it has: what that has is not written again."""
        experiment = self.experiment()
        known = self.known_runs(experiment)
        for cell in self.cells:
            if cell.id in known:
                run = known[cell.id]
                self.client.update_run(run, status="RUNNING")
                history = self.client.get_metric_history(run, "loss")
                self.seen.append(max((metric.step for metric in history), default=0))
            else:
                tags = {CELL: cell.id}
                run = self.client.create_run(experiment, tags=tags, run_name=cell.id).info.run_id
                params = [Param(key, str(value)[:MAX_TEXT]) for key, value in describe(cell).items()]
                for start in range(0, len(params), MAX_PARAMS):
                    self.client.log_batch(run, params=params[start : start + MAX_PARAMS])
                self.seen.append(0)
            self.runs.append(run)

    def experiment(self) -> str:
        """Return the id of the experiment, which another worker may be making."""
        found = self.client.get_experiment_by_name(self.name)
        if found is None:
            try:
                return str(self.client.create_experiment(self.name))
            except MlflowException:
                found = self.client.get_experiment_by_name(self.name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def known_runs(self, experiment: str) -> dict[str, str]:
        """Return cell id -> run id of the runs that there are."""
        found: dict[str, str] = {}
        token = None
        while True:
            page = self.client.search_runs([experiment], page_token=token)
            found |= {run.data.tags.get(CELL, ""): str(run.info.run_id) for run in page}
            token = page.token
            if not token:
                return found

    def log(self, points: Points) -> None:
        """Write the values of some steps to each cell's run."""
        now = int(1000 * time.time())
        for k, run in enumerate(self.runs):
            metrics = [
                Metric(name, float(value[k]), now, step)
                for step, values in points.items()
                if step > self.seen[k]
                for name, value in values.items()
                if math.isfinite(value[k])
            ]
            for start in range(0, len(metrics), MAX_METRICS):
                self.client.log_batch(run, metrics=metrics[start : start + MAX_METRICS])

    def end(self, statuses: Sequence[str]) -> None:
        """End each cell's run, and tag it with its status."""
        for run, status in zip(self.runs, statuses or ["failed"] * len(self.runs), strict=True):
            self.client.set_tag(run, STATUS, status)
            self.client.set_terminated(run, "FAILED" if status == "failed" else "FINISHED")


backend = MLflow

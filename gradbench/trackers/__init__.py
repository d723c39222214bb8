"""Trackers: show each cell as a run in TensorBoard or MLflow while it trains (``tracker=tensorboard``).

A tracker listens to the training loop and writes in a thread of its own: whatever becomes of it, training goes on.
Results never depend on it.
"""

from importlib.util import find_spec

from gradbench.errors import UsageError

TRACKERS = {"tensorboard": "tensorboard", "mlflow": "mlflow"}
"""Value of the key ``tracker`` -> the package that it needs, which gradbench's extra of the same name installs."""


def check_installed(tracker: str | None) -> None:
    """Raise ``UsageError`` if a tracker's package is not installed; it is not imported."""
    if tracker is not None and find_spec(TRACKERS[tracker]) is None:
        raise UsageError(
            f"tracker={tracker} needs the package {TRACKERS[tracker]}; type: pip install 'gradbench[{tracker}]'"
        )

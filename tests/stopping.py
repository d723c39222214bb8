"""Trainings that are stopped and gone on with, and how two of them are compared."""

import numpy as np

from gradbench.training.checkpoint import Checkpoint


class StopError(Exception):
    """What a test stops a training with."""


def always(path, **fingerprint):
    return Checkpoint(path, fingerprint or {"cells": ["a"]}, seconds=0.0)


class Heard:
    """A listener that keeps what it is told, and stops the training once a step is reached."""

    def __init__(self, stop=float("inf")):
        self.stop, self.chunks, self.evaluations, self.statuses = stop, {}, {}, None

    def on_chunk(self, step, series):
        self.chunks[step] = {name: values.copy() for name, values in series.items()}
        if step >= self.stop:
            raise StopError

    def on_evaluation(self, step, metrics):
        self.evaluations[step] = {name: values.copy() for name, values in metrics.items()}

    def on_end(self, statuses):
        self.statuses = statuses


def stop_at(step):
    return [Heard(step)]


def assert_same_outcome(one, other):
    np.testing.assert_array_equal(one.diverged_at, other.diverged_at)
    for name, curve in one.curves.items():
        np.testing.assert_array_equal(curve, other.curves[name], err_msg=name)
    assert one.evaluations.keys() == other.evaluations.keys()
    for step, metrics in one.evaluations.items():
        for name, values in metrics.items():
            np.testing.assert_array_equal(values, other.evaluations[step][name], err_msg=f"{step} {name}")
    for mine, theirs in zip(one.arrays, other.arrays, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)

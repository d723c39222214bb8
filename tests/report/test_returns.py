"""What a report shows of agents: the returns of episodes, and learning curves over steps of the environment."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import synthetic

from gradbench.report.analysis.comparison import list_comparisons
from gradbench.report.figures import returns
from gradbench.report.figures.learning import columns_of, in_environment_steps
from gradbench.report.figures.panels import WIDE
from gradbench.report.figures.style import assign_looks
from gradbench.report.load import cells as tables

MEANS = {"none": 100.0, "clip_norm": 400.0}


def stored(folder, **arrays):
    """Write a folder of cells with known returns; return what a figure is drawn from."""
    cells = synthetic.write(
        folder,
        models=["mlp"],
        strengths={"none": (), "clip_norm": (1.0,)},
        seeds=3,
        statuses={"*": "completed"},
    )
    (folder / "arrays").mkdir(exist_ok=True)
    for _, row in cells.iterrows():
        own = {"returns": MEANS[row["regularizer"]] + np.array([-50.0, 0.0, 50.0])} | arrays
        np.savez(folder / "arrays" / f"{row['cell']}.npz", **own)
    results = tables.load_results(folder)
    found = list_comparisons(results)
    return SimpleNamespace(results=results, comparisons=found, looks=assign_looks(found), layout=WIDE)


def test_returns_are_shares_of_the_episodes_of_all_seeds_and_the_line_is_their_mean(tmp_path):
    (drawing,) = returns.draw(stored(tmp_path))
    panels = [ax for ax in drawing.figure.axes if ax.get_xlabel() == "return"]
    assert len(panels) == 2
    for ax, mean in zip(panels, MEANS.values(), strict=True):
        (patch,), (line,) = ax.patches, ax.lines
        assert sum(patch.get_data().values) == 1
        assert line.get_xdata()[0] == mean
    assert "clip_norm returns 400 per episode, with none 100" in drawing.title


def test_returns_that_are_not_finite_are_left_out_and_without_any_there_is_no_figure(tmp_path):
    (tmp_path / "some").mkdir()
    (drawing,) = returns.draw(stored(tmp_path / "some", returns=np.array([np.nan, 7.0])))
    assert "returns 7 per episode" in drawing.title
    (tmp_path / "none").mkdir()
    assert returns.draw(stored(tmp_path / "none", returns=np.array([np.nan]))) == []


def test_curves_of_agents_count_steps_of_the_environment_and_others_keep_theirs():
    rows = pd.DataFrame({"cell": "a", "step": [1, 2, 3, 4], "loss": 1.0})
    assert in_environment_steps(rows) is rows
    rows["train/environment_steps"] = [np.nan, 1024.0, np.nan, 2048.0]
    assert list(in_environment_steps(rows)["step"]) == [512, 1024, 1536, 2048]


def test_agents_that_are_compared_by_another_metric_show_their_returns_beside_it():
    rows = pd.DataFrame(
        {"cell": "a", "step": [1, 2], "loss": 1.0, "train/mean_return": 20.0, "test/return": 30.0}
    )
    shown = {}
    for kind, found in (("agent", rows.assign(**{"train/environment_steps": [512, 1024]})), ("other", rows)):
        context = SimpleNamespace(curves=SimpleNamespace(rows=found, rows_of=lambda _, found=found: found))
        for metric in ("train/mean_return", "test/return", "test/loss"):
            comparison = SimpleNamespace(metric=metric, unit="its unit", cells=None)
            shown[kind, metric] = columns_of(context, comparison)
    assert list(shown["agent", "train/mean_return"]) == ["loss", "train/mean_return", "test/return"]
    assert shown["agent", "test/return"] == {"loss": "training loss", "test/return": "its unit"}
    assert list(shown["other", "train/mean_return"]) == ["loss", "train/mean_return"]
    assert list(shown["other", "test/loss"]) == ["loss"]

"""Claims about what no table has are refused at the plan."""

import pytest
import yaml
from small import CONFIGS, in_suites

from gradbench.errors import UsageError
from gradbench.sweep.plan import make_plan

GRID = {"model": "mlp", "regularizer": ["none", "clip_norm"], "seed": [0]}
CLAIM = {
    "id": "a",
    "sentence": "s",
    "metric": "test/accuracy",
    "goal": "max",
    "treatment": {"regularizer": "clip_norm"},
    "control": {"regularizer": "none"},
    "above": 0,
}


def plan(tmp_path, grid=(), words=(), **changed):
    path = tmp_path / "mine.yaml"
    path.write_text(
        yaml.safe_dump({"question": "?", "grid": {**GRID, **dict(grid)}, "claims": [CLAIM | changed]})
    )
    return make_plan(str(path), list(words), results=tmp_path / "out")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"metric": "test/acuracy"}, r"reports metric: test/acuracy; did you mean 'test/accuracy'"),
        (
            {"treatment": {"regulariser": "clip_norm"}},
            r"treatment names regulariser, which no cell has; did you mean",
        ),
        (
            {"control": {"regularizer": "non"}},
            r"control wants regularizer: non, which is none of them; did you mean",
        ),
        ({"per": "optimizer.rate"}, r"per names optimizer.rate, which no cell has"),
        ({"pool": ["dat"]}, r"pool names dat, which no cell has"),
        ({"test": "trend", "along": "model.deep"}, r"along names model.deep, which no cell has"),
    ],
)
def test_a_name_that_no_table_has_is_refused_with_the_nearest(tmp_path, changed, said):
    with pytest.raises(UsageError, match=said):
        plan(tmp_path, **changed)


def test_names_of_what_the_command_line_leaves_out_stand(tmp_path):
    among = {"treatment": {"regularizer": "clip_norm", "regularizer.threshold": 1}}
    assert plan(tmp_path, words=["regularizer=none"], **among).cells
    assert plan(tmp_path, metric="test/perplexity").cells


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"control": {"regularizer": "gp"}}, "its control, which has regularizer: gp;"),
        (
            {"treatment": {"regularizer": ["gp", "zclip"]}},
            "its treatment, which has regularizer: gp or zclip;",
        ),
        (
            {"control": {"regularizer": "none", "seed": 7}},
            "its control, which has regularizer: none, seed: 7;",
        ),
        ({"among": {"optimizer.lr": 3}}, "its treatment, which has optimizer.lr: 3, regularizer: clip_norm;"),
    ],
)
def test_a_side_that_no_cell_of_the_whole_grid_can_be_is_refused(tmp_path, changed, said):
    for words in ((), ("regularizer=none",)):
        with pytest.raises(UsageError, match=f"^claim a: no cell of the grid is {said}"):
            plan(tmp_path, words=words, **changed)


def test_a_side_of_the_whole_grid_may_be_left_out_by_words_or_brought_by_them(tmp_path):
    assert plan(tmp_path, words=["regularizer=clip_norm", "seed=3"]).cells
    above = {"treatment": {"regularizer": "clip_norm", "regularizer.threshold": [1.0]}}
    assert plan(tmp_path, words=["regularizer.threshold=3"], **above).cells
    assert plan(tmp_path, words=["optimizer.lr=3"], among={"optimizer.lr": 3}).cells


def test_metrics_of_ones_own_are_known(tmp_path, monkeypatch):
    top = ["model.metrics.top=metrics_of_mine.top"]
    (tmp_path / "metrics_of_mine.py").write_text("def top(outputs, targets):\n    return outputs[:, 0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert plan(tmp_path, words=top, metric="test/top").cells
    with pytest.raises(UsageError, match=r"reports metric: test/tip; did you mean 'test/top'"):
        plan(tmp_path, words=top, metric="test/tip")


@in_suites(
    "name", [("quick",), ("deep",)], [(name,) for name in sorted(CONFIGS.experiments) if name != "nanogpt"]
)  # it downloads
def test_the_claims_of_every_experiment_name_what_there_is(name, tmp_path):
    assert make_plan(name, ["seed=range(2)"], results=tmp_path / "out").cells

"""The goal and the label of a compared metric follow the metric."""

import pytest
from small import CONFIGS, MODELS, cells, data_of

from gradbench.config.compose import Configs, Experiment
from gradbench.config.metric import GOALS
from gradbench.errors import UsageError
from gradbench.grid.expand import expand
from gradbench.sweep.plan import try_networks
from gradbench.training.program import build

TOP = ["model=classifier", "model.network=a.B", "model.metrics.top3=a.f", "model.metric=test/top3"]


def labels(*words, configs=CONFIGS):
    """Return goal and unit of the cell of some words, which its command gives back."""
    (cell,) = expand(configs, Experiment("x"), configs.parse(list(words)), lambda _config: "f" * 64)
    (again,) = expand(configs, Experiment("x"), configs.parse(cell.words), lambda _config: "f" * 64)
    model = cell.config["model"]
    assert (again.id, again.config) == (cell.id, cell.config)
    return model["goal"], model["unit"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model=mlp"], ("max", "accuracy, test")),
        (["model=mlp", "model.metric=test/accuracy"], ("max", "accuracy, test")),
        (["model=mlp", "model.metric=test/loss"], ("min", "loss, test")),
        (["model=mlp", "model.metric=gap/accuracy"], ("min", "accuracy, gap")),
        (["model=mlp", "model.metric=test/loss", "model.unit=nats"], ("min", "nats")),
        (["model=mlp", "model.metric=test/gradient_norm", "model.goal=min"], ("min", "gradient_norm, test")),
        ([*TOP, "model.goal=max"], ("max", "top3, test")),
        ([*TOP, "model.goal=min", "model.unit='accuracy, test'"], ("min", "accuracy, test")),
    ],
)
def test_goal_and_unit_are_those_of_the_metric(words, expected):
    assert labels(*words) == expected


@pytest.mark.parametrize(
    "words",
    [
        TOP,
        ["model=mlp", "model.metric=test/gradient_norm"],
        ["model=mlp", "model.metrics.mse=a.f", "model.metric=test/mse"],
        ["model=mine", "model.metric=test/mine"],
    ],
)
def test_a_metric_whose_goal_nobody_knows_needs_one(words, tmp_path):
    (tmp_path / "model").mkdir()
    text = CONFIGS.path("model", "mlp").read_text().replace("gradbench.models.mlp.Classifier", "a.Task")
    (tmp_path / "model/mine.yaml").write_text(text.replace("name: mlp", "name: mine"))
    with pytest.raises(UsageError, match=f"^{words[-1]} needs a goal: add model.goal=min or model.goal=max$"):
        labels(*words, configs=Configs(tmp_path))


@pytest.mark.parametrize("model", MODELS)
def test_the_goal_of_every_metric_that_a_model_reports_is_known_or_known_to_be_open(model):
    (cell,) = cells(model, "none")
    names = try_networks(build(cell.config, data_of(cell)).model)
    assert names
    assert {name for name in names if name not in GOALS and name.partition("/")[2] not in GOALS} == set()

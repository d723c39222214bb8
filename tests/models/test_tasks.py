"""Tasks with networks, losses and metrics of the user's own: what they train, report and refuse."""

import inspect
from inspect import signature

import networks
import numpy as np
import pytest
import tasks
import torch
import torch.nn.functional as F
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from small import CONFIGS, CPU, MODELS, OWN_CONFIGS, SIZES, cells, data_of, written
from torch import nn

from gradbench.config.compose import Configs, Experiment
from gradbench.config.instantiate import fingerprint
from gradbench.errors import UsageError
from gradbench.functional.flat_params import Layout, flatten
from gradbench.grid.expand import expand
from gradbench.models.classification import ClassificationTask
from gradbench.models.language_modelling import LanguageModellingTask
from gradbench.models.wgan import WassersteinGAN
from gradbench.sweep.plan import try_networks, validate
from gradbench.training.bind import init_state
from gradbench.training.draws import draw_chunk
from gradbench.training.loop import train
from gradbench.training.program import build
from gradbench.training.setup import build_stack

# ---- whole tasks of a user's own ---------------------------------------------------------------------------

OWN = {"denoising": "Denoising", "tagging": "Tagging", "labelling": "MultiLabel"}
"""Model of tests/own -> its class."""


def own_cells(task, *words):
    """Return the cells of a task of the user's own, from a folder of configs."""
    typed = OWN_CONFIGS.parse([f"model={task}", "optimizer.lr=0.02", "seed=0,1", *words])
    return expand(OWN_CONFIGS, Experiment("own"), typed, fingerprint)


@pytest.mark.parametrize("task", OWN)
def test_a_task_of_ones_own_is_less_than_20_lines_and_learns(task):
    assert len(inspect.getsource(getattr(tasks, OWN[task])).splitlines()) < 20
    stack = own_cells(task)
    validate(stack)
    outcome = train(stack, data_of(stack[0]), CPU)
    losses = outcome.curves["loss"]
    assert (losses[-10:].mean(axis=0) < 0.9 * losses[:10].mean(axis=0)).all()
    assert np.isfinite(outcome.evaluations[60][stack[0].config["model"]["metric"]]).all()


def test_noise_of_examples_is_that_of_the_cells_seed_and_other_noise_in_every_step():
    stack = own_cells("denoising")
    setup = build_stack(stack, data_of(stack[0]), CPU)
    drawn = draw_chunk(setup, 0)["network"]["noise/noise"]
    assert drawn.shape == (2, 50, 8, 1, 8, 8)
    assert len(drawn.flatten(0, 1).flatten(1).unique(dim=0)) == 100
    assert float(drawn.std()) == pytest.approx(0.3, rel=0.02)
    assert torch.equal(draw_chunk(setup, 0)["network"]["noise/noise"], drawn)
    outcome = train(stack, data_of(stack[0]), CPU).evaluations[60]
    assert (outcome["test/loss"] > 0.01).all(), "evaluations give back noisy images too"


def test_a_penalty_on_whole_numbers_is_refused():
    with pytest.raises(UsageError, match="a penalty needs inputs that can be moved"):
        validate(own_cells("tagging", "regularizer=gp"))


def test_a_task_whose_metric_is_only_known_from_its_methods_has_a_typo_refused():
    with pytest.raises(UsageError, match=r"reports no model\.metric=test/exat; did you mean 'test/exact'\?"):
        validate(own_cells("labelling", "model.metric=test/exat", "model.goal=max"))


# ---- metrics and losses ------------------------------------------------------------------------------------


def planned(words):
    """Return the cells of a command line, as a plan checks them."""
    sizes = [f"{key}={value}" for key, value in SIZES.items() if f"{key}=" not in words and key in words]
    found = expand(CONFIGS, Experiment("x"), CONFIGS.parse([*words.split(), *sizes]), fingerprint)
    validate(found)
    return found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("model=mlp model.metric=test/acuracy", "did you mean 'test/accuracy'"),
        ("model=wgan data=swiss_roll model.metric=test/modes", r"reports no model\.metric=test/modes"),
        (
            "model=wgan model.depth=1 model.metric=test/layer_growth model.goal=min",
            r"reports no model\.metric=test/layer_growth",
        ),
        ("model=sequence model.metric=nonsense", "one of: test/accuracy, test/loss, test/solved"),
        ("model=lstm data.limit=900 model.metric=test/perplexty", "did you mean 'test/perplexity'"),
        ("model=regressor model.network=networks.MLP model.metric=test/rmse", "did you mean 'test/mse'"),
    ],
)
def test_a_metric_that_a_model_does_not_report_is_refused_at_the_plan(words, said):
    with pytest.raises(UsageError, match=said):
        planned(words)


@pytest.mark.parametrize(
    "model", ["mlp", "lstm", "sequence", "wgan", "classifier", "regressor", "language_model"]
)
def test_the_metrics_that_a_model_names_are_those_that_it_reports(model):
    metric = {"lstm": "hits", "language_model": "hits", "wgan": "spread", "regressor": "spread"}.get(
        model, "spread"
    )
    (cell,) = cells(model, "none", **{"model__metrics__own": f"tasks.{metric}"})
    data = data_of(cell)
    model = build_stack([cell], data, CPU).model
    found = model.metric_names(model.networks())
    assert found == set(train([cell], data, CPU).evaluations[20])
    assert "test/own" in found


MEASURED = [name for name in MODELS if "model.metrics" in written("model", name)]


@pytest.mark.parametrize("model", MEASURED)
def test_a_metric_of_ones_own_takes_no_name_that_the_model_reports(model):
    (cell,) = cells(model, "none")

    def names(**metrics):
        config = {**cell.config, "model": {**cell.config["model"], "metrics": metrics}}
        task = build(config, data_of(cell)).model
        return task.metric_names(task.networks())

    reported = {name.rpartition("/")[2] for name in names()}
    assert reported
    assert "test/own" in names(own={"_target_": "tasks.spread"})
    for name in reported:
        with pytest.raises(
            UsageError, match=f"^model.metrics.{name}: the model itself reports a metric {name};"
        ):
            names(**{name: {"_target_": "tasks.spread"}})


def test_own_metrics_are_averages_over_examples_or_one_number_of_a_split():
    (cell,) = cells(
        "classifier", "none", model__metrics__top3="tasks.top3", model__metrics__spread="tasks.spread"
    )
    data = data_of(cell)
    found = train([cell], data, CPU).evaluations[20]
    (_, net), x, y = trained(cell, data), *(torch.as_tensor(data.arrays[f"test/{name}"]) for name in "xy")
    logits = net(x.double()).detach()
    assert found["test/top3"][0] == pytest.approx(float(tasks.top3(logits, y).mean()))
    assert found["test/spread"][0] == pytest.approx(float(logits.std()))


def test_a_metric_may_say_of_each_example_whether_something_is_true():
    (cell,) = cells("mlp", "none", model__metrics__right="tasks.right")
    found = train([cell], data_of(cell), CPU).evaluations[20]
    assert found["test/right"] == found["test/accuracy"]


class Reporting(WassersteinGAN):
    """It reports more than the class that it extends names."""

    def evaluate(self, nets, data, draw):
        return super().evaluate(nets, data, draw) | {"test/more": torch.ones(())}


class Silent(ClassificationTask):
    """It names more by the methods of its base."""

    def example_metrics(self, outputs, targets):
        return super().example_metrics(outputs, targets) | {"more": targets > 3}


def test_a_class_that_reports_more_than_its_base_may_be_compared_by_it():
    (cell,) = cells("wgan", "none")
    data, config = data_of(cell), cell.config["model"]
    keys = {key: config[key] for key in signature(WassersteinGAN).parameters if key in config}
    model = Reporting(data.sizes, data.arrays, **keys | {"networks": None})
    assert try_networks(model, penalised=False) is None
    network = {"_target_": "networks.MLP"}
    data = data_of(cells("mlp", "none")[0])
    model = Silent(data.sizes, data.arrays, 0.1, network=network, batch_size=3)
    assert {"test/more", "train/more", "test/accuracy", "gap/loss"} <= try_networks(model, penalised=False)


def trained(cell, data):
    """Return a cell's task and its network after training, as the reference trains it."""
    from collections import deque

    from gradbench.training.reference import train_one

    networks_after = deque(train_one(cell, data), maxlen=1).pop().networks
    return build_stack([cell], data, CPU).model, networks_after[next(iter(networks_after))]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "model=mlp model.metrics.own=tasks.too_many",
            r"model\.metrics\.own returned \[B, 2\], expected one value",
        ),
        ("model=mlp model.metrics.own=tasks.nothing", "tasks has no nothing"),
        (
            "model=lstm data.limit=900 model.metrics.own=tasks.spread",
            r"returned \[\], expected one value per ex",
        ),
    ],
)
def test_a_metric_of_ones_own_that_does_not_fit_is_refused_at_the_plan(words, said):
    with pytest.raises(UsageError, match=said):
        planned(words)


@pytest.mark.parametrize("loss", ["squared", "absolute", "huber"])
def test_a_regression_is_judged_as_scikit_learn_does_and_trained_on_torchs_losses(loss):
    (cell,) = cells("regressor", "none", model__loss=loss)
    data = data_of(cell)
    outcome = train([cell], data, CPU)
    found = outcome.evaluations[20]
    _, net = trained(cell, data)
    for split in ("train", "test"):
        x, y = (torch.as_tensor(data.arrays[f"{split}/{name}"]).double() for name in "xy")
        outputs = net(x).detach()[:, 0]
        function = {"squared": F.mse_loss, "absolute": F.l1_loss, "huber": F.smooth_l1_loss}[loss]
        expected = {
            "loss": float(function(outputs, y)),
            "mse": mean_squared_error(y, outputs),
            "mae": mean_absolute_error(y, outputs),
            "r2": r2_score(y, outputs),
        }
        ours = {name: found[f"{split}/{name}"][0] for name in expected}
        assert ours == pytest.approx(expected, rel=1e-10)


def test_a_loss_of_ones_own_replaces_the_models(tmp_path):
    (tmp_path / "model").mkdir()
    shipped = CONFIGS.path("model", "regressor").read_text()
    assert "loss: squared " in shipped
    own = shipped.replace("loss: squared ", "loss: {_target_: tasks.quantile_loss, quantile: 0.9} ")
    (tmp_path / "model" / "upper.yaml").write_text(own.replace("name: regressor", "name: upper"))
    configs = Configs(tmp_path)
    typed = configs.parse(["model=upper", "model.network=networks.MLP", "steps=300", "optimizer.lr=0.05"])
    stack = expand(configs, Experiment("own"), typed, fingerprint)
    validate(stack)
    data = data_of(stack[0])
    outcome = train(stack, data, CPU)
    assert outcome.curves["loss"][-20:].mean() < 0.8 * outcome.curves["loss"][:20].mean()
    _, net = trained(stack[0], data)
    x, y = (torch.as_tensor(data.arrays[f"test/{name}"]) for name in "xy")
    expected = tasks.quantile_loss(net(x), y, 0.9).mean().item()
    assert outcome.evaluations[300]["test/loss"][0] == pytest.approx(expected, rel=1e-4)


# ---- outputs that do not fit -------------------------------------------------------------------------------


class Fixed(nn.Module):
    """Whatever the inputs are, outputs of one kind, which depend on a parameter."""

    def __init__(self, make):
        super().__init__()
        self.weight, self.make = nn.Parameter(torch.ones(1)), make

    def forward(self, x):
        return self.make(self.weight, x)


class Stateful(Fixed):
    def forward(self, x, state=None):
        return self.make(self.weight, x, state)


def tried(words, network, penalised=False):
    """Try a network of the tests' own in the task of a command line."""
    found = expand(CONFIGS, Experiment("x"), CONFIGS.parse(words.split()), fingerprint)
    model = build_stack(found, data_of(found[0]), CPU, traces=False).model
    model.check_networks({"network": network}, penalised)


@pytest.mark.parametrize(
    ("words", "network", "said"),
    [
        (
            "model=classifier model.network=networks.CNN",
            Fixed(lambda w, x: w.expand(len(x), 64)),
            r"model\.network=networks\.CNN returned \[B, 64\], expected logits \[B, 10\]",
        ),
        (
            "model=classifier model.network=networks.CNN",
            Fixed(lambda w, x: (w.expand(len(x), 10), w)),
            "returned a tuple of 2, expected one tensor",
        ),
        (
            "model=classifier model.network=networks.CNN",
            Fixed(lambda w, x: w.expand(len(x), 10).argmax(1)),
            "returned int64 numbers, expected floating ones",
        ),
        (
            "model=classifier model.network=networks.CNN",
            Fixed(lambda w, x: x @ w),
            r"called with float32 \[B, 1, 8, 8\] raised RuntimeError: .* \(test_tasks\.py:\d+\)$",
        ),
        (
            "model=regressor model.network=networks.MLP",
            Fixed(lambda w, x: w.expand(len(x), 2)),
            r"returned \[B, 2\], expected a number per example, \[B\] or \[B, 1\]",
        ),
        (
            "model=language_model model.network=networks.GRU data.limit=900",
            Fixed(lambda w, x: w.expand(len(x), 3)),
            r"returned \[B, 3\], expected logits \[B, 35, \d+\]",
        ),
        (
            "model=language_model model.network=networks.GRU data.limit=900",
            Fixed(lambda w, x: (w, w)),
            r"returned a tuple of 2.* takes it as an argument: def forward\(self, tokens, state=None\)",
        ),
        (
            "model=language_model model.network=networks.GRU data.limit=900",
            Stateful(lambda w, x, state: w),
            r"takes a state and returned a Tensor, expected \(logits, state\)",
        ),
    ],
)
def test_outputs_that_do_not_fit_are_refused_with_what_came_and_what_was_expected(words, network, said):
    with pytest.raises(UsageError, match=said) as caught:
        tried(words, network)
    assert "\n" not in str(caught.value)


def logits_of(w, x):
    return w.expand(*x.shape, 43)


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ((lambda x: torch.zeros(len(x), dtype=torch.int64),), "has int64 numbers in its state"),
        ((lambda x: (torch.zeros(2), 3),), "has a int in its state"),
        ((lambda x: torch.zeros(len(x), 2), lambda x: torch.zeros(len(x), 3)), "a state of other shapes"),
    ],
)
def test_a_state_that_cannot_be_carried_is_refused(states, said):
    model = LanguageModellingTask({"vocabulary": 43}, 5, 4, 10, lambda **_: None)
    model.has_own_code = True
    network = Stateful(lambda w, x, state: (logits_of(w, x), states[0 if state is None else -1](x)))
    with pytest.raises(UsageError, match=said):
        model.check_networks({"network": network}, penalised=False)


def test_a_state_may_be_any_nest_of_tensors():
    def nested(w, x, state):
        return logits_of(w, x), ([w.expand(len(x), 2)], {"c": w.expand(1, len(x))})

    model = LanguageModellingTask({"vocabulary": 43}, 5, 4, 10, lambda **_: Stateful(nested))
    model.has_own_code = True
    model.check_networks(model.networks(), penalised=False)
    carry = model.carry()
    assert [tensor.shape for tensor in carry.values()] == [(4, 2), (1, 4)]
    assert torch.equal(model.state_of(carry)[1]["c"], carry["1"])


# ---- penalties on embedded tokens --------------------------------------------------------------------------


class Embeddings(nn.Module):
    def __init__(self, count, transposed=False):
        super().__init__()
        self.parts = nn.ModuleList(nn.Embedding(43, 2) for _ in range(count))
        self.other, self.transposed = nn.Linear(2, 43), transposed

    def forward(self, tokens):
        tokens = tokens.T if self.transposed else tokens
        found = sum(part(tokens) for part in self.parts) if self.parts else torch.zeros(*tokens.shape, 2)
        return self.other(found.transpose(0, 1) if self.transposed else found)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Embeddings(0), r"has no nn\.Embedding of 43 tokens, expected one"),
        (Embeddings(2), r"has parts\.0, parts\.1 nn\.Embedding of 43 tokens, expected one"),
        (
            Embeddings(1, transposed=True),
            r"gives its nn\.Embedding \[5, 3\], expected the tokens \[B, 5\] once",
        ),
        (Embeddings(1), None),
    ],
)
def test_a_penalty_needs_the_one_embedding_of_the_tokens(network, said):
    model = LanguageModellingTask({"vocabulary": 43}, 5, 4, 10, lambda **_: network)
    model.has_own_code = True
    model.check_networks({"network": network}, penalised=False)
    if said is None:
        model.check_networks({"network": network}, penalised=True)
        return
    with pytest.raises(UsageError, match=said):
        model.check_networks({"network": network}, penalised=True)


@pytest.mark.parametrize("network", ["networks.GRU", "networks.Bigrams"])
def test_a_penalty_is_taken_at_the_embedded_tokens_and_a_tied_embedding_learns(network):
    (cell,) = cells("language_model", "gp", model__network=network)
    setup = build_stack([cell], data_of(cell), CPU)
    vector = init_state(setup).parameters["network"][0]
    layout = setup.layouts["network"]
    draw = {name: tensor[0, 0] for name, tensor in draw_chunk(setup, 0)["network"].items()}
    model, nets = setup.model, {"network": layout.bind(vector)}
    batch, carry = model.batch("network", nets, setup.data, draw), {}
    if network == "networks.GRU":
        carry = {name: tensor.double() + 0.1 for name, tensor in model.carry().items()}
    f, points = model.probe("network", nets, batch, carry)
    inputs = points.detach().requires_grad_()
    (ours,) = torch.autograd.grad(f(inputs).sum(), inputs)

    net = layout.module.double()
    net.load_state_dict(layout.split(vector), strict=False)
    table = F.embedding(batch["x"], net.embedding.weight).detach().requires_grad_()
    net.embedding.forward = lambda _: table
    logits = net(batch["x"], *carry.values())
    logits = logits[0] if carry else logits
    losses = F.cross_entropy(logits.transpose(1, 2), batch["y"], reduction="none").mean(dim=1)
    (theirs,) = torch.autograd.grad(losses.sum(), table)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(points, table.detach(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("model=mlp data=diabetes", "it needs data with 'outputs', and data=diabetes has none"),
        (
            "model=classifier model.network=networks.MLP data=diabetes",
            r"classification needs .* float32 \[354\]; choose other data or model=regressor",
        ),
        ("model=classifier model.network=networks.MLP data=gaussians8", "it needs data with 'train/y'"),
        ("model=language_model model.network=networks.GRU data=digits", "it needs data with 'vocabulary'"),
        (
            "model=regressor model.network=networks.MLP model.loss=hubber",
            r"function of your own like my_pkg\.f, got hubber; did you mean 'huber'\?",
        ),
    ],
)
def test_data_that_do_not_fit_a_task_and_unknown_losses_are_refused(words, said):
    with pytest.raises(UsageError, match=said):
        planned(words)


# ---- networks of a GAN -------------------------------------------------------------------------------------

OWN_GAN = {"model__networks__critic": "networks.Critic", "model__networks__generator": "networks.Generator"}


@pytest.mark.parametrize("given", [*OWN_GAN, "both"])
@pytest.mark.parametrize("data", ["gaussians8", "digits"])
def test_a_gan_trains_networks_of_ones_own_on_points_and_on_images(given, data):
    own = OWN_GAN if given == "both" else {given: OWN_GAN[given]}
    stack = cells("wgan", "gp", data=data, seed=[0, 1], **own)
    validate(stack)
    outcome = train(stack, data_of(stack[0]), CPU)
    assert np.isfinite(outcome.evaluations[20]["test/wasserstein"]).all()
    stored = outcome.arrays[0]
    assert ("layer_gradients" in stored) == (given == "model__networks__generator")
    assert ("surface" in stored) == (data == "gaussians8")
    assert stored["samples"].shape[1:] == data_of(stack[0]).arrays["train/x"].shape[1:]
    kinds = {
        name: type(net) for name, net in build_stack(stack, data_of(stack[0]), CPU).model.networks().items()
    }
    assert (kinds["critic"] is networks.Critic) == (given != "model__networks__generator")
    assert (kinds["generator"] is networks.Generator) == (given != "model__networks__critic")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("model=wgan model.networks.critic=networks.Bigrams", "needs vocabulary"),
        (
            "model=wgan model.networks.generator=networks.MLP model.networks.generator.outputs=3",
            r"model\.networks\.generator=networks\.MLP returned \[B, 3\], expected points \[B, 2\]",
        ),
        (
            "model=wgan model.networks.critic=networks.MLP model.networks.critic.outputs=3",
            r"returned \[B, 3\], expected a value of each point, \[B\] or \[B, 1\]",
        ),
        (
            "model=wgan model.generator=fixed model.networks.generator=networks.Generator",
            "leave out model.networks.generator",
        ),
    ],
)
def test_networks_of_a_gan_that_do_not_fit_are_refused(words, said):
    with pytest.raises(UsageError, match=said):
        planned(words)


def test_a_part_of_a_network_has_the_networks_parameters_tied_ones_too():
    net = networks.Bigrams(5, 3).double()
    vector = flatten(net) * 2
    part = Layout(net).bind(vector).get_submodule("embedding")
    torch.testing.assert_close(part(torch.arange(5)), 2 * net.head.weight)

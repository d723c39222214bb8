"""Models against other people's code: nn.LSTM, torch.optim, SciPy, and plain training loops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance
from small import CPU, cells, data_of
from torch import nn

from gradbench.functional.flat_params import Layout, flatten
from gradbench.models.classification import cross_entropy, is_correct
from gradbench.models.gan import interpolate, weight_histogram
from gradbench.models.lstm import LanguageModelling
from gradbench.models.mlp import Classifier
from gradbench.models.networks.lstm import LSTM
from gradbench.models.networks.mlp import Perceptron
from gradbench.models.sampling import epoch_indices
from gradbench.models.wgan import WassersteinGAN, critic_values, layer_growth, mode_metrics, wasserstein
from gradbench.training.bind import init_state
from gradbench.training.draws import draw_chunk
from gradbench.training.loop import train
from gradbench.training.setup import build_stack


def lstms(layers):
    ours, theirs = LSTM(5, 7, layers).double(), nn.LSTM(5, 7, layers, batch_first=True).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_written_out_lstm_equals_nn_lstm_in_outputs_states_and_gradients(layers):
    ours, theirs = lstms(layers)
    x = torch.randn(3, 11, 5, dtype=torch.float64)
    state = tuple(torch.randn(2, layers, 3, 7, dtype=torch.float64))
    (mine, (h, c)), (other, (h2, c2)) = ours(x, state), theirs(x, state)
    for a, b in ((mine, other), (h, h2), (c, c2)):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    (mine.square().sum() + c.sum()).backward()
    (other.square().sum() + c2.sum()).backward()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad, dict(theirs.named_parameters())[name].grad, rtol=1e-10, atol=1e-12
        )


def test_the_zero_state_is_the_default_as_in_nn_lstm():
    ours, theirs = lstms(2)
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=1e-12, atol=1e-12)


def test_new_lstm_weights_are_drawn_as_nn_lstm_draws_them():
    bound = 1 / math.sqrt(7)
    for parameter in LSTM(5, 7, 1).parameters():
        assert parameter.abs().max() <= bound
        assert parameter.std() > 0.3 * bound


def plain_language_model(cell, data, threshold):
    """Train as a plain script would: nn.LSTM, torch.optim, clip_grad_norm_, state carried and detached."""
    setup = build_stack([cell], data, CPU)
    layout, vector = setup.layouts["lstm"], init_state(setup).parameters["lstm"][0]
    tensors = {name: tensor.clone() for name, tensor in layout.split(vector).items()}
    embedding = nn.Embedding.from_pretrained(tensors["embedding.weight"], freeze=False)
    lstm = nn.LSTM(5, 6, 1, batch_first=True).double()
    lstm.load_state_dict(
        {name.removeprefix("lstm."): t for name, t in tensors.items() if name.startswith("lstm.")}
    )
    decoder = nn.Linear(6, tensors["decoder.bias"].shape[0]).double()
    decoder.load_state_dict({"weight": tensors["decoder.weight"], "bias": tensors["decoder.bias"]})
    parameters = [*embedding.parameters(), *lstm.parameters(), *decoder.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=cell.lr)
    text = torch.as_tensor(np.asarray(data.arrays["train/tokens"]))
    starts = draw_chunk(setup, 0)["lstm"]["position"][0]
    losses, norms, state = [], [], None
    for step in range(cell.config["steps"]):
        windows = torch.stack([text[int(start) : int(start) + 6] for start in starts[step]])
        out, state = lstm(embedding(windows[:, :-1]), state)
        state = tuple(part.detach() for part in state)
        loss = F.cross_entropy(decoder(out).flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(parameters, threshold)))
        losses.append(float(loss.detach()))
        optimizer.step()
    return losses, norms


def test_a_language_model_trains_exactly_as_a_plain_pytorch_script_with_clip_grad_norm():
    (cell,) = cells("lstm", "clip_norm", regularizer__threshold=0.3, optimizer__lr=2.0)
    data = data_of(cell)
    losses, norms = plain_language_model(cell, data, 0.3)
    curves = train([cell], data, CPU).curves
    np.testing.assert_allclose(curves["loss"][:, 0], losses, rtol=1e-9)
    np.testing.assert_allclose(curves["grad_norm"][:, 0], norms, rtol=1e-8)  # the norm BEFORE clipping
    np.testing.assert_allclose(curves["grad_norm_used"][:, 0], np.minimum(norms, 0.3), rtol=1e-5)
    np.testing.assert_array_equal(curves["clipped"][:, 0], np.asarray(norms) + 1e-6 > 0.3)
    assert 0 < curves["clipped"].mean() < 1, "the threshold must bite at some steps and not at others"


def test_a_classifier_trains_exactly_as_a_plain_pytorch_script_with_an_input_gradient_penalty():
    (cell,) = cells("mlp", "gp", regularizer__lambda=0.7, optimizer="adam", optimizer__lr=0.01)
    data = data_of(cell)
    setup = build_stack([cell], data, CPU)
    net = Perceptron(64, 6, 2, 10, "relu").double()
    net.load_state_dict(setup.layouts["mlp"].split(init_state(setup).parameters["mlp"][0].clone()))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    x, y = (torch.as_tensor(np.asarray(data.arrays[f"train/{name}"])) for name in "xy")
    index = draw_chunk(setup, 0)["mlp"]["index"][0]
    losses, penalties = [], []
    for step in range(20):
        inputs = x[index[step]].double().flatten(1).requires_grad_()
        loss = F.cross_entropy(net(inputs), y[index[step]])
        each = F.cross_entropy(net(inputs), y[index[step]], reduction="sum")
        (gradient,) = torch.autograd.grad(each, inputs, create_graph=True)
        penalty = 0.7 * gradient.square().sum(dim=1).mean()
        optimizer.zero_grad()
        (loss + penalty).backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        penalties.append(float(penalty.detach()))
    curves = train([cell], data, CPU).curves
    np.testing.assert_allclose(curves["loss"][:, 0], losses, rtol=1e-9)
    np.testing.assert_allclose(curves["penalty"][:, 0], penalties, rtol=1e-8)


def test_a_wgan_gp_trains_exactly_as_a_plain_pytorch_script():
    (cell,) = cells("wgan", "gp", regularizer__lambda=0.5, steps=8)
    data = data_of(cell)
    setup = build_stack([cell], data, CPU)
    critic, generator = Perceptron(2, 6, 2, 1, "relu").double(), Perceptron(2, 6, 2, 2, "relu").double()
    for name, net in (("critic", critic), ("generator", generator)):
        net.load_state_dict(setup.layouts[name].split(init_state(setup).parameters[name][0].clone()))
    adams = [torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.0, 0.9)) for net in (critic, generator)]
    x = torch.as_tensor(np.asarray(data.arrays["train/x"])).double()
    draws = {name: {k: v[0] for k, v in named.items()} for name, named in draw_chunk(setup, 0).items()}
    losses, penalties, generator_losses = [], [], []
    for step in range(8):
        for inner in range(2):
            draw = {name: tensor[step * 2 + inner] for name, tensor in draws["critic"].items()}
            real, fake = x[draw["real"]], generator(draw["noise"]).detach()
            between = (draw["alpha"][:, None] * real + (1 - draw["alpha"][:, None]) * fake).requires_grad_()
            (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
            penalty = 0.5 * (gradient.norm(dim=1) - 1).square().mean()
            loss = critic(fake).mean() - critic(real).mean()
            adams[0].zero_grad()
            (loss + penalty).backward()
            adams[0].step()
            losses.append(float(loss.detach()))
            penalties.append(float(penalty.detach()))
        adams[1].zero_grad()
        loss = -critic(generator(draws["generator"]["noise"][step])).mean()
        loss.backward()
        adams[1].step()
        generator_losses.append(float(loss.detach()))
    curves = train([cell], data, CPU).curves
    np.testing.assert_allclose(curves["loss"][:, 0], np.reshape(losses, (8, 2)).mean(axis=1), rtol=1e-9)
    np.testing.assert_allclose(curves["penalty"][:, 0], np.reshape(penalties, (8, 2)).mean(axis=1), rtol=1e-8)
    np.testing.assert_allclose(curves["generator/loss"][:, 0], generator_losses, rtol=1e-9)


def test_the_classifiers_loss_per_example_is_torchs_cross_entropy_with_its_gradients():
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.randint(5, (8,))
    weight = (4 * torch.randn(5, 3, dtype=torch.float64)).requires_grad_()
    ours = cross_entropy(x @ weight.mT, y)
    theirs = F.cross_entropy(x @ weight.mT, y, reduction="none")
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    mine, other = (torch.autograd.grad(losses.mean(), weight)[0] for losses in (ours, theirs))
    torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)


def test_perplexity_and_bits_per_character_are_the_loss_in_other_units():
    (cell,) = cells("lstm", "none", optimizer__lr=0.5)
    data = data_of(cell)
    metrics = train([cell], data, CPU).evaluations[20]
    loss = metrics["test/loss"][0]
    characters = data.sizes["test/characters"] / len(data.arrays["test/tokens"])
    assert metrics["test/perplexity"][0] == pytest.approx(math.exp(loss), rel=1e-5)
    assert metrics["test/bits_per_character"][0] == pytest.approx(loss / math.log(2) / characters, rel=1e-5)


def test_the_lstm_penalty_is_measured_at_the_embedded_tokens():
    """The probe's gradient at its points equals autograd's with respect to the embeddings themselves."""
    (cell,) = cells("lstm", "gp")
    setup = build_stack([cell], data_of(cell), CPU)
    layout, vector = setup.layouts["lstm"], init_state(setup).parameters["lstm"][0]
    draw = {name: tensor[0, 0] for name, tensor in draw_chunk(setup, 0)["lstm"].items()}
    model, nets = setup.model, {"lstm": layout.bind(vector)}
    carry = {name: tensor.double() for name, tensor in model.carry().items()}
    batch = model.batch("lstm", nets, setup.data, draw)
    f, points = model.probe("lstm", nets, batch, carry)
    inputs = points.clone().requires_grad_()
    (ours,) = torch.autograd.grad(f(inputs).sum(), inputs)

    net = layout.module.double()
    net.load_state_dict(layout.split(vector))
    embedded = net.embedding(batch["x"]).detach().requires_grad_()
    outputs, _ = net.lstm(embedded, model.state_of(carry))
    logits = net.decoder(outputs)
    losses = F.cross_entropy(logits.transpose(1, 2), batch["y"], reduction="none").mean(dim=1)
    (theirs,) = torch.autograd.grad(losses.sum(), embedded)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(points, embedded.detach(), rtol=0, atol=0)


@given(
    examples=st.integers(1, 30),
    batch=st.integers(1, 40),
    first=st.integers(0, 20),
    count=st.integers(1, 20),
    seed=st.integers(0, 3),
)
def test_batches_see_every_example_once_an_epoch_and_can_be_drawn_from_any_step(
    examples, batch, first, count, seed
):
    whole = epoch_indices(seed, examples, batch, 0, first + count)
    assert torch.equal(whole[first:], epoch_indices(seed, examples, batch, first, count))
    stream = whole.flatten()
    epochs = len(stream) // examples
    for epoch in stream[: epochs * examples].view(epochs, examples):
        assert sorted(epoch.tolist()) == list(range(examples))


def test_interpolation_weighs_whole_samples_not_pixels():
    real, fake = torch.ones(5, 3, 4, 4), torch.zeros(5, 3, 4, 4)
    alpha = torch.rand(5)
    between = interpolate(real, fake, alpha)
    assert torch.equal(between, alpha.view(5, 1, 1, 1).expand(5, 3, 4, 4))


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=30))
def test_exact_w1_of_points_on_a_line_equals_scipys(points):
    a, b = (np.array(side)[:, None] for side in zip(*points, strict=True))
    assert wasserstein(a, b) == pytest.approx(wasserstein_distance(a[:, 0], b[:, 0]), abs=1e-9)


def test_exact_w1_of_a_shifted_copy_is_the_length_of_the_shift():
    points = np.random.default_rng(0).normal(size=(60, 2))
    assert wasserstein(points, points[::-1] + np.array([3.0, 4.0])) == pytest.approx(5.0)
    for far in (math.nan, math.inf, 1e200):  # the square of a distance overflows
        assert math.isnan(wasserstein(points * far, points))


def test_exact_w1_is_the_best_assignments_however_the_points_lie():
    random = np.random.default_rng(0)
    targets = random.normal(size=(40, 2))
    heap, line = np.zeros((40, 2)), np.linspace(0, 1, 40)[:, None] * np.array([1.0, 1e-9])
    for points in (
        heap,
        line,
        targets[:1] + 1e-3 * targets,
        1e6 + targets,
        1e-6 * targets,
        targets.repeat(2, 0)[:40],
    ):
        cost = cdist(points, targets)
        assert wasserstein(points, targets) == pytest.approx(
            cost[linear_sum_assignment(cost)].mean(), rel=1e-12
        )
    assert wasserstein(heap, heap) == 0


def test_a_perfect_sampler_covers_all_modes_with_99_percent_quality_as_pacgan_says():
    random = np.random.default_rng(0)
    angles = np.arange(8) * math.tau / 8
    centres = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    samples = centres[random.integers(8, size=200_000)] + 0.02 * random.normal(size=(200_000, 2))
    metrics = mode_metrics(samples, centres, 0.02)
    assert metrics["test/modes"] == 8
    assert metrics["test/quality"] == pytest.approx(0.9889, abs=0.001)


def test_samples_far_from_every_mode_cover_none():
    assert mode_metrics(np.full((10, 2), 5.0), np.eye(2), 0.02) == {"test/modes": 0.0, "test/quality": 0.0}


def test_samples_that_are_no_points_have_no_count_of_modes():
    samples = np.zeros((10, 2))
    samples[3, 1] = math.nan
    assert all(math.isnan(value) for value in mode_metrics(samples, np.eye(2), 0.02).values())


def test_a_histogram_of_parameters_holds_the_largest_floats_aside_those_beyond_its_end():
    counted = weight_histogram(np.array([-1e308, -1.0, 1.0]))
    assert counted["weights/counts"].sum() == 2


def test_a_class_is_right_or_wrong_only_where_a_logit_is_the_largest():
    logits = torch.tensor([[0.0, 1.0], [2.0, 1.0], [-math.inf, 1.0], [math.nan, 1.0], [0.0, math.inf]])
    torch.testing.assert_close(
        is_correct(logits, torch.tensor([1, 1, 1, 0, 1])),
        torch.tensor([1.0, 0.0, 1.0, math.nan, math.nan]),
        equal_nan=True,
    )


def test_a_fixed_generator_leaves_only_the_critic_and_generates_data_plus_unit_noise():
    (cell,) = cells("wgan", "gp", model__generator="fixed")
    setup = build_stack([cell], data_of(cell), CPU)
    assert [player.name for player in setup.players] == ["critic"]
    draw = {name: tensor[:, :2] for name, tensor in draw_chunk(setup, 0)["critic"].items()}
    noise_key = setup.noise_keys["critic"]
    batches = setup.players[0].batch(
        init_state(setup).weights, {}, setup.data, draw, noise_key, torch.ones(())
    )
    torch.testing.assert_close(batches["fake"][0], setup.data["train/x"][draw["base"][0]] + draw["noise"][0])
    outcome = train([cell], data_of(cell), CPU)
    assert "generator/loss" not in outcome.curves
    assert np.isfinite(outcome.curves["loss"]).all()


def test_a_wgan_stores_what_its_figures_need():
    (cell,) = cells("wgan", "none", data__test=2500)
    (arrays,) = train([cell], data_of(cell), CPU).arrays
    shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes["samples"] == shapes["data"] == (2500, 2)
    assert shapes["surface"] == (64, 64)
    assert shapes["gradient_norms"] == (2500,)
    assert shapes["extent"] == (4,)
    assert shapes["layer_gradients"] == (2,)
    assert shapes["weights/edges"] == (129,)
    # the surface's first row is the lowest y, its first column the lowest x
    setup = build_stack([cell], data_of(cell), CPU)
    reach = float(setup.data["test/x"].abs().max()) * 1.25
    np.testing.assert_allclose(arrays["extent"], [-reach, reach, -reach, reach], rtol=1e-6)


def bound(cell, player):
    """Return a new cell's network as a module with its weights, and the stack it is in."""
    setup = build_stack([cell], data_of(cell), CPU)
    layout = setup.layouts[player]
    net = layout.module.double()
    net.load_state_dict(
        {name: t.clone() for name, t in layout.split(init_state(setup).parameters[player][0]).items()}
    )
    return net, setup, init_state(setup)


def test_an_attack_moves_every_input_by_the_sign_of_its_gradient_as_plain_autograd_finds_it():
    (cell,) = cells("mlp", "none", model__fgsm_epsilon=0.05, optimizer="adam", steps=20)
    net, setup, state = bound(cell, "mlp")
    metrics = setup.evaluate(state.weights, state.carry)
    inputs = setup.data["test/x"].flatten(1).clone().requires_grad_()
    F.cross_entropy(net(inputs), setup.data["test/y"], reduction="sum").backward()
    moved = inputs.detach() + 0.05 * torch.sign(inputs.grad)
    hits = net(moved).argmax(dim=1) == setup.data["test/y"]
    assert float(metrics["test/fgsm_accuracy"][0]) == pytest.approx(float(hits.double().mean()))
    assert float(metrics["test/gradient_norm"][0]) == pytest.approx(float(inputs.grad.norm(dim=1).mean()))


def test_an_attack_of_no_reach_changes_nothing_and_one_of_some_reach_hurts():
    still, moved = cells(
        "mlp", "none", model__fgsm_epsilon=[0.0, 0.2], optimizer__lr=0.5, model__hidden=32, steps=60
    )
    outcomes = [train([cell], data_of(cell), CPU).evaluations[60] for cell in (still, moved)]
    accuracy = outcomes[0]["test/accuracy"][0]
    assert outcomes[0]["test/fgsm_accuracy"][0] == accuracy == outcomes[1]["test/accuracy"][0]
    assert outcomes[1]["test/fgsm_accuracy"][0] < accuracy - 0.1


def test_gradients_by_layer_are_those_of_plain_autograd_with_respect_to_the_activations():
    (cell,) = cells("wgan", "none", model__depth=3)
    critic, setup, state = bound(cell, "critic")
    results = setup.evaluate(state.weights, state.carry)
    draw = {name: tensor[0] for name, tensor in setup.model.draw("evaluation", 0, 0, 1, setup.arrays).items()}
    fake = results["samples"][0][:128]
    x = torch.cat([setup.data["test/x"][draw["real"]][:128], fake])
    activations = []
    for linear in critic.hidden:
        x = torch.relu(linear(x))
        activations.append(x)
        x.requires_grad_().retain_grad()
    critic.output(x).sum().backward()
    expected = torch.stack([a.grad.norm(dim=1).mean() for a in activations])
    torch.testing.assert_close(results["layer_gradients"][0], expected, rtol=1e-10, atol=1e-14)
    assert float(results["test/gradient_norm_deviation"][0]) == pytest.approx(
        float(results["gradient_norms"][0].std())
    )


@given(st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=12))
def test_growth_is_the_geometric_mean_of_the_factors_from_layer_to_layer(norms):
    factors = np.array(norms[:-1]) / np.array(norms[1:])
    assert layer_growth(np.array(norms)) == pytest.approx(np.exp(np.log(factors).mean()), rel=1e-9)
    assert math.isnan(layer_growth(np.array([1.0, 0.0])))


def test_weights_that_are_clipped_pile_up_at_the_ends_of_their_histogram():
    free, clipped = cells("wgan", "none,weight_clip", regularizer__threshold=0.01)
    stored = train([clipped], data_of(clipped), CPU).arrays[0]
    counts, edges = stored["weights/counts"], stored["weights/edges"]
    parameters = 2 * 6 + 6 + 6 * 6 + 6 + 6 + 1
    assert counts.sum() == parameters
    np.testing.assert_allclose(edges[[0, -1]], [-0.01, 0.01], rtol=1e-12)
    assert counts[0] + counts[-1] > 0.5 * parameters
    stored = train([free], data_of(free), CPU).arrays[0]
    assert stored["weights/counts"][[0, -1]].sum() < 0.2 * parameters
    assert "weights" not in stored


def test_a_histogram_of_weights_that_are_all_zero_has_edges_all_the_same():
    stored = weight_histogram(np.zeros(5))
    assert stored["weights/counts"].sum() == 5
    assert (np.diff(stored["weights/edges"]) > 0).all()


def test_the_critic_sees_images_as_flat_points():
    model = WassersteinGAN(
        {"inputs": 12}, {"train/x": np.zeros((9, 3, 2, 2))}, 4, 1, "relu", 2, 1, "trained", 8, 3
    )
    critic = model.networks()["critic"]
    assert critic_values(critic, torch.randn(5, 3, 2, 2)).shape == (5,)


POINTS = {"train/x": np.zeros((5, 2), np.float32), "train/y": np.zeros(5, np.int64)}


def classifier(hidden=4, activation="relu", fgsm_epsilon=0.1):
    sizes, options = {"inputs": 2, "outputs": 2}, {"batch_size": 2, "fgsm_epsilon": fgsm_epsilon}
    return Classifier(sizes, POINTS, hidden, 1, activation, **options)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: classifier(hidden=4, activation="swish").networks(), "activation"),
        (lambda: classifier(hidden=0).networks(), "hidden"),
        (lambda: classifier(fgsm_epsilon=-0.1), "fgsm_epsilon"),
        (lambda: WassersteinGAN({"inputs": 2}, POINTS, 4, 1, "relu", 2, 1, "trainedd", 8, 3), "generator"),
        (lambda: LanguageModelling({"vocabulary": 3}, 2, 2, 0, 5, 2, 10), "layers"),
    ],
)
def test_sizes_that_make_no_network_are_refused_by_name(make, names):
    with pytest.raises(ValueError, match=names):
        make()


def test_a_layout_splits_and_joins_without_loss_and_binds_the_module():
    net = Perceptron(3, 4, 2, 2, "tanh").double()
    layout, vector = Layout(net), flatten(net)
    x = torch.randn(5, 3, dtype=torch.float64)
    assert torch.equal(layout.join(layout.split(vector)), vector)
    torch.testing.assert_close(layout.bind(vector)(x), net(x))
    assert not torch.allclose(layout.bind(vector * 2)(x), net(x))

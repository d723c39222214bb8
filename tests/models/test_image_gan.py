"""The convolutional GAN, against torch's own losses and layers, and the Fréchet distance against SciPy."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import sqrtm
from scipy.special import rel_entr
from small import CPU, cells, data_of
from torch import nn

from gradbench.data import Data
from gradbench.errors import UsageError
from gradbench.models import SNAPSHOTS
from gradbench.models.gan import LOSSES
from gradbench.models.image_gan import FOLLOWED
from gradbench.models.image_quality import METRICS, Gaussian, divergence, frechet_distance, real_images
from gradbench.models.images import SHOWN, shown_rows
from gradbench.training.bind import init_state
from gradbench.training.checkpoint import Checkpoint, StoppedError
from gradbench.training.draws import draw_chunk
from gradbench.training.loop import MAX_SNAPSHOTS, snapshot_steps, train
from gradbench.training.program import build as build_program
from gradbench.training.setup import build_stack

# ---- losses ------------------------------------------------------------------------------------------------


def with_logits(values, target):
    return nn.BCEWithLogitsLoss()(values, torch.full_like(values, target))


THEIRS = {
    "wasserstein": (lambda f, r: f.mean() - r.mean(), lambda f, r: -f.mean()),
    "non_saturating": (
        lambda f, r: with_logits(f, 0.0) + with_logits(r, 1.0),
        lambda f, r: with_logits(f, 1.0),
    ),
    "relativistic": (lambda f, r: with_logits(r - f, 1.0), lambda f, r: with_logits(f - r, 1.0)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_torchs_binary_cross_entropies_of_logits(name):
    random = torch.Generator().manual_seed(0)
    fake, real = (3 * torch.randn(2, 40, dtype=torch.float64, generator=random)).requires_grad_().unbind()
    for ours, theirs in zip((LOSSES[name].critic, LOSSES[name].generator), THEIRS[name], strict=True):
        for x, y in zip(
            derivatives(ours(fake, real), fake), derivatives(theirs(fake, real), fake), strict=True
        ):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


def derivatives(loss, fake):
    return loss, torch.autograd.grad(loss, fake, retain_graph=True, allow_unused=True)[0]


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if not loss.is_paired])
def test_a_generators_loss_reads_real_points_only_where_it_compares_pairs(name):
    fake = torch.randn(5)
    assert LOSSES[name].generator(fake, fake) == LOSSES[name].generator(fake, torch.full((5,), torch.nan))


def plain_critic():
    return nn.Sequential(
        nn.Conv2d(1, 3, 4, 2, 1),
        nn.LeakyReLU(0.01),
        nn.Conv2d(3, 6, 4, 2, 1),
        nn.LeakyReLU(0.01),
        nn.Flatten(),
        nn.Linear(24, 1),
    ).double()


def plain_generator():
    return nn.Sequential(
        nn.Linear(16, 24),
        nn.Unflatten(1, (6, 2, 2)),
        nn.LeakyReLU(0.01),
        nn.ConvTranspose2d(6, 3, 4, 2, 1),
        nn.LeakyReLU(0.01),
        nn.ConvTranspose2d(3, 1, 4, 2, 1),
        nn.Sigmoid(),
    ).double()


@pytest.mark.parametrize("loss", LOSSES)
def test_it_trains_exactly_as_a_plain_pytorch_script(loss):
    """The networks are torch's own layers, the penalty is R1 and R2 as R3GAN has them."""
    given = {"regularizer__lambda": 0.5, "model__loss": loss, "model__activation": "leaky_relu", "steps": 6}
    (cell,) = cells("image_gan", "gp_zero@both", **given)
    data = data_of(cell)
    setup = build_stack([cell], data, CPU)
    nets = {"critic": plain_critic(), "generator": plain_generator()}
    for name, net in nets.items():
        ours = setup.layouts[name].split(init_state(setup).parameters[name][0].clone())
        net.load_state_dict(dict(zip(net.state_dict(), ours.values(), strict=True)))
    critic, generator = nets.values()
    adams = [torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.0, 0.9)) for net in nets.values()]
    x = torch.as_tensor(np.asarray(data.arrays["train/x"])).double()
    draws = {name: {k: v[0] for k, v in named.items()} for name, named in draw_chunk(setup, 0).items()}
    of_critic, of_generator = THEIRS[loss]
    losses, penalties, generator_losses = [], [], []
    for step in range(6):
        for inner in range(2):
            draw = {name: tensor[step * 2 + inner] for name, tensor in draws["critic"].items()}
            real, fake = x[draw["real"]], generator(draw["noise"]).detach()
            both = torch.cat([real, fake]).requires_grad_()
            (gradient,) = torch.autograd.grad(critic(both).sum(), both, create_graph=True)
            penalty = 0.5 * gradient.square().sum(dim=(1, 2, 3)).mean()
            value = of_critic(critic(fake)[:, 0], critic(real)[:, 0])
            adams[0].zero_grad()
            (value + penalty).backward()
            adams[0].step()
            losses.append(float(value.detach()))
            penalties.append(float(penalty.detach()))
        adams[1].zero_grad()
        draw = {name: tensor[step] for name, tensor in draws["generator"].items()}
        real = critic(x[draw["real"]])[:, 0] if "real" in draw else None
        assert (real is None) == (loss != "relativistic")
        value = of_generator(critic(generator(draw["noise"]))[:, 0], real)
        value.backward()
        adams[1].step()
        generator_losses.append(float(value.detach()))
    curves = train([cell], data, CPU).curves
    np.testing.assert_allclose(curves["loss"][:, 0], np.reshape(losses, (6, 2)).mean(axis=1), rtol=1e-8)
    np.testing.assert_allclose(curves["penalty"][:, 0], np.reshape(penalties, (6, 2)).mean(axis=1), rtol=1e-8)
    np.testing.assert_allclose(curves["generator/loss"][:, 0], generator_losses, rtol=1e-8)


# ---- the distance ------------------------------------------------------------------------------------------


def gaussian(random, features, count):
    return Gaussian.of(random.normal(size=(count, features)) @ random.normal(size=(features, features)))


@pytest.mark.parametrize("count", [5, 40])  # five samples have a singular covariance
def test_the_distance_is_that_of_the_published_formula(count):
    random = np.random.default_rng(0)
    for _ in range(5):
        a, b = gaussian(random, 8, count), gaussian(random, 8, 50)
        root = sqrtm(a.covariance @ b.covariance).real
        expected = np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance - 2 * root)
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6 if count == 5 else 1e-10)
        assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-8)


def test_the_distance_of_gaussians_on_common_axes_is_that_of_means_and_of_deviations():
    random = np.random.default_rng(0)
    axes = np.linalg.qr(random.normal(size=(6, 6)))[0]
    means, deviations = random.normal(size=(2, 6)), random.random((2, 6))
    a, b = (Gaussian(m, axes @ np.diag(s**2) @ axes.T) for m, s in zip(means, deviations, strict=True))
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)
    # of points that are all the same, what remains is the other's spread
    assert frechet_distance(a, Gaussian(a.mean, np.zeros((6, 6)))) == pytest.approx(
        (deviations[0] ** 2).sum()
    )


def test_the_divergence_of_classes_is_scipys():
    p, q = np.array([0.5, 0.5, 0.0, 0.0]), np.array([0.25, 0.5, 0.125, 0.125])
    assert divergence(p, q) == pytest.approx(rel_entr(p, q).sum(), rel=1e-12)
    assert divergence(q, q) == 0
    assert divergence(q, p) == np.inf


# ---- real images -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return data_of(cells("image_gan", "none")[0]).arrays


def test_the_classifier_knows_its_images_and_is_trained_once_per_data(digits):
    real = real_images(digits)
    assert real.accuracy > 0.9
    assert real_images(dict(digits)) is real


def test_images_are_judged_by_what_is_known_of_them(digits):
    """Real ones come near the floor with all classes; those of one class, a single one and noise are far from it."""
    real, random = real_images(digits), np.random.default_rng(0)
    x, y = digits["train/x"], digits["train/y"]
    good = real.compare(x)
    assert good["frechet_distance"] == pytest.approx(good["frechet_floor"], rel=1e-6)
    assert good["classes"] == 10
    assert good["class_divergence"] < 0.01
    bad = {
        "threes": x[y == 3],
        "one image": np.repeat(x[:1], 50, axis=0),
        "noise": random.random((500, *x.shape[1:])),
    }
    found = {name: real.compare(images) for name, images in bad.items()}
    assert all(one["frechet_distance"] > 30 * good["frechet_floor"] for one in found.values())
    assert found["one image"]["classes"] == 1
    assert found["one image"]["class_divergence"] == pytest.approx(np.log(10), rel=0.03)
    assert found["threes"]["classes"] < 4


def test_features_are_the_outputs_of_the_first_linear_layer_before_its_relu(digits):
    net = real_images(digits).classifier
    x = torch.as_tensor(digits["test/x"])
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    features = F.relu(layers[1](F.relu(layers[0](x))))
    features = layers[2](features.flatten(1))
    ours, logits = net(x)
    torch.testing.assert_close(ours, features)
    torch.testing.assert_close(logits, layers[3](F.relu(features)))
    assert (features < 0).any()
    assert np.linalg.matrix_rank(np.cov(ours.detach().double().numpy().T)) == ours.shape[1]


def test_images_that_are_not_finite_have_no_distance(digits):
    images = digits["train/x"][:50].copy()
    images[3, 0, 0, 0] = np.nan
    found = real_images(digits).compare(images)
    assert np.isnan(found["frechet_distance"])
    assert np.isfinite(found["frechet_floor"])
    assert found.keys() == {*METRICS}


# ---- the task ----------------------------------------------------------------------------------------------


def test_it_reports_the_metrics_that_it_names_and_stores_images_beside_real_ones():
    (cell,) = cells("image_gan", "none", model__loss="relativistic", steps=2, eval_every=2)
    data = data_of(cell)
    outcome = train([cell], data, CPU)
    model = build_stack([cell], data, CPU).model
    assert model.metric_names(model.networks()) == outcome.evaluations[2].keys()
    stored = outcome.arrays[0]
    assert stored["images"].shape == stored["originals"].shape == (SHOWN, 1, 8, 8)
    assert ((stored["images"] > 0) & (stored["images"] < 1)).all()
    np.testing.assert_array_equal(
        stored["originals"], data.arrays["test/x"][shown_rows(len(data.arrays["test/x"]))]
    )
    assert "samples" not in stored


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_generator_that_normalises_trains(norm):
    """Batch normalisation keeps statistics, which several batches of a critic's step change one after another."""
    (cell,) = cells("image_gan", "gp", model__norm=norm, steps=3, eval_every=3)
    outcome = train([cell], data_of(cell), CPU)
    assert outcome.statuses == ["completed"]
    assert np.isfinite(outcome.curves["generator/loss"]).all()


def build(shape, **values):
    (cell,) = cells("image_gan", "none", **values)
    x, y = np.zeros((8, *shape), dtype="float32"), np.zeros(8, dtype="int64")
    arrays = {"train/x": x, "train/y": y, "test/x": x, "test/y": y}
    return build_program(cell.config, Data(arrays, {"inputs": x[0].size, "outputs": 10})).model


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_images_of_any_size_and_colour_reach_the_networks(shape):
    model = build(shape)
    nets = model.networks()
    images = nets["generator"](torch.randn(4, model.noise))
    assert images.shape == (4, *shape)
    assert model.values(nets["critic"], images).shape == (4,)


@pytest.mark.parametrize(
    ("shape", "values", "line"),
    [
        ((13,), {}, r"needs images \[N, C, H, W\].*data=digits"),
        ((1, 9, 9), {}, "9 x 9 pixels"),
        ((1, 8, 8), {"model__loss": "hinge"}, "model.loss must be one of wasserstein, .*, got hinge"),
        ((1, 8, 8), {"model__norm": "layer"}, "model.norm must be one of none, batch, group, got layer"),
        ((1, 8, 8), {"model__samples": 1}, "model.samples must be >= 2, got 1"),
    ],
)
def test_what_does_not_fit_is_refused_with_one_line(shape, values, line):
    with pytest.raises((UsageError, ValueError), match=line):
        build(shape, **values).networks()


def test_images_without_classes_are_refused_with_one_line():
    (cell,) = cells("image_gan", "none")
    x = np.zeros((8, 1, 8, 8), dtype="float32")
    with pytest.raises(UsageError, match="these data have no classes"):
        build_program(cell.config, Data({"train/x": x, "test/x": x}, {"inputs": 64}))


# ---- snapshots over training -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "eval_every", "expected"),
    [(300, 60, {60, 120, 180, 240, 300}), (20, 20, {20}), (25, 10, {10, 20, 25}), (1000, 10, None)],
)
def test_snapshots_are_of_a_few_evaluations_the_last_among_them(steps, eval_every, expected):
    found = snapshot_steps(steps, eval_every)
    assert found == (expected or found)
    assert len(found) <= MAX_SNAPSHOTS
    assert {min(eval_every, steps), steps} <= found


def test_images_of_the_same_noise_are_kept_over_training_also_by_a_run_that_was_stopped(tmp_path):
    stack = cells("image_gan", "clip_norm", seed=[0, 1], steps=8, eval_every=2)
    data = data_of(stack[0])
    whole = train(stack, data, CPU)
    asked = itertools.count()
    with pytest.raises(StoppedError):
        train(stack, data, CPU, checkpoint=Checkpoint(tmp_path / "c", {}, 0.0, lambda: next(asked) > 2))
    checkpoint = Checkpoint(tmp_path / "c", {}, 60.0)
    assert list(checkpoint.load(CPU)["snapshots"]) == [2, 4]
    resumed = train(stack, data, CPU, checkpoint=checkpoint)
    for one, other in zip(whole.arrays, resumed.arrays, strict=True):
        assert one[f"{SNAPSHOTS}steps"].tolist() == [2, 4, 6, 8]
        images = one[f"{SNAPSHOTS}images"]
        assert images.shape == (4, FOLLOWED, 1, 8, 8)
        np.testing.assert_array_equal(images[-1], one["images"][:FOLLOWED])
        assert np.abs(np.diff(images, axis=0)).max() > 0
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])

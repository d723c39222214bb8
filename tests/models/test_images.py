"""Convolutional networks against torchvision's and torch's own layers, and the tasks on images."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import CPU, cells, data_of
from torch import nn

from gradbench.data import Data
from gradbench.errors import UsageError
from gradbench.models.images import SHOWN, shown_rows
from gradbench.models.networks.convolution import NORMS, ConvolutionalNetwork, Decoder, Encoder, make_norm
from gradbench.models.networks.residual import ResidualNetwork
from gradbench.training.bind import init_state
from gradbench.training.draws import draw_chunk
from gradbench.training.execution import choose_execution
from gradbench.training.loop import train
from gradbench.training.program import build as build_program
from gradbench.training.setup import build_stack


class Torchvision(nn.Module):
    """A residual network for CIFAR-10 made of torchvision's blocks."""

    def __init__(self, inputs, outputs, channels, blocks, norm):
        super().__init__()
        from torchvision.models.resnet import BasicBlock, conv1x1, conv3x3  # seconds

        def block(before, after, stride):
            changes = stride > 1 or before != after
            shortcut = nn.Sequential(conv1x1(before, after, stride), norm(after)) if changes else None
            return BasicBlock(before, after, stride, shortcut, norm_layer=norm)

        self.stem = nn.Sequential(conv3x3(inputs, channels), norm(channels), nn.ReLU())
        widths = [channels * 2**stage for stage in range(3) for _ in range(blocks)]
        strides = [2 if stage and not n else 1 for stage in range(3) for n in range(blocks)]
        self.blocks = nn.Sequential(
            *(block(a, b, s) for a, b, s in zip([channels, *widths], widths, strides, strict=False))
        )
        self.output = nn.Linear(widths[-1], outputs)

    def forward(self, x):
        return self.output(F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1).flatten(1))


def derivatives(net, x, y):
    """Return the outputs, the loss's gradient, and that of the squared norm of its input gradient."""
    x = x.clone().requires_grad_()
    outputs = net(x)
    loss = F.cross_entropy(outputs, y)
    parameters = list(net.parameters())
    first = torch.autograd.grad(loss, parameters, create_graph=True)
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    second = torch.autograd.grad(slope.square().sum(), parameters, allow_unused=True)
    return [outputs, *first], [torch.zeros(()) if one is None else one for one in second]


def assert_same(ours, theirs, x, y):
    """Give two networks the same weights, and compare outputs, derivatives and running statistics."""
    state = dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True))
    theirs.load_state_dict(state)
    for mine, other in zip(derivatives(ours, x, y), derivatives(theirs, x, y), strict=True):
        for a, b in zip(mine, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def batch(channels=1, size=8):
    random = torch.Generator().manual_seed(0)
    x = torch.rand(5, channels, size, size, dtype=torch.float64, generator=random)
    return x, torch.randint(0, 10, (5,), generator=random)


def test_the_images_that_are_shown_are_of_all_classes_though_a_folder_is_read_class_by_class():
    classes = np.repeat(range(10), [5, 90, 40, 30, 30, 30, 30, 30, 30, 30])
    assert set(classes[shown_rows(len(classes))]) == set(range(10))
    for count in (1, SHOWN - 1, SHOWN, 2 * SHOWN - 1, 1000):
        rows = np.arange(count)[shown_rows(count)]
        assert len(rows) == min(count, SHOWN)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(("blocks", "channels", "size"), [(1, 1, 8), (2, 3, 9)])
def test_a_residual_network_is_torchvisions(norm, blocks, channels, size):
    ours = ResidualNetwork(channels, 10, 4, blocks, norm).double()
    theirs = Torchvision(channels, 10, 4, blocks, lambda width: make_norm(norm, width)).double()
    assert_same(ours, theirs, *batch(channels, size))


def test_a_residual_network_has_6n_plus_2_layers():
    for blocks in (1, 3):
        net = ResidualNetwork(3, 10, 16, blocks, "batch")
        layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        projections = [layer for layer in layers if getattr(layer, "kernel_size", 0) == (1, 1)]
        assert len(layers) - len(projections) == 6 * blocks + 2
        assert len(projections) == 2


def of_torch(norm, width):
    kinds = {"none": nn.Identity, "batch": nn.BatchNorm2d, "group": lambda n: nn.GroupNorm(min(n, 8), n)}
    return kinds[norm](width)


@pytest.mark.parametrize("norm", NORMS)
def test_a_convolutional_network_is_the_plain_one_of_torchs_layers(norm):
    layers, before = [], 1
    for width, stride in ((4, 1), (4, 1), (8, 2), (8, 1), (16, 2)):
        layers += [nn.Conv2d(before, width, 3, stride, 1, bias=norm == "none")]
        layers += [of_torch(norm, width), nn.ELU()]
        before = width
    theirs = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).double()
    assert_same(ConvolutionalNetwork(1, 10, 4, len(layers) // 3, norm, "elu").double(), theirs, *batch())


@pytest.mark.parametrize("norm", NORMS)
def test_encoder_and_decoder_are_a_dcgans_layers(norm):
    bias = norm == "none"
    encoder = nn.Sequential(
        nn.Conv2d(2, 4, 4, 2, 1, bias=bias),
        of_torch(norm, 4),
        nn.ELU(),
        nn.Conv2d(4, 8, 4, 2, 1, bias=bias),
        of_torch(norm, 8),
        nn.ELU(),
        nn.Flatten(),
        nn.Linear(8 * 2 * 3, 10),
    )
    decoder = nn.Sequential(
        nn.Linear(10, 8 * 2 * 3),
        nn.Unflatten(1, (8, 2, 3)),
        of_torch(norm, 8),
        nn.ELU(),
        nn.ConvTranspose2d(8, 4, 4, 2, 1, bias=bias),
        of_torch(norm, 4),
        nn.ELU(),
        nn.ConvTranspose2d(4, 2, 4, 2, 1),
    )
    layers = (4, 2, norm, "elu")
    ours = nn.Sequential(Encoder((2, 8, 12), 10, *layers), Decoder(10, (2, 8, 12), *layers))
    x = torch.rand(5, 2, 8, 12, dtype=torch.float64)
    assert ours.double()(x).shape == x.shape
    head = nn.Sequential(nn.Flatten(), nn.Linear(2 * 8 * 12, 10, bias=False)).double()
    ours, theirs = (nn.Sequential(net.double(), head) for net in (ours, nn.Sequential(encoder, decoder)))
    assert_same(ours, theirs, x, torch.randint(0, 10, (5,)))


def test_initial_weights_are_those_of_he_et_al():
    torch.manual_seed(0)
    net = ConvolutionalNetwork(1, 10, 32, 6, "none", "relu")
    for layer in net.features:
        if isinstance(layer, nn.Conv2d):
            z = layer.weight.detach() * (9 * layer.out_channels / 2) ** 0.5
            assert abs(z.square().mean() - 1) < 5 * (2 / z.numel()) ** 0.5
            assert not layer.bias.any()


# ---- tasks -------------------------------------------------------------------------------------------------


def build(model, shape, **values):
    """Return a task on images of a shape."""
    cell = cells(model, "none", **values)[0]
    x, y = np.zeros((8, *shape), dtype="float32"), np.zeros(8, dtype="int64")
    arrays = {"train/x": x, "train/y": y, "test/x": x, "test/y": y}
    return build_program(cell.config, Data(arrays, {"inputs": x[0].size, "outputs": 10})).model


@pytest.mark.parametrize("model", ["cnn", "resnet", "autoencoder"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28)])
def test_images_of_any_size_and_colour_reach_the_network(model, shape):
    task = build(model, shape)
    (network,) = task.networks().values()
    expected = (4, *shape) if model == "autoencoder" else (4, 10)
    assert network(torch.rand(4, *shape)).shape == expected


@pytest.mark.parametrize("model", ["cnn", "resnet", "autoencoder"])
def test_tables_are_refused_with_one_line(model):
    with pytest.raises(UsageError, match=r"needs images \[N, C, H, W\].*data=digits"):
        build(model, (13,))


def test_images_that_cannot_be_halved_so_often_are_refused_with_one_line():
    with pytest.raises(ValueError, match="28 x 28 pixels, which are no multiples of 8; give a smaller"):
        build("autoencoder", (1, 28, 28), model__depth=3).networks()


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("norm", "layer", "model.norm must be one of none, batch, group, got layer"),
        ("activation", "sine", "model.activation must be one of relu, .*, got sine"),
        ("depth", 0, "model.channels and model.depth must be >= 1, got .* 0"),
        ("channels", 0, "model.channels"),
    ],
)
@pytest.mark.parametrize("model", ["cnn", "autoencoder"])
def test_unknown_layers_are_refused(model, key, value, line):
    with pytest.raises((UsageError, ValueError), match=line):
        build(model, (1, 8, 8), **{f"model__{key}": value}).networks()


@pytest.mark.parametrize("model", ["cnn", "resnet", "autoencoder"])
def test_a_cpu_stacks_small_images_and_runs_large_ones_one_network_after_another(model):
    cell = cells(model, "none", model__channels=8, model__batch_size=64)[0]

    def way(shape, kind):
        x, y = np.zeros((64, *shape), dtype="float32"), np.zeros(64, dtype="int64")
        arrays = {"train/x": x, "train/y": y, "test/x": x, "test/y": y}
        program = build_program(cell.config, Data(arrays, {"inputs": x[0].size, "outputs": 10}))
        return choose_execution(program, cell, CPU, kind).one_by_one

    assert not way((1, 8, 8), "cpu")
    assert way((1, 64, 64), "cpu")
    assert not way((1, 64, 64), "cuda")


def test_an_autoencoder_stores_test_images_beside_their_reconstructions():
    cell = cells("autoencoder", "none", steps=2, eval_every=2)[0]
    data = data_of(cell)
    outcome = train([cell], data, CPU)
    stored = outcome.arrays[0]
    np.testing.assert_allclose(
        stored["originals"], data.arrays["test/x"][shown_rows(len(data.arrays["test/x"]))]
    )
    assert stored["images"].shape == stored["originals"].shape
    metrics = outcome.evaluations[2]
    assert metrics["test/mse"] == metrics["test/loss"] > 0


def test_the_penalty_of_a_code_is_the_squared_frobenius_norm_of_its_jacobian():
    (cell,) = cells("autoencoder", "gp@code", regularizer__lambda=0.7, steps=1, eval_every=1)
    context = build_stack([cell], data_of(cell), CPU)
    state = init_state(context)
    encoder = (
        context.layouts["autoencoder"].bind(state.weights["autoencoder"].parameters[0]).get_submodule("0")
    )
    index = draw_chunk(context, 0)["autoencoder"]["index"][0, 0]
    x = context.data["train/x"][index]
    jacobians = torch.func.vmap(torch.func.jacrev(lambda one: encoder(one[None])[0]))(x)  # [B, code, C, H, W]
    penalty = 0.7 * jacobians.square().flatten(1).sum(dim=1).mean().item()
    assert train([cell], data_of(cell), CPU).curves["penalty"][0, 0] == pytest.approx(penalty, rel=1e-12)


def test_an_autoencoder_is_judged_by_noisy_test_images_too():
    given = {"steps": 2, "eval_every": 2, "record_every": 2}
    grid = cells("autoencoder", "none", model__corruption=[0.0, 0.2, 2.0], **given)
    clean, usual, noisy = (train([cell], data_of(cell), CPU).evaluations[2] for cell in grid)
    assert clean["test/noisy_mse"] == clean["test/mse"] == usual["test/mse"] == noisy["test/mse"]
    assert clean["test/mse"] < usual["test/noisy_mse"] < noisy["test/noisy_mse"]
    with pytest.raises(UsageError, match=r"model.corruption must be finite and >= 0, got -1"):
        build("autoencoder", (1, 8, 8), model__corruption=-1.0)

"""Ordinary layers, traced and rewritten, against PyTorch as everyone runs it: one network after another, in float64."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from gradbench.models.networks.mlp import Rectifier
from gradbench.tracing.passes import NAMES, rewrite
from gradbench.tracing.tracer import trace

K, B = 2, 3
"""Networks in a stack, examples in a batch."""


class Lambda(nn.Module):
    """A function of a network's own tensors and its input."""

    def __init__(self, function, **tensors):
        super().__init__()
        self.function = function
        for name, tensor in tensors.items():
            setattr(self, name, nn.Parameter(tensor) if isinstance(tensor, torch.Tensor) else tensor)

    def forward(self, x):
        return self.function(self, x)


def attention(own, x):
    """Return two heads' causal self-attention, written out. Shapes: [B, T, 8] -> [B, T, 8]."""
    T = x.shape[1]
    q, k, v = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in own.qkv(x).chunk(3, dim=2))
    scores = q @ k.transpose(2, 3) / 2.0
    scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)
    return own.out((scores.softmax(dim=3) @ v).transpose(1, 2).flatten(2))


def gru(own, x):
    """Return the last state of a GRU, written out. Shapes: [B, T, 4] -> [B, 5]."""
    h = x.new_zeros(len(x), 5)
    for x_t in x.unbind(1):
        (r, z, n), (a, b, c) = own.inputs(x_t).chunk(3, dim=1), own.state(h).chunk(3, dim=1)
        z = torch.sigmoid(z + b)
        h = (1 - z) * torch.tanh(n + torch.sigmoid(r + a) * c) + z * h
    return h


def lstm(own, x):
    """Return the last state of an LSTM, written out. Shapes: [B, T, 4] -> [B, 5]."""
    h = c = x.new_zeros(len(x), 5)
    for x_t in x.unbind(1):
        i, f, g, o = (own.inputs(x_t) + own.state(h)).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    return h


def scattered(own, x):
    """Add up rows by an index, and pick others."""
    rows = torch.tensor([0, 2, 2, 1])
    summed = torch.zeros_like(x).index_add(1, rows, x * own.weight)
    picked = summed.gather(1, torch.tensor([[1, 0, 3, 2]] * len(x)))
    return picked + torch.zeros_like(x).scatter_add(1, rows.expand_as(x), x).sin()


def turned(own, x):
    """Cut images into patches and put them together again, as vision transformers do."""
    patches = x.unflatten(3, (2, 2)).unflatten(2, (2, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    return own.linear(patches).reshape(len(x), 2, 2, 2, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


def tied():
    """Return a decoder that shares its encoder's weight."""
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    return module


def normal(*shape):
    return torch.randn(shape)


ZOO = {
    "linear and relu": (lambda: nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 2)), (4,)),
    "own relu": (lambda: nn.Sequential(nn.Linear(4, 20), Rectifier(), nn.Linear(20, 2)), (4,)),
    "own leaky relu": (lambda: nn.Sequential(nn.Linear(4, 5), Rectifier(0.1), nn.Linear(5, 2)), (4,)),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh()), (2, 6)),
    "conv2d": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.GELU(), nn.Conv2d(3, 2, 2)),
        (2, 4, 4),
    ),
    "conv2d by groups": (lambda: nn.Sequential(nn.Conv2d(4, 4, 2, groups=2), nn.Tanh()), (4, 3, 3)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.Tanh()), (1, 3, 3, 3)),
    "transposed conv1d": (lambda: nn.Sequential(nn.ConvTranspose1d(2, 3, 2, stride=2), nn.Tanh()), (2, 4)),
    "transposed conv2d": (lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.Tanh()), (2, 3, 3)),
    "max pooling": (lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.MaxPool2d(2), nn.Tanh()), (1, 5, 5)),
    "mean pooling": (lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.AvgPool2d(2), nn.Tanh()), (1, 5, 5)),
    "adaptive pooling": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.AdaptiveAvgPool2d(1), nn.Tanh()),
        (1, 5, 5),
    ),
    "layer norm first": (lambda: nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3), nn.Tanh()), (4,)),
    "layer norm without affine": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, elementwise_affine=False)),
        (4,),
    ),
    "group norm": (lambda: nn.Sequential(nn.Conv1d(2, 4, 2), nn.GroupNorm(2, 4), nn.Tanh()), (2, 5)),
    "batch norm without running statistics": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.Tanh()),
        (4,),
    ),
    "embedding": (
        lambda: Lambda(lambda own, x: own.table(torch.tensor([3, 0, 3])) * x, table=nn.Embedding(5, 4)),
        (4,),
    ),
    "attention": (lambda: Lambda(attention, qkv=nn.Linear(8, 24), out=nn.Linear(8, 8)), (3, 8)),
    "gru": (lambda: Lambda(gru, inputs=nn.Linear(4, 15), state=nn.Linear(5, 15)), (3, 4)),
    "lstm": (lambda: Lambda(lstm, inputs=nn.Linear(4, 20), state=nn.Linear(5, 20)), (3, 4)),
    "einsum": (
        lambda: Lambda(
            lambda own, x: torch.einsum("bi,ijk,bk->bj", x, own.weight, x), weight=normal(4, 3, 4)
        ),
        (4,),
    ),
    "where": (
        lambda: Lambda(lambda own, x: torch.where(x > 0, x * own.weight, x.exp()), weight=normal(4)),
        (4,),
    ),
    "cumsum": (lambda: Lambda(lambda own, x: (x * own.weight).cumsum(1).square(), weight=normal(4)), (4,)),
    "gather and scatter": (lambda: Lambda(scattered, weight=normal(4)), (4,)),
    "patches": (lambda: Lambda(turned, linear=nn.Linear(8, 8)), (2, 4, 4)),
    "residual": (
        lambda: Lambda(lambda own, x: x + own.linear(x + x @ x.mT @ x), linear=nn.Linear(4, 4)),
        (4,),
    ),
    "weight tying": (tied, (4,)),
}

every_layer = pytest.mark.parametrize("layer", ZOO)


def made(layer):
    """Return one network's structure, K networks' parameters and their inputs."""
    build, shape = ZOO[layer]
    networks = [build().double() for _ in range(K)]
    own = {
        name: torch.stack([net.get_parameter(name).detach() for net in networks])
        for name, _ in networks[0].named_parameters()
    }
    return networks[0], own, torch.randn(K, B, *shape, dtype=torch.float64)


def descent(f, own, x, penalised):
    """Return the gradients of a loss, and a penalty on its slope, with respect to parameters.

    Args:
        f: ``(parameters, inputs) -> outputs``, differentiable.
        own: the parameters.
        x: the inputs.
        penalised: whether there is a penalty.
    """
    own = {name: tensor.detach().requires_grad_() for name, tensor in own.items()}
    x = x.detach().requires_grad_()
    total = f(own, x).square().sum()
    if penalised:
        (slope,) = torch.autograd.grad(total, x, create_graph=True)
        total = total + slope.square().sum()
    grads = torch.autograd.grad(total, list(own.values()), allow_unused=True, materialize_grads=True)
    return {"total": total.detach(), **dict(zip(own, grads, strict=True))}


def expected(net, own, x, penalised):
    """Return what PyTorch gives for one network after another: gradients [K, ...] and the sum of the losses."""
    each = [
        descent(
            lambda own, x: functional_call(net, own, x),
            {name: tensor[k] for name, tensor in own.items()},
            x[k],
            penalised,
        )
        for k in range(K)
    ]
    found = {name: torch.stack([one[name] for one in each]) for name in own}
    return {"total": sum(one["total"] for one in each), **found}


@every_layer
@pytest.mark.parametrize("penalised", [False, True], ids=["loss", "penalty"])
@pytest.mark.parametrize(
    "without",
    [(), *(pytest.param(names, marks=pytest.mark.slow) for names in [*((name,) for name in NAMES), NAMES])],
    ids=lambda w: "+".join(w[:2]) or "none",
)
def test_a_layers_gradients_are_those_of_pytorch_whichever_pass_is_left_out(layer, penalised, without):
    net, own, x = made(layer)

    def step(own, x):
        return descent(vmap(lambda own, x: functional_call(net, own, x)), own, x, penalised)

    _, replay = trace(step, (own, x))
    rewrite(replay, "cpu", without=without)
    for seed in (1, 2):  # numbers that the trace has not seen
        torch.manual_seed(seed)
        own, x = ({name: torch.randn_like(tensor) for name, tensor in own.items()}, torch.randn_like(x))
        got, want = replay(own, x), expected(net, own, x, penalised)
        for name in want:
            size = max(1.0, float(want[name].abs().max()))
            torch.testing.assert_close(
                got[name], want[name], rtol=1e-9, atol=1e-11 * size, msg=lambda m, name=name: f"{name}: {m}"
            )

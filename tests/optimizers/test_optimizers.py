"""Optimizers over stacked parameters, against ``torch.optim`` and the authors' Lion, step by step.

K cells, P parameters.
"""

from dataclasses import replace

import pytest
import torch
from gradients import few_examples
from hypothesis import given
from hypothesis import strategies as st
from lion_pytorch import Lion
from small import CONFIGS
from torch import nn

from gradbench.config.instantiate import instantiate_group
from gradbench.errors import UsageError
from gradbench.functional.flat_params import Layout
from gradbench.optimizers import adam, lion, muon, rmsprop, sgd
from gradbench.optimizers.muon import hidden_of


class Small(nn.Module):
    """A network with every kind of parameter that Muon tells apart."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(3, 2)
        self.wide = nn.Linear(4, 3)
        self.tall = nn.Linear(2, 5, bias=False)
        self.kernel = nn.Conv2d(2, 3, 2, bias=False)
        self.norm = nn.LayerNorm(3)
        self.head = nn.Linear(3, 2)


HIDDEN = ("wide.weight", "tall.weight", "kernel.weight")
LAYOUT = Layout(Small())
P, STEPS = sum(LAYOUT.sizes), 30


class Decoupled:
    """Decoupled weight decay before the step of another optimizer."""

    def __init__(self, kind, parameters, lr, weight_decay, **options):
        self.inner = kind(parameters, lr=lr, **options)
        self.parameters, self.rate = parameters, lr * weight_decay

    @torch.no_grad()
    def step(self):
        for parameter in self.parameters:
            parameter -= self.rate * parameter
        self.inner.step()


class TorchsMuon:
    """``torch.optim.Muon`` for hidden matrices, flattened as its authors do, and ``torch.optim.AdamW`` for the rest.

    Works on one flat vector, whose gradient it divides.
    """

    def __init__(self, vectors, lr, adamw_lr=1.0, weight_decay=0.1, **options):
        (self.vector,) = vectors
        named = LAYOUT.split(self.vector.detach().clone())
        self.parts = {
            name: nn.Parameter(part.flatten(1) if name in HIDDEN else part) for name, part in named.items()
        }
        hidden = [self.parts[name] for name in HIDDEN]
        rest = [part for name, part in self.parts.items() if name not in HIDDEN]
        given = {"adjust_lr_fn": "match_rms_adamw"} | options
        self.optimizers = [
            torch.optim.Muon(hidden, lr=lr, weight_decay=weight_decay, **given),
            torch.optim.AdamW(rest, lr=lr * adamw_lr, weight_decay=weight_decay),
        ]

    def step(self):
        for name, part in LAYOUT.split(self.vector.grad).items():
            self.parts[name].grad = part.reshape(self.parts[name].shape).clone()
        for optimizer in self.optimizers:
            optimizer.step()
        with torch.no_grad():
            self.vector.copy_(LAYOUT.join({name: part.detach() for name, part in self.parts.items()}))


def decoupled(kind):
    return lambda parameters, **options: Decoupled(kind, parameters, **options)


PAIRS = {
    "sgd": (sgd(), torch.optim.SGD, {}),
    "sgd, momentum": (sgd(momentum=0.9), torch.optim.SGD, {"momentum": 0.9}),
    "sgd, nesterov": (
        sgd(momentum=0.8, nesterov=True),
        torch.optim.SGD,
        {"momentum": 0.8, "nesterov": True},
    ),
    "sgd, weight decay": (sgd(weight_decay=0.1), torch.optim.SGD, {"weight_decay": 0.1}),
    "sgd, all": (
        sgd(momentum=0.9, nesterov=True, weight_decay=0.1),
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ),
    "adam": (adam(), torch.optim.Adam, {}),
    "adam of WGAN-GP": (adam(betas=(0.0, 0.9)), torch.optim.Adam, {"betas": (0.0, 0.9)}),
    "adam, eps": (adam(eps=1e-2), torch.optim.Adam, {"eps": 1e-2}),
    "adam, weight decay": (adam(weight_decay=0.1), torch.optim.Adam, {"weight_decay": 0.1}),
    "sgd, decoupled weight decay": (
        sgd(momentum=0.9, weight_decay=0.1, decoupled=True),
        decoupled(torch.optim.SGD),
        {"momentum": 0.9, "weight_decay": 0.1},
    ),
    "rmsprop, weight decay": (rmsprop(weight_decay=0.1), torch.optim.RMSprop, {"weight_decay": 0.1}),
    "rmsprop, decoupled weight decay": (
        rmsprop(weight_decay=0.1, decoupled=True),
        decoupled(torch.optim.RMSprop),
        {"weight_decay": 0.1},
    ),
    "lion": (lion(), Lion, {}),
    "lion, betas": (lion(betas=(0.95, 0.98)), Lion, {"betas": (0.95, 0.98)}),
    "lion, weight decay": (lion(weight_decay=0.1), Lion, {"weight_decay": 0.1}),
    "muon": (muon(), TorchsMuon, {}),
    "muon, without momentum": (muon(momentum=0.0), TorchsMuon, {"momentum": 0.0}),
    "muon, original": (
        muon(adjust_lr_fn="original", momentum=0.8, nesterov=False, adamw_lr=0.1, weight_decay=0.0),
        TorchsMuon,
        {
            "adjust_lr_fn": "original",
            "momentum": 0.8,
            "nesterov": False,
            "adamw_lr": 0.1,
            "weight_decay": 0.0,
        },
    ),
    "muon, spectral": (
        muon(adjust_lr_fn="spectral_unclamped", iterations=3),
        TorchsMuon,
        {"adjust_lr_fn": "spectral_unclamped", "ns_steps": 3},
    ),
    "adamw": (adam(weight_decay=0.1, decoupled=True), torch.optim.AdamW, {"weight_decay": 0.1}),
    "rmsprop": (rmsprop(), torch.optim.RMSprop, {}),
    "rmsprop, alpha and eps": (
        rmsprop(alpha=0.9, eps=1e-3),
        torch.optim.RMSprop,
        {"alpha": 0.9, "eps": 1e-3},
    ),
}
PAIRS |= {
    f"{name}, fused": (replace(ours, step=ours.fused), *theirs)
    for name, (ours, *theirs) in PAIRS.items()
    if ours.fused
}
every_pair = pytest.mark.parametrize(("ours", "theirs", "options"), PAIRS.values(), ids=PAIRS)
every_optimizer = pytest.mark.parametrize("ours", [pair[0] for pair in PAIRS.values()], ids=PAIRS)


def start(seeds):
    """Return initial parameters [K, P], one row per seed."""
    return torch.stack(
        [torch.randn(P, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
    )


def slope(parameters, t):
    """Return the gradient of a bowl that moves with t, so that averages and momenta matter. Any leading axes."""
    curvature = torch.linspace(0.1, 2.0, P, dtype=parameters.dtype, device=parameters.device)
    return curvature * (parameters - torch.sin(curvature * t))


def run(optimizer, parameters, rates, steps=STEPS):
    """Return the parameters [K, P] after each step."""
    lr, state, path = (
        torch.tensor(rates, dtype=parameters.dtype)[:, None],
        optimizer.init(parameters, LAYOUT),
        [],
    )
    for t in range(1, steps + 1):
        parameters, state = optimizer.step(parameters, slope(parameters, t), state, lr, t, LAYOUT)
        path.append(parameters)
    return path


def run_torchs(make_optimizer, row, lr, options):
    """Return one cell's parameters [P] after each step of a ``torch.optim`` optimizer."""
    parameter, path = nn.Parameter(row.clone()), []
    optimizer = make_optimizer([parameter], lr=lr, **options)
    for t in range(1, STEPS + 1):
        parameter.grad = slope(parameter.detach(), t)
        optimizer.step()
        path.append(parameter.detach().clone())
    return path


@every_pair
def test_each_cell_of_a_stack_steps_as_published_with_its_own_learning_rate(
    ours, theirs, options, monkeypatch
):
    # torch's Muon orthogonalizes in bfloat16: without this cast its own code runs in float64
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    rates, parameters = [0.001, 0.05, 0.3], start([0, 1, 2])
    path = run(ours, parameters, rates)
    for k, lr in enumerate(rates):
        for step, row in enumerate(run_torchs(theirs, parameters[k], lr, options)):
            torch.testing.assert_close(path[step][k], row, rtol=1e-11, atol=1e-12)


@every_optimizer
def test_a_stack_equals_its_cells_alone_to_the_last_bit(ours):
    rates, parameters = [0.001, 0.05, 0.3], start([0, 1, 2])
    together = run(ours, parameters, rates)[-1]
    for k, lr in enumerate(rates):
        assert torch.equal(run(ours, parameters[k : k + 1], [lr])[-1][0], together[k])


@every_optimizer
@given(seeds=st.permutations(range(4)))
@few_examples
def test_permuting_the_cells_permutes_the_steps(ours, seeds):
    rates = [0.01 * (seed + 1) for seed in seeds]
    there = run(ours, start(seeds), rates, steps=5)[-1]
    ordered = run(ours, start(range(4)), [0.01, 0.02, 0.03, 0.04], steps=5)[-1]
    assert torch.equal(there, ordered[list(seeds)])


@every_optimizer
def test_a_cell_that_goes_nan_leaves_the_bits_of_the_others_unchanged(ours):
    parameters = start([0, 1, 2])
    poisoned = parameters.clone()
    poisoned[1, 3] = float("nan")
    calm, disturbed = run(ours, parameters, [0.01] * 3)[-1], run(ours, poisoned, [0.01] * 3)[-1]
    assert torch.equal(calm[[0, 2]], disturbed[[0, 2]])
    assert disturbed[1].isnan().any()


@every_optimizer
def test_a_step_changes_neither_its_parameters_nor_its_gradient_nor_its_state(ours):
    parameters, lr = start([0, 1]), torch.tensor([[0.1], [0.2]], dtype=torch.float64)
    gradient = slope(parameters, 1)
    _, state = ours.step(parameters, gradient, ours.init(parameters, LAYOUT), lr, 1, LAYOUT)
    given_ = [parameters, gradient, *state.values()]
    before = [tensor.clone() for tensor in given_]
    ours.step(parameters, gradient, state, lr, 2, LAYOUT)
    assert all(torch.equal(one, other) for one, other in zip(given_, before, strict=True))


@every_optimizer
def test_a_zero_gradient_makes_no_nan(ours):
    parameters, state = start([0]), ours.init(start([0]), LAYOUT)
    lr = torch.tensor([[0.1]], dtype=torch.float64)
    for t in range(1, 4):
        parameters, state = ours.step(parameters, torch.zeros_like(parameters), state, lr, t, LAYOUT)
    assert parameters.isfinite().all()


@pytest.mark.parametrize("name", CONFIGS.groups["optimizer"])
def test_an_optimizers_yaml_says_what_it_is_and_explains_its_keys(name):
    first, *lines = CONFIGS.path("optimizer", name).read_text().splitlines()
    assert first.startswith("# ")
    unexplained = {line.split(":")[0] for line in lines if "  # " not in line and line[0] != "#"}
    assert unexplained <= {"defaults", "name", "_target_"}


@pytest.mark.parametrize("name", CONFIGS.groups["optimizer"])
def test_every_optimizer_of_conf_steps_on_the_meta_device(name):
    config = CONFIGS.compose((f"optimizer={name}", "model=mlp"))[0]
    optimizer = instantiate_group(config, "optimizer")
    parameters, lr = torch.zeros(3, P, device="meta"), torch.zeros(3, 1, device="meta")
    stepped, state = optimizer.step(parameters, parameters, optimizer.init(parameters, LAYOUT), lr, 1, LAYOUT)
    assert stepped.shape == (3, P)
    assert all(len(tensor) == 3 for tensor in state.values())
    assert stepped.device.type == "meta"


@pytest.mark.parametrize(
    ("make_optimizer", "named"),
    [
        (lambda: sgd(momentum=1.0), "momentum"),
        (lambda: sgd(momentum=-0.1), "momentum"),
        (lambda: sgd(nesterov=True), "nesterov"),
        (lambda: sgd(weight_decay=-1.0), "weight_decay"),
        (lambda: adam(betas=(0.9, 1.0)), "betas"),
        (lambda: adam(betas=(0.9,)), "betas"),
        (lambda: adam(eps=-1.0), "eps"),
        (lambda: adam(eps=float("nan")), "eps"),
        (lambda: rmsprop(alpha=1.5), "alpha"),
        (lambda: rmsprop(weight_decay=-1.0), "weight_decay"),
        (lambda: lion(betas=(0.9, 1.0)), "betas"),
        (lambda: lion(weight_decay=-1.0), "weight_decay"),
        (lambda: muon(momentum=1.0), "momentum"),
        (lambda: muon(adjust_lr_fn="none"), "adjust_lr_fn"),
        (lambda: muon(iterations=0), "iterations"),
        (lambda: muon(adamw_lr=-1.0), "adamw_lr"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(make_optimizer, named):
    with pytest.raises(UsageError, match=f"optimizer.{named} .*; .*"):
        make_optimizer()


def test_muon_takes_matrices_but_embeddings_and_the_head():
    chosen = {
        name for name, (_, is_hidden) in zip(LAYOUT.shapes, hidden_of(LAYOUT), strict=True) if is_hidden
    }
    assert chosen == set(HIDDEN)


def test_muon_leaves_an_embedding_that_is_tied_to_the_head_to_adamw():
    tied = Small()
    tied.head = nn.Linear(2, 3)
    tied.head.weight = tied.embedding.weight
    layout = Layout(tied)
    chosen = {
        name for name, (_, is_hidden) in zip(layout.shapes, hidden_of(layout), strict=True) if is_hidden
    }
    assert chosen == set(HIDDEN)

"""Networks that would give wrong numbers without a word are refused, and those that only look odd are not."""

import random

import numpy as np
import pytest
import torch
from networks import Normed
from torch import nn
from torch.autograd.function import once_differentiable

from gradbench.errors import UsageError
from gradbench.functional.network_checks import (
    has_once_differentiable,
    refuse_unfit,
    refuse_unregistered,
    refuse_unseeded,
)
from gradbench.functional.seeding import all_seeded
from gradbench.models.factory import try_network


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.out(torch.tanh(self.first(x)))


class CountsInAnAttribute(Base):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (self.calls < 10)


class RunningMean(Base):
    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(2)

    def forward(self, x):
        outputs = super().forward(x)
        self.mean = 0.9 * self.mean + 0.1 * outputs.detach().mean(0)
        return outputs - self.mean


class Remembers(Base):
    last = None

    def forward(self, x):
        outputs = super().forward(x)
        before, self.last = self.last, outputs.detach()
        return outputs if before is None else outputs + before


class Inspected(Base):
    """It keeps its last activations for whoever wants to see them, and does not read them."""

    seen = None

    def forward(self, x):
        self.seen = torch.tanh(self.first(x))
        return self.out(self.seen)


class Buffered(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (self.calls < 10)


class WritesData(Base):
    def forward(self, x):
        self.first.weight.data *= 0.9
        return super().forward(x)


class WritesInPlace(Base):
    def forward(self, x):
        with torch.no_grad():
            self.first.weight.mul_(0.9)
        return super().forward(x)


class WritesInputs(Base):
    def forward(self, x):
        return super().forward(x.mul_(0.5))


class NumpyMask(Base):
    def forward(self, x):
        return super().forward(x * torch.as_tensor(np.random.rand(*x.shape), dtype=x.dtype))


class PythonNoise(Base):
    def forward(self, x):
        return super().forward(x) + random.random()


class TorchNoise(Base):
    def forward(self, x):
        return super().forward(x + torch.randn_like(x))


class Multinomial(Base):
    def forward(self, x):
        return super().forward(x)[:, torch.multinomial(torch.ones(2), 2)]


class Grows(Base):
    def forward(self, x):
        if not hasattr(self, "shift"):
            self.shift = nn.Parameter(torch.zeros(2))
        return super().forward(x) + self.shift


class Evaluates(Base):
    def forward(self, x):
        self.eval()
        return super().forward(x)


class BreaksInEvaluation(Base):
    def forward(self, x):
        if not self.training:
            raise ValueError("only in eval")
        return super().forward(x)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (CountsInAnAttribute, r"keeps something in its attribute calls .*register_buffer\('calls'"),
        (RunningMean, r"keeps something in its attribute mean .*register_buffer\('mean'"),
        (Remembers, "gives other outputs when it is called again"),
        (WritesData, "writes to its own parameters"),
        (WritesInPlace, "writes to its own parameters"),
        (WritesInputs, "changes its inputs in place"),
        (NumpyMask, "random numbers that are not torch's"),
        (PythonNoise, "random numbers that are not torch's"),
        (Multinomial, "calls aten.multinomial.default, which draws random numbers from a generator"),
        (Grows, "makes its parameter shift when it is called"),
        (Evaluates, r"calls train\(\) or eval\(\)"),
        (BreaksInEvaluation, r"raised ValueError: only in eval \(test_network_checks\.py:\d+\)"),
    ],
)
def test_what_a_network_does_behind_its_outputs_is_refused_by_name(network, said):
    with pytest.raises(UsageError, match=f"^model.network=my_pkg.Net .*{said}") as caught:
        try_network("model.network=my_pkg.Net", network(), torch.rand(3, 4))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("network", [Base, Inspected, Buffered, TorchNoise])
def test_what_is_kept_in_buffers_or_never_read_and_what_torch_draws_is_not(network):
    network, x = network(), torch.rand(3, 4)
    before = {name: one.clone() for name, one in network.state_dict().items()}
    outputs = try_network("model.network=my_pkg.Net", network, x)
    assert outputs.shape == (3, 2)
    assert network.training
    for name, one in network.state_dict().items():
        assert torch.equal(one, before[name])


def test_running_statistics_and_dropout_are_no_state_of_their_own():
    assert try_network("model.network=my_pkg.Net", Normed(), torch.rand(3, 1, 8, 8)).shape == (3, 10)


# ---- before it is called -------------------------------------------------------------------------------------


def frozen():
    return Base().requires_grad_(False)


def lazy():
    return nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nn.DataParallel(Base()), "has a DataParallel; gradbench itself fills devices"),
        (lambda: nn.Sequential(torch.compile(Base())), "has a OptimizedModule; .*leave out torch.compile"),
        (lambda: Base().double(), "has a parameter first.weight of float64.*precision=float64"),
        (lambda: Base().half(), "has a parameter first.weight of float16"),
        (lazy, r"does not know the shape of its parameter 0\.weight"),
        (frozen, "nothing to train: all of its parameters have requires_grad=False"),
        (nn.Flatten, "nothing to train: it has no parameters"),
    ],
)
def test_a_network_whose_parameters_cannot_be_trained_is_refused_with_what_to_write(make, said):
    with pytest.raises(UsageError, match=said):
        refuse_unfit(make())


def test_a_partly_frozen_network_and_integers_that_are_frozen_are_fit():
    network = Base()
    network.first.requires_grad_(False)
    network.index = nn.Parameter(torch.arange(3), requires_grad=False)
    refuse_unfit(network)


# ---- two networks, and derivatives ---------------------------------------------------------------------------


def drawn_by(draw):
    network = Base()
    with torch.no_grad():
        network.first.weight.copy_(torch.as_tensor(draw((3, 4)), dtype=torch.float32))
    return network


@pytest.mark.parametrize(
    "draw", [torch.rand, np.random.standard_normal, lambda shape: np.full(shape, random.random())]
)
def test_weights_of_every_global_generator_come_from_the_seed(draw):
    def seeded(seed):
        with all_seeded(seed, "weights"):
            return drawn_by(draw)

    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    refuse_unseeded(seeded(0), seeded(0))
    with pytest.raises(UsageError, match=r"its first\.weight differs between two networks of one seed"):
        refuse_unseeded(seeded(0), seeded(1))
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("draw", [lambda: torch.rand(2), lambda: np.random.rand(2), random.random])
def test_random_numbers_of_a_plain_attribute_are_refused(draw):
    one, other = Base(), Base()
    one.out.scale, other.out.scale = draw(), draw()
    with pytest.raises(UsageError, match=r"attribute out\.scale .*register_buffer\('scale'"):
        refuse_unregistered(one, other)
    one.out.scale = other.out.scale
    one.number, other.number = 1, 2
    one.unknown = other.unknown = float("nan")
    refuse_unregistered(one, other)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x > 0)


@pytest.mark.parametrize(("function", "once"), [(Once.apply, True), (torch.relu, False)])
def test_a_function_that_autograd_would_leave_out_of_a_second_derivative_is_found(function, once):
    network, x = Base(), torch.rand(3, 4, requires_grad=True)
    values = network.out(function(network.first(x))).square().sum()
    (slopes,) = torch.autograd.grad(values, x, create_graph=True)
    assert has_once_differentiable(slopes.square().sum()) == once

"""Noise by counter: random, and a function of its key alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch.func import vmap

from gradbench.functional.noise import CounterNoise, mix, normal, random_bits, subkey, uniform

KEY = torch.tensor(0x1234567)
N = 100_000

# splitmix64's first outputs from the state 1234567, from its published C code
PUBLISHED = [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_bits_are_those_of_splitmix64():
    assert [bits % 2**64 for bits in random_bits(torch.tensor(1234567), (3,)).tolist()] == PUBLISHED


def test_uniform_and_normal_numbers_have_their_distributions():
    assert stats.kstest(uniform(KEY, (N,)).numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(normal(KEY, (N,)).numpy(), "norm").pvalue > 1e-3


def test_keys_of_neighbours_give_unrelated_numbers():
    keys = subkey(KEY, torch.arange(200))
    assert len(keys.unique()) == 200
    of_keys = uniform(keys, (1000,)).double().numpy()
    correlations = np.corrcoef(of_keys)[np.triu_indices(200, 1)]
    assert stats.kstest(correlations * np.sqrt(1000), "norm").pvalue > 1e-3


def test_an_integer_and_a_tensor_give_the_same_subkey():
    assert subkey(KEY, 5) == subkey(KEY, torch.tensor(5))
    assert mix(KEY) != KEY


DRAWN = {
    "rand": lambda x: torch.rand(x.shape, dtype=x.dtype),
    "rand_like": torch.rand_like,
    "randn": lambda x: torch.randn(x.shape, dtype=x.dtype),
    "randn_like": torch.randn_like,
    "uniform_": lambda x: torch.empty_like(x).uniform_(-1, 2),
    "normal_": lambda x: torch.empty_like(x).normal_(3, 2),
    "bernoulli": lambda x: torch.bernoulli(torch.full_like(x, 0.3)),
    "bernoulli_": lambda x: torch.empty_like(x).bernoulli_(0.3),
    "dropout": lambda x: F.dropout(x, 0.3),
    "dropout2d": lambda x: F.dropout2d(x, 0.3),
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.3, training=True),
    "gumbel": lambda x: F.gumbel_softmax(x, tau=2.0),
    "randint": lambda x: torch.randint(3, 9, x.shape),
    "randperm": lambda _: torch.randperm(7),
}

every_draw = pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)


@pytest.mark.parametrize("draw", [DRAWN[name] for name in DRAWN if name != "randperm"])
def test_a_network_in_a_stack_draws_what_it_draws_alone(draw):
    x, keys = torch.randn(3, 4, 2, 5, 5), subkey(KEY, torch.arange(3))
    with CounterNoise(keys):
        together = vmap(draw, randomness="different")(x)
    for k in range(3):
        with CounterNoise(keys[k]):
            assert torch.equal(draw(x[k]), together[k])


@every_draw
def test_numbers_depend_on_the_key_and_on_those_before_and_on_nothing_else(draw):
    x = torch.randn(4, 2, 5, 5)
    with CounterNoise(KEY):
        first, second = draw(x), draw(x)
    torch.manual_seed(3)
    with CounterNoise(KEY):
        assert torch.equal(draw(x), first)
        assert torch.equal(draw(x), second)
    assert not torch.equal(first, second)
    with CounterNoise(KEY + 1):
        assert not torch.equal(draw(x), first)


@every_draw
def test_numbers_are_distributed_as_torchs(draw):
    x = torch.ones(50, 20, 3, 3)
    with CounterNoise(KEY):
        ours = torch.cat([draw(x).flatten() for _ in range(20)]).double()
    torch.manual_seed(0)
    theirs = torch.cat([draw(x).flatten() for _ in range(20)]).double()
    assert stats.ks_2samp(ours.numpy()[::9], theirs.numpy()[::9]).pvalue > 1e-3
    bound = (
        15 * float(theirs.std()) / len(theirs) ** 0.5 + 1e-6
    )  # of dropout2d a ninth of the numbers is independent
    assert float(ours.mean()) == pytest.approx(float(theirs.mean()), abs=bound)


def test_dropout_on_a_gpu_has_the_masks_of_a_cpu():
    x = torch.randn(6, 5)
    with CounterNoise(KEY):
        cpu = F.dropout(x, 0.4)
    with CounterNoise(KEY):
        gpu, kept = torch.native_dropout(x, 0.4, True)
    torch.testing.assert_close(cpu, gpu)
    assert torch.equal(cpu != 0, kept)

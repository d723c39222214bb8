"""A network's parameters as one vector, against the module itself."""

import torch
from gradients import LAYOUT, NET, SEEDS, P, few_examples, gradient_of
from hypothesis import given
from torch import nn
from torch.func import grad, vmap
from torch.nn.utils import parameters_to_vector

from gradbench.functional.flat_params import Layout, flatten


def perceptron():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 2)).double()


def test_flatten_is_torchs_parameters_to_vector_and_detached():
    vector = flatten(NET)
    assert torch.equal(vector, parameters_to_vector(NET.parameters()))
    assert not vector.requires_grad


def test_flatten_is_a_copy():
    net = perceptron()
    vector = flatten(net)
    before = vector.clone()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    assert torch.equal(vector, before)


@given(seed=SEEDS)
@few_examples
def test_join_undoes_split(seed):
    vector = gradient_of(seed)
    assert torch.equal(LAYOUT.join(LAYOUT.split(vector)), vector)


def test_join_takes_the_modules_order_and_not_that_of_the_dictionary():
    vector = gradient_of(0)
    reversed_ = dict(reversed(LAYOUT.split(vector).items()))
    assert torch.equal(LAYOUT.join(reversed_), vector)


def test_split_names_and_shapes_the_parts_as_the_module_does():
    parts = LAYOUT.split(flatten(NET))
    assert list(parts) == [name for name, _ in NET.named_parameters()]
    for name, parameter in NET.named_parameters():
        assert torch.equal(parts[name], parameter)
    assert sum(LAYOUT.sizes) == P == sum(parameter.numel() for parameter in NET.parameters())


def test_a_bound_network_is_the_module_with_those_parameters():
    net, other, x = perceptron(), perceptron(), torch.randn(4, 3, dtype=torch.float64)
    assert torch.equal(Layout(net).bind(flatten(net))(x), net(x))
    assert torch.equal(Layout(net).bind(flatten(other))(x), other(x)), "its own parameters must not matter"


def test_the_gradient_of_a_vector_is_the_modules_gradient():
    net, x = perceptron(), torch.randn(4, 3, dtype=torch.float64)
    layout = Layout(net)
    net(x).square().sum().backward()
    gradient = grad(lambda vector: layout.bind(vector)(x).square().sum())(flatten(net))
    torch.testing.assert_close(
        gradient, torch.cat([parameter.grad.reshape(-1) for parameter in net.parameters()])
    )


def test_a_stack_of_vectors_is_a_stack_of_networks():
    nets, x = [perceptron() for _ in range(3)], torch.randn(4, 3, dtype=torch.float64)
    layout = Layout(nets[0])
    together = vmap(lambda vector: layout.bind(vector)(x))(torch.stack([flatten(net) for net in nets]))
    for k, net in enumerate(nets):
        torch.testing.assert_close(together[k], net(x), rtol=1e-12, atol=1e-14)


def test_a_parameter_that_is_used_twice_is_one_parameter():
    tied = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    tied[2].weight = tied[0].weight
    x = torch.randn(4, 3, dtype=torch.float64)
    assert flatten(tied).shape == (9 + 3 + 3,)
    moved = flatten(tied) + 0.1
    bound = Layout(tied).bind(moved)(x)
    with torch.no_grad():
        for parameter in tied.parameters():
            parameter.add_(0.1)
    torch.testing.assert_close(bound, tied(x))

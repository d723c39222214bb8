"""The GRU's recurrence against finite differences, alone and in a stack."""

import pytest
import torch
from torch.func import grad, vmap

from gradbench.models.networks.gru_autograd import GRURecurrence

B, H = 3, 5


def arguments(T):
    """Return p, W, b and h."""
    shapes = ((T, B, 3 * H), (3 * H, H), (3 * H,), (B, H))
    return tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)


def penalised(p, w, b, h):
    """Return an objective that holds a gradient with respect to p, as a penalty's does."""
    slope = grad(lambda p: GRURecurrence.apply(p, w, b, h)[0].square().sum())(p)
    states, gates, _ = GRURecurrence.apply(p, w, b, h)
    return slope.norm() + states.sin().sum() + gates.square().mean()


@pytest.mark.parametrize("T", [1, 4])
def test_first_and_second_derivatives_are_those_of_finite_differences(T):
    inputs = [argument.requires_grad_() for argument in arguments(T)]
    assert torch.autograd.gradcheck(GRURecurrence.apply, inputs)
    assert torch.autograd.gradgradcheck(GRURecurrence.apply, inputs)


def test_a_stack_of_recurrences_has_the_gradients_of_each_alone():
    gradient = grad(penalised, argnums=(0, 1, 2, 3))
    alone = arguments(4)
    stacked = [torch.stack([argument, 0.5 * argument]) for argument in alone]
    together = vmap(gradient)(*stacked)
    for k in range(2):
        for ours, theirs in zip(together, gradient(*(one[k] for one in stacked)), strict=True):
            torch.testing.assert_close(ours[k], theirs, rtol=1e-11, atol=1e-13)

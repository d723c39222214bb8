"""The LSTM's recurrence against finite differences, and against autograd through a loop written out."""

import pytest
import torch
from torch.func import grad, vmap

from gradbench.models.networks.lstm_autograd import Recurrence

T, B, H = 4, 3, 5


@pytest.fixture
def arguments():
    """Return p, W, h and c."""
    shapes = ((T, B, 4 * H), (4 * H, H), (B, H), (B, H))
    return tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)


def written_out(p, w, h, c):
    """Return what the recurrence does, in operations that autograd knows."""
    hs, cs, sigmoids = [], [], []
    for step in p:
        i, f, g, o = (step + h @ w.mT).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        hs.append(h)
        cs.append(c)
        sigmoids.append(torch.cat([i, f, 2 * g, o], dim=-1).sigmoid())
    return torch.stack(hs), torch.stack(cs), torch.stack(sigmoids)


def penalised(recurrence):
    """Return an objective that holds a gradient with respect to p, as a penalty's does."""

    def objective(p, w, h, c):
        slope = grad(lambda p: recurrence(p, w, h, c)[0].square().sum())(p)
        hs, cs, sigmoids = recurrence(p, w, h, c)
        return slope.norm() + hs.sin().sum() + cs[-1].sum() + sigmoids.square().mean()

    return objective


def test_first_and_second_derivatives_are_those_of_finite_differences(arguments):
    inputs = [argument.requires_grad_() for argument in arguments]
    assert torch.autograd.gradcheck(Recurrence.apply, inputs)
    assert torch.autograd.gradgradcheck(Recurrence.apply, inputs)


def test_a_loop_written_out_has_the_same_results_and_the_same_gradient_under_a_penalty(arguments):
    for ours, theirs in zip(Recurrence.apply(*arguments), written_out(*arguments), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    every = (0, 1, 2, 3)
    mine, other = (grad(penalised(f), argnums=every)(*arguments) for f in (Recurrence.apply, written_out))
    for ours, theirs in zip(mine, other, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


def test_a_stack_of_recurrences_has_the_gradients_of_each_alone(arguments):
    gradient = grad(penalised(Recurrence.apply), argnums=(0, 1, 2, 3))
    stacked = [torch.stack([argument, 0.5 * argument]) for argument in arguments]
    together = vmap(gradient)(*stacked)
    for k in range(2):
        for ours, theirs in zip(together, gradient(*(one[k] for one in stacked)), strict=True):
            torch.testing.assert_close(ours[k], theirs, rtol=1e-11, atol=1e-13)

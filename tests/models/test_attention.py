"""Attention against torch's own, with its first and second derivatives, alone and in a stack.

B batch, Q queries, S positions that are attended to, E width, N heads.
"""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradbench.models.networks.attention import Attention, causal_mask, padding_mask

B, Q, S, E, N = 3, 5, 4, 8, 2

TOKENS = torch.arange(Q) < torch.tensor([[Q], [3], [1]])
"""The streams have 5, 3 and 1 tokens."""

CASES = {
    "every position": {},
    "causal": {"mask": causal_mask(Q)},
    "padding": {"mask": padding_mask(TOKENS)},
    "causal and padding": {"mask": causal_mask(Q) & padding_mask(TOKENS)},
    "cross": {"memory": S},
    "cross and padding": {"memory": S, "mask": padding_mask(TOKENS[:, :S])},
}


def numbers(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def pair():
    ours = Attention(E, N).double()
    theirs = nn.MultiheadAttention(E, N, bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("case", CASES)
def test_outputs_gradients_and_a_penaltys_gradients_are_those_of_torchs_attention(case):
    ours, theirs = pair()
    mask = CASES[case].get("mask")
    inputs = [numbers(B, Q, E)] + [numbers(B, S, E)] * ("memory" in CASES[case])

    def torchs(queries, memory=None):
        memory = queries if memory is None else memory
        forbidden = None if mask is None else ~mask.expand(B, N, Q, -1).flatten(0, 1)
        with sdpa_kernel(SDPBackend.MATH):  # torch's other kernels have no second derivative
            return theirs(queries, memory, memory, attn_mask=forbidden, need_weights=False)[0]

    def results(network, call):
        out = call(*inputs)
        slopes = torch.autograd.grad(out.sin().sum(), inputs, create_graph=True)
        objective = out.square().sum() + sum(one.flatten(1).norm(dim=1).square().mean() for one in slopes)
        wanted = [*network.parameters(), *inputs]
        return (out, *slopes, *torch.autograd.grad(objective, wanted))

    assert list(ours.state_dict()) == list(theirs.state_dict())
    expected = results(theirs, torchs)
    found = results(ours, lambda *given: ours(*given, mask=mask))
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


def test_a_new_attention_has_weights_as_large_as_torchs():
    ours, theirs = Attention(64, 2).state_dict(), nn.MultiheadAttention(64, 2, bias=False).state_dict()
    for name, weight in theirs.items():
        assert ours[name].std().item() == pytest.approx(weight.std().item(), rel=0.05), name


def test_a_position_that_is_masked_changes_nothing_and_gets_no_gradient():
    ours, _ = pair()
    x = numbers(B, Q, E)
    first = ours(x, mask=causal_mask(Q))[:, 2]
    (slope,) = torch.autograd.grad(first.sin().sum(), x)
    assert (slope[:, 3:] == 0).all()
    assert (slope[:, :3] != 0).all()
    changed = torch.cat([x[:, :3], x[:, 3:] + 7], dim=1)
    assert torch.equal(ours(changed, mask=causal_mask(Q))[:, 2], first)


def test_a_query_without_any_position_gathers_the_mean_and_keeps_gradients_finite():
    ours, _ = pair()
    x = numbers(1, Q, E)
    nothing = torch.zeros(Q, Q, dtype=torch.bool)
    _, _, values = (x @ ours.in_proj_weight.T).chunk(3, dim=-1)
    found = ours(x, mask=nothing)
    torch.testing.assert_close(found, ours.out_proj(values.mean(dim=1, keepdim=True)).expand_as(found))
    (slope,) = torch.autograd.grad(found.sum(), x, create_graph=True)
    assert torch.autograd.grad(slope.square().sum(), x)[0].isfinite().all()


def test_a_stack_has_the_second_derivatives_of_each_network_alone():
    networks = [pair()[0] for _ in range(2)]
    x, memory = numbers(B, Q, E).detach(), numbers(B, S, E).detach()

    def penalised(parameters):
        def loss(x):
            return functional_call(networks[0], parameters, (x, memory)).sin().sum()

        return loss(x) + grad(loss)(x).norm()

    alone = [grad(penalised)(dict(one.named_parameters())) for one in networks]
    stacked = {
        name: torch.stack([dict(one.named_parameters())[name] for one in networks]) for name in alone[0]
    }
    together = vmap(grad(penalised))(stacked)
    for k, one in enumerate(alone):
        for name, gradient in one.items():
            torch.testing.assert_close(together[name][k], gradient, rtol=1e-10, atol=1e-12)


def test_dropout_leaves_out_weights_while_training_alone():
    ours = Attention(E, N, dropout=0.5).double()
    x = numbers(B, Q, E)
    assert not torch.equal(ours(x), ours(x))
    ours.eval()
    assert torch.equal(ours(x), ours(x))


@pytest.mark.parametrize(("width", "heads"), [(8, 3), (8, 0), (0, 1)])
def test_sizes_that_do_not_fit_are_refused(width, heads):
    with pytest.raises(ValueError, match=r"a multiple of model\.heads, got"):
        Attention(width, heads)

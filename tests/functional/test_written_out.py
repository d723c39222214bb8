"""Recurrent layers and attention written out, against torch's own kernels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, vmap

from gradbench.functional.written_out import written_out

T, B, D, H = 4, 3, 5, 6
KINDS = {
    "rnn": nn.RNN,
    "relu": lambda *args, **given: nn.RNN(*args, nonlinearity="relu", **given),
    "gru": nn.GRU,
}
KINDS["lstm"] = nn.LSTM
VARIANTS = {
    "plain": {},
    "deep and both ways": {"num_layers": 2, "bidirectional": True},
    "batch first without bias": {"batch_first": True, "bias": False},
}
CASES = [(kind, variant, VARIANTS[variant]) for kind in KINDS for variant in VARIANTS]
CASES.append(("lstm", "projected", {"num_layers": 2, "proj_size": 2}))
CELLS = (nn.RNNCell, nn.GRUCell, nn.LSTMCell)


def tensors(result):
    """Return the tensors of a layer's result, one after another."""
    return [result] if isinstance(result, torch.Tensor) else [one for part in result for one in tensors(part)]


@pytest.mark.parametrize(
    ("kind", "variant", "given"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_layers_give_what_torchs_do_with_their_gradients(kind, variant, given):
    layer, x = KINDS[kind](D, H, **given).double(), torch.randn(T, B, D, dtype=torch.float64)
    weights = list(layer.parameters())

    def both():
        found = tensors(layer(x))
        return found + list(torch.autograd.grad(sum(one.square().sum() for one in found), weights))

    expected = both()
    with written_out():
        ours = both()
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", CELLS)
def test_cells_give_what_torchs_do(kind):
    cell, x = kind(D, H).double(), torch.randn(B, D, dtype=torch.float64)
    expected = tensors(cell(x))
    with written_out():
        ours = tensors(cell(x))
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", [*KINDS.values(), *CELLS])
def test_they_are_stacked_by_vmap(kind):
    layers = [kind(D, H).double() for _ in range(2)]
    stacked = {
        name: torch.stack([dict(one.named_parameters())[name].detach() for one in layers])
        for name in dict(layers[0].named_parameters())
    }
    x = torch.randn(2, B, D, dtype=torch.float64)
    with written_out():
        together = tensors(vmap(lambda own, x: functional_call(layers[0], own, (x,)))(stacked, x))
    for k, layer in enumerate(layers):
        for one, other in zip(together, tensors(layer(x[k])), strict=True):
            torch.testing.assert_close(one[k], other)


def test_attention_has_a_second_derivative():
    q, k, v = (torch.randn(1, 2, T, D, dtype=torch.float64, requires_grad=True) for _ in range(3))
    with written_out():
        assert torch.autograd.gradgradcheck(
            lambda *qkv: F.scaled_dot_product_attention(*qkv, is_causal=True), (q, k, v)
        )


def test_packed_sequences_are_left_to_torch():
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(T, B, D), [4, 3, 1])
    layer = nn.GRU(D, H)
    expected = layer(packed)[1]
    with written_out():
        torch.testing.assert_close(layer(packed)[1], expected)

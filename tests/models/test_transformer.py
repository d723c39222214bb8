"""The transformer against torch's own layers, and against a plain PyTorch script of nanoGPT's recipe."""

import math
import re

import numpy as np
import plain_gpt
import pytest
import torch
from small import CPU, cells, data_of
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradbench.models.networks.transformer import TransformerLanguageModel
from gradbench.training.bind import init_state
from gradbench.training.draws import CHUNK, draw_chunk
from gradbench.training.loop import train
from gradbench.training.setup import build_stack

V, T, E, N, L = 11, 6, 8, 2, 3

NAMES = {
    r"transformer\.blocks": "layers",
    r"transformer\.": "",
    "attention_norm": "norm1",
    "mlp_norm": "norm2",
    r"attention\.": "self_attn.",
    "expand": "linear1",
    "reduce": "linear2",
}
"""Part of a name of ours -> of torch's."""


def torchs(state):
    """Return the weights of a language model under the names that torch's layers have."""
    renamed = {}
    for name, tensor in state.items():
        for ours, theirs in NAMES.items():
            name = re.sub(ours, theirs, name)
        renamed[name] = tensor
    renamed.pop("decoder.weight", None)
    return renamed


@pytest.mark.parametrize("length", [1, T - 1, T])
def test_logits_gradients_and_a_penaltys_gradients_are_those_of_torchs_layers(length):
    ours = TransformerLanguageModel(V, T, E, N, L).double()
    theirs = plain_gpt.GPT(V, T, E, N, L).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    theirs.load_state_dict(torchs(ours.state_dict()))
    tokens, target = torch.randint(V, (2, 3, length))

    def results(network):
        logits = network(tokens)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        named = dict(network.named_parameters())
        slopes = torch.autograd.grad(loss, list(named.values()), create_graph=True)
        objective = loss + sum(slope.square().sum() for slope in slopes)
        second = torch.autograd.grad(objective, list(named.values()))
        return logits, dict(zip(named, slopes, strict=True)), dict(zip(named, second, strict=True))

    with sdpa_kernel(SDPBackend.MATH):  # torch's other kernels have no second derivative
        expected = results(theirs)
    for mine, other in zip(results(ours), expected, strict=True):
        if isinstance(mine, dict):
            mine = torchs(mine)
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-10)


def test_a_token_changes_no_logits_before_it():
    network, tokens = TransformerLanguageModel(V, T, E, N, L), torch.randint(V, (1, T))
    changed = tokens.clone()
    changed[0, 3] = (tokens[0, 3] + 1) % V
    before, after = network(tokens)[0], network(changed)[0]
    assert torch.equal(before[:3], after[:3])
    assert not torch.isclose(before[3:], after[3:]).all(dim=1).any()


def test_initial_weights_are_drawn_as_nanogpts():
    network = TransformerLanguageModel(50, 40, 64, 4, 3)
    for name, parameter in network.named_parameters():
        if parameter.dim() < 2:
            assert (parameter == 1).all(), name
            continue
        ends = name.endswith(("out_proj.weight", "reduce.weight"))
        expected = 0.02 / math.sqrt(6) if ends else 0.02
        assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
        assert abs(parameter.mean().item()) < 0.05 * expected * 5, name


def test_windows_begin_anywhere_in_the_text_and_anew_at_each_step():
    (cell,) = cells("transformer", "none")
    setup = build_stack([cell], data_of(cell), CPU)
    starts = torch.cat([draw_chunk(setup, step)["network"]["position"][0] for step in (0, CHUNK)]).double()
    tokens = len(data_of(cell).arrays["train/tokens"])
    assert starts.shape == (2 * CHUNK, 4)
    assert 0 <= starts.min() < 0.05 * tokens
    assert 0.95 * tokens < starts.max() < tokens
    assert len(starts.unique()) > 0.95 * starts.numel()
    neighbours = torch.corrcoef(torch.stack([starts[:-1].flatten(), starts[1:].flatten()]))[0, 1]
    assert abs(neighbours) < 0.2


RECIPE = {
    "optimizer__lr": 0.01,
    "optimizer__betas": [[0.9, 0.99]],
    "optimizer__weight_decay": 0.1,
    "optimizer__decay_vectors": False,
    "schedule__warmup": 3,
    "schedule__final": 0.1,
    "model__evaluation_tokens": 50,
}


def test_a_transformer_trains_and_is_judged_exactly_as_in_a_plain_script_of_nanogpts_recipe():
    (cell,) = cells("transformer", "clip_norm", regularizer__threshold=0.9, **RECIPE)
    data, sizes = data_of(cell), cell.config["model"]
    setup = build_stack([cell], data, CPU)
    layout, vector = setup.layouts["network"], init_state(setup).parameters["network"][0]
    net = plain_gpt.GPT(
        data.sizes["vocabulary"], sizes["unroll"], sizes["width"], sizes["heads"], sizes["layers"]
    )
    net.double().load_state_dict(
        torchs({name: tensor.clone() for name, tensor in layout.split(vector).items()})
    )
    text = torch.as_tensor(np.asarray(data.arrays["train/tokens"])).long()
    positions = draw_chunk(setup, 0)["network"]["position"][0]
    windows = [text[at[:, None] + torch.arange(sizes["unroll"] + 1)] for at in positions]
    losses, norms = plain_gpt.train(net, windows, cell.config["steps"], 3, 0.9, lr=0.01)
    outcome = train([cell], data, CPU)
    np.testing.assert_allclose(outcome.curves["loss"][:, 0], losses, rtol=1e-9)
    np.testing.assert_allclose(outcome.curves["grad_norm"][:, 0], norms, rtol=1e-8)
    assert 0 < outcome.curves["clipped"][:, 0].mean() < 1, "some steps are clipped, and some are not"
    test_text = torch.as_tensor(np.asarray(data.arrays["test/tokens"])).long()
    expected = plain_gpt.evaluate(net, test_text[:51], sizes["unroll"])
    assert outcome.evaluations[20]["test/loss"][0] == pytest.approx(expected, rel=1e-9)

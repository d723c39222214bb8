"""Evaluations of a language model against plain loops over the whole text, and the text that a network writes."""

import math

import networks
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small import CPU, cells, data_of
from torch import nn

from gradbench.errors import UsageError
from gradbench.models.language_modelling import SAMPLE_TOKENS, LanguageModellingTask
from gradbench.models.lstm import LanguageModelling
from gradbench.models.text_windows import LEAD, choose_token, evaluation_windows
from gradbench.sweep.plan import validate
from gradbench.training.bind import init_state
from gradbench.training.loop import train
from gradbench.training.setup import build_stack

V = 11
SIZES = {"vocabulary": V}
UNROLLS = (1, 5, 20, 35, 100, 3000)


def text_of(tokens, seed=0):
    return torch.randint(V, (tokens,), generator=torch.Generator().manual_seed(seed))


def seeded(make):
    torch.manual_seed(3)
    return make().double().eval()


def lively(make):
    """Return a network whose next token depends much on what it has read."""
    network = seeded(make)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    return network


def task(unroll, network=None, temperature=1.0, evaluation_tokens=10**6):
    return LanguageModellingTask(
        SIZES, unroll, 4, evaluation_tokens, lambda **_: network, temperature=temperature
    )


@torch.no_grad()
def evaluated(model, network, train, test):
    player = model.players[0].name
    return model.evaluate({player: network}, {"train/tokens": train, "test/tokens": test}, {})


class Plain(nn.Module):
    """A language model on nn.LSTM, which reads a whole text at once."""

    def __init__(self, width=7):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(V, width), nn.LSTM(width, width, batch_first=True)
        self.decoder = nn.Linear(width, V)

    def forward(self, tokens, state=None):
        outputs, state = self.lstm(self.embedding(tokens), state)
        return self.decoder(outputs), state


class Windowed(nn.Module):
    """A language model without state, which looks at every token of a window of T."""

    def __init__(self, length):
        super().__init__()
        self.embedding, self.mix = nn.Embedding(V, V), nn.Linear(length * V, length * V)

    def forward(self, tokens):
        embedded = self.embedding(tokens)
        return self.mix(embedded.flatten(1)).view_as(embedded)


@torch.no_grad()
def plain_loss(network, text):
    """Read a whole text in one stream, as a plain script does."""
    logits = network(text[None, :-1])
    logits = logits[0] if isinstance(logits, tuple) else logits
    return F.cross_entropy(logits[0], text[1:]).item()


# ---- what an evaluation reads --------------------------------------------------------------------------------


@given(st.integers(1, 20_000), st.integers(1, 400), st.booleans())
def test_every_token_is_predicted_once_and_after_enough_of_what_comes_before(tokens, unroll, carries_state):
    positions, counts = evaluation_windows(tokens, unroll, carries_state, CPU)
    assert torch.equal(positions[counts].sort().values, torch.arange(tokens))
    assert bool((positions[:, 1:] - positions[:, :-1] == 1).all())
    first = torch.where(counts, positions, tokens).min(dim=1).values
    before = first - positions[:, 0]
    if carries_state:
        assert all(begun >= min(LEAD, at) for begun, at in zip(before.tolist(), first.tolist(), strict=True))
    else:
        assert positions.shape[1] == min(unroll, tokens)


@pytest.mark.parametrize("tokens", [2, 40, 300, 1500])
def test_perplexity_is_that_of_a_plain_loop_over_the_whole_text_for_every_unroll(tokens):
    network, train_text, test_text = seeded(Plain), text_of(700), text_of(tokens, 1)
    ours = seeded(lambda: LanguageModelling(SIZES, 7, 7, 1, 5, 4, 10).networks()["lstm"])
    ours.load_state_dict(network.state_dict())
    for unroll in UNROLLS:
        model = LanguageModelling(SIZES, 7, 7, 1, unroll, 4, 10**6)
        found = evaluated(model, ours, train_text, test_text)
        for split, text in (("train", train_text), ("test", test_text)):
            expected = plain_loss(network, text)
            assert found[f"{split}/loss"].item() == pytest.approx(expected, rel=1e-12)
            assert found[f"{split}/perplexity"].item() == pytest.approx(math.exp(expected), rel=1e-12)
            assert found[f"{split}/read"] == 1


@pytest.mark.parametrize("make", [networks.GRU, networks.Recollection, networks.Bigrams])
def test_the_perplexity_of_a_network_of_ones_own_is_that_of_a_plain_loop(make):
    """A network of bigrams has no state, and needs none: what it says of a token depends on one other."""
    network, text = seeded(lambda: make(V)), text_of(777)
    for unroll in UNROLLS:
        found = evaluated(task(unroll, network), network, text, text)
        assert found["test/loss"].item() == pytest.approx(plain_loss(network, text), rel=1e-12)


def test_a_network_without_state_reads_windows_of_the_length_it_was_trained_on():
    network = seeded(lambda: networks.GPT(V, length=5))
    text, losses = text_of(24), []
    with torch.no_grad():
        for first in (0, 5, 10, 15, 18):  # the last window ends with the text
            logits = network(text[None, first : first + 5])[0]
            lost = F.cross_entropy(logits, text[first + 1 : first + 6], reduction="none")
            losses.append(lost[-3:] if first == 18 else lost)
    found = evaluated(task(5, network), network, text, text)
    assert found["test/loss"].item() == pytest.approx(torch.cat(losses).mean().item(), rel=1e-12)


def test_a_bounded_evaluation_reads_the_beginning_and_says_how_much_of_it():
    network, text = seeded(Plain), text_of(1001)
    found = evaluated(task(5, network, evaluation_tokens=400), network, text, text[:301])
    assert found["train/loss"].item() == pytest.approx(plain_loss(network, text[:401]), rel=1e-12)
    assert (found["train/read"].item(), found["test/read"].item()) == (0.4, 1)


# ---- what a network writes -----------------------------------------------------------------------------------


def written(network, unroll, temperature, text):
    """Let a network write; return the numbers it was given to draw by, and the prompt with what it wrote."""
    model = task(unroll, network, temperature)
    draw = {name: one[0] for name, one in model.draw("evaluation", 0, 0, 1, {}).items()}
    with torch.no_grad():
        found = model.sample({"network": network}, {"test/tokens": text}, draw)
    assert torch.equal(found["prompt_tokens"], text[:unroll])
    assert len(found["sample_tokens"]) == SAMPLE_TOKENS
    return draw["uniform"], torch.cat([found["prompt_tokens"], found["sample_tokens"]])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("unroll", [1, 6])
@pytest.mark.parametrize("carries_state", [True, False])
def test_each_token_is_chosen_after_all_before_or_after_a_window_of_them(carries_state, unroll, temperature):
    network = lively(Plain if carries_state else lambda: Windowed(unroll))
    uniform, whole = written(network, unroll, temperature, text_of(50))
    with torch.no_grad():
        if carries_state:
            logits = network(whole[None])[0][0, unroll - 1 : -1]
        else:
            logits = network(whole.unfold(0, unroll, 1))[:-1, -1]
    chosen = [choose_token(*one, temperature) for one in zip(logits, uniform, strict=True)]
    assert torch.equal(torch.stack(chosen), whole[unroll:])
    assert temperature == 0 or len({int(token) for token in chosen}) > 3


@settings(max_examples=20)
@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=30),
    st.floats(0.2, 3),
    st.sampled_from((torch.float32, torch.float64)),
)
def test_tokens_are_chosen_as_often_as_the_network_expects_them(scores, temperature, dtype):
    logits = torch.tensor(scores, dtype=dtype)
    uniform = torch.arange(1000, dtype=dtype) / 1000
    chosen = [choose_token(logits, one, temperature).item() for one in uniform]
    shares = np.bincount(chosen, minlength=len(scores)) / 1000
    expected = torch.softmax(logits.double() / temperature, 0).numpy()
    np.testing.assert_allclose(shares, expected, atol=1.1e-3)


def test_numbers_that_are_not_finite_still_choose_a_token():
    for wrong in (math.nan, math.inf, -math.inf):
        for temperature in (0.0, 1.0):
            token = choose_token(torch.full((V,), wrong), torch.tensor(0.999), temperature)
            assert 0 <= token < V


@pytest.mark.parametrize("model", ["lstm", "language_model"])
def test_a_cell_writes_the_same_alone_and_in_a_stack(model):
    stack = cells(model, "none", seed=[0, 1], steps=4, eval_every=2)
    data = data_of(stack[0])
    first, second = (arrays["sample_tokens"] for arrays in train(stack, data, CPU).arrays)
    assert len(first) == len(second) == SAMPLE_TOKENS
    assert not np.array_equal(first, second), "another seed draws other tokens"
    (alone,) = train(stack[1:], data, CPU).arrays
    assert np.array_equal(alone["sample_tokens"], second)


@pytest.mark.parametrize("network", [None, "networks.GRU", "networks.GPT"])
def test_networks_that_are_stacked_as_on_a_gpu_are_judged_and_write_as_one_by_one(network):
    given = {"model__network": network} if network else {}
    stack = cells("language_model" if network else "lstm", "none", seed=[0, 1], **given)
    found = []
    for kind in ("cpu", "cuda"):
        context = build_stack(stack, data_of(stack[0]), CPU, kind=kind)
        state = init_state(context)
        given = (state.weights, state.carry)
        found.append(context.evaluate(*given) | context.sample(*given))
    assert found[0].keys() == found[1].keys()
    for name, one_by_one in found[0].items():
        torch.testing.assert_close(found[1][name], one_by_one, rtol=1e-9, atol=1e-12)


# ---- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"unroll": 20}, "has 20 tokens, model.unroll=20 needs more: lower model.unroll"),
        ({"batch_size": 21}, "has 20 tokens, too few for .* model.batch_size=21 .*: lower model.batch_size"),
        ({"batch_size": 0}, "batch_size, evaluation_tokens must be >= 1"),
        ({"temperature": -1.0}, "model.temperature must be >= 0, got -1.0"),
        ({"temperature": math.nan}, "model.temperature must be >= 0, got nan"),
    ],
)
def test_what_the_text_does_not_allow_is_refused_with_what_to_type(given, said):
    arrays = {"train/tokens": np.zeros(20, dtype=np.int64)}
    fine = {"unroll": 19, "batch_size": 20, "evaluation_tokens": 10, "arrays": arrays}
    for make in (
        lambda **keys: LanguageModelling(SIZES, 2, 2, 1, **keys),
        lambda **keys: LanguageModellingTask(SIZES, network=lambda **_: None, **keys),
    ):
        make(**fine)
        with pytest.raises((UsageError, ValueError), match=said):
            make(**fine | given)


def test_a_text_that_is_too_short_is_refused_by_the_plan(tmp_path):
    (tmp_path / "t.txt").write_text("as short as this\n" * 2)
    given = {"data": "text", "data__path": str(tmp_path / "t.txt"), "data__test_share": 0.2}
    validate(cells("lstm", "none", **given))
    with pytest.raises(UsageError, match=r"lower model\.unroll, or use a longer text"):
        validate(cells("lstm", "none", **given, model__unroll=40))

"""Translation against networks of torch's own layers, trained and let translate as a plain script does.

B pairs, S source tokens, T target tokens, V target vocabulary.
"""

import contextlib
import math

import numpy as np
import pytest
import sacrebleu
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from small import CPU, cells, data_of
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gradbench.data.pairs import decode_row
from gradbench.errors import UsageError
from gradbench.functional.special_tokens import END, PADDING
from gradbench.launchers.rows import tokens_to_text
from gradbench.models.bleu import corpus_bleu
from gradbench.models.translation import ARCHITECTURES, SHOWN, Translation, read_target, translate
from gradbench.training.bind import init_state
from gradbench.training.draws import draw_chunk
from gradbench.training.loop import train
from gradbench.training.setup import build_stack

WIDTH, HEADS, LAYERS = 8, 2, 2
SIZES = {"source_vocabulary": 7, "target_vocabulary": 9, "source_length": 6, "target_length": 5}
ARRAYS = {"train/source": np.zeros((50, 6), np.int64)}
KEYS = {"width": WIDTH, "heads": HEADS, "layers": LAYERS, "dropout": 0.0, "batch_size": 4}

SOURCE = torch.tensor([[2, 3, 4, 5, 6, 2], [3, 3, 2, 0, 0, 0], [6, 0, 0, 0, 0, 0], [4, 5, 2, 0, 0, 0]])
TARGET = torch.tensor([[2, 3, 1, 0, 0], [1, 0, 0, 0, 0], [8, 7, 6, 5, 1], [2, 2, 2, 1, 0]])


# ---- networks of torch's own layers --------------------------------------------------------------------------


class PlainGRU(nn.Module):
    """A bidirectional ``nn.GRU`` on packed sequences, an ``nn.GRU``, and an ``nn.MultiheadAttention``."""

    def __init__(self, sizes, width, heads, layers):
        super().__init__()
        self.source_embedding = nn.Embedding(sizes["source_vocabulary"], width)
        self.target_embedding = nn.Embedding(sizes["target_vocabulary"], width)
        self.encoder = nn.GRU(width, width // 2, layers, batch_first=True, bidirectional=True)
        self.decoder = nn.GRU(width, width, layers, batch_first=True)
        self.attention = nn.MultiheadAttention(width, heads, bias=False, batch_first=True)
        self.join, self.output = nn.Linear(2 * width, width), nn.Linear(width, sizes["target_vocabulary"])

    def forward(self, source, inputs):
        is_padding = source == PADDING
        packed = pack_padded_sequence(
            self.source_embedding(source), (~is_padding).sum(1), batch_first=True, enforce_sorted=False
        )
        states, last = self.encoder(packed)
        memory, _ = pad_packed_sequence(states, batch_first=True, total_length=source.shape[1])
        first = last.unflatten(0, (-1, 2)).movedim(1, 2).flatten(2)
        out, _ = self.decoder(self.target_embedding(inputs), first.contiguous())
        gathered, _ = self.attention(out, memory, memory, key_padding_mask=is_padding, need_weights=False)
        return self.output(torch.tanh(self.join(torch.cat([out, gathered], dim=2))))

    @staticmethod
    def name_of(name):
        parts = name.split(".")
        if parts[0] != "encoder":
            return name
        return f"encoder.{parts[3][:-1]}{parts[2]}{'_reverse' if parts[1] == 'backwards' else ''}"


class PlainTransformer(nn.Module):
    """``nn.TransformerEncoder`` and ``nn.TransformerDecoder``."""

    def __init__(self, sizes, width, heads, layers):
        super().__init__()
        keys = {
            "d_model": width,
            "nhead": heads,
            "dim_feedforward": 4 * width,
            "dropout": 0.0,
            "activation": "gelu",
            "batch_first": True,
            "norm_first": True,
            "bias": False,
        }
        self.source_embedding = nn.Embedding(sizes["source_vocabulary"], width)
        self.target_embedding = nn.Embedding(sizes["target_vocabulary"], width)
        self.source_positions = nn.Embedding(sizes["source_length"], width)
        self.positions = nn.Embedding(sizes["target_length"], width)
        norms = [nn.LayerNorm(width, bias=False) for _ in range(2)]
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**keys), layers, norms[0], enable_nested_tensor=False
        )
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**keys), layers, norms[1])
        self.output = nn.Linear(width, sizes["target_vocabulary"], bias=False)

    def forward(self, source, inputs):
        is_padding = source == PADDING
        T = inputs.shape[1]
        embedded = self.source_embedding(source) + self.source_positions.weight[: source.shape[1]]
        memory = self.encoder(embedded, src_key_padding_mask=is_padding)
        out = self.decoder(
            self.target_embedding(inputs) + self.positions.weight[:T],
            memory,
            tgt_mask=torch.ones(T, T, dtype=torch.bool).triu(1),
            memory_key_padding_mask=is_padding,
        )
        return self.output(out)

    @staticmethod
    def name_of(name):
        if name.startswith("norm."):
            return f"decoder.{name}"
        is_encoder = name.startswith("encoder.")
        for ours, theirs in {
            "encoder.positions": "source_positions",
            "encoder.blocks": "encoder.layers",
            "attention_norm": "norm1",
            "source_norm": "norm2",
            "mlp_norm": "norm2" if is_encoder else "norm3",
            "source_attention": "multihead_attn",
            ".attention": ".self_attn",
            "expand": "linear1",
            "reduce": "linear2",
        }.items():
            name = name.replace(ours, theirs)
        return f"decoder.layers.{name.removeprefix('blocks.')}" if name.startswith("blocks.") else name


PLAIN = {"gru": PlainGRU, "transformer": PlainTransformer}


def plain_of(architecture, tensors, sizes, width, heads, layers):
    """Return a network of torch's own layers with the weights of ours; every weight has its place."""
    network = PLAIN[architecture](sizes, width, heads, layers).double()
    network.load_state_dict({network.name_of(name): tensor for name, tensor in tensors.items()})
    return network


@contextlib.contextmanager
def twice_differentiable():
    """Let torch's attention run on the one of its kernels that has a second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def model_of(architecture, **keys):
    return Translation(SIZES, ARRAYS, architecture, evaluation_examples=9, **KEYS | keys)


def lively(architecture, seed=0):
    """Return a network whose weights are large enough for every part of it to matter."""
    torch.manual_seed(seed)
    network = model_of(architecture).networks()["network"].double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    return network


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_gradients_and_a_penaltys_gradients_are_those_of_torchs_own_layers(architecture):
    ours = lively(architecture)
    theirs = plain_of(architecture, ours.state_dict(), SIZES, WIDTH, HEADS, LAYERS)
    f, embedded = model_of(architecture).losses(
        "network", {"network": ours}, {"source": SOURCE, "target": TARGET}, {}
    )
    embedded.retain_grad()

    inputs = torch.cat([torch.full_like(TARGET[:, :1], END), TARGET[:, :-1]], dim=1)
    with twice_differentiable():
        points = []
        theirs.source_embedding.register_forward_hook(lambda *found: points.append(found[2]))
        logits = theirs(SOURCE, inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), TARGET.flatten(), ignore_index=PADDING)
        expected = [loss, *results(loss, points[0], theirs, names(ours, theirs))]
    loss = f(embedded)[0].mean()
    found = [loss, *results(loss, embedded, ours, list(dict(ours.named_parameters())))]
    assert len(dict(theirs.named_parameters())) == len(dict(ours.named_parameters()))
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


def names(ours, theirs):
    return [theirs.name_of(name) for name, _ in ours.named_parameters()]


def results(loss, points, network, order):
    """Return the loss's gradients with respect to points and parameters, and those of a penalty."""
    named = dict(network.named_parameters())
    parameters = [named[name] for name in order]
    (slopes,) = torch.autograd.grad(loss, points, create_graph=True)
    penalty = slopes.flatten(1).norm(dim=1).square().mean()
    plain = torch.autograd.grad(loss, parameters, retain_graph=True)
    penalised = torch.autograd.grad(penalty, parameters, allow_unused=True, materialize_grads=True)
    return [slopes, *plain, *penalised]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_fills_a_row_changes_nothing(architecture):
    network = lively(architecture)
    whole = read_target(network, SOURCE, TARGET)
    for row, (source, target) in enumerate(zip(SOURCE, TARGET, strict=True)):
        source, target = source[source != PADDING], target[target != PADDING]
        alone = read_target(network, source[None], target[None])
        torch.testing.assert_close(whole[row, : len(target)], alone[0], rtol=1e-10, atol=1e-12)


# ---- translating ---------------------------------------------------------------------------------------------


def plainly_translated(network, source, length):
    """Translate one sentence as a plain script does: read all of it anew for each token."""
    written = []
    while len(written) < length and END not in written:
        inputs = torch.tensor([[END, *written]])
        written.append(int(network(source[None], inputs)[0, -1].argmax()))
    return written


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_translations_are_those_of_a_plain_loop(architecture):
    ends = set()
    for seed in range(12):
        ours = lively(architecture, seed)
        theirs = plain_of(architecture, ours.state_dict(), SIZES, WIDTH, HEADS, LAYERS)
        for found, source in zip(translate(ours, SOURCE, 5), SOURCE, strict=True):
            written = plainly_translated(theirs, source[source != PADDING], 5)
            assert found.tolist() == written + [PADDING] * (5 - len(written))
            ends.add(len(written) if END in written else None)
    assert len(ends) > 2, "of different lengths"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_cell_trains_and_is_judged_exactly_as_in_a_plain_pytorch_script(architecture):
    """The second cell of a stack, against torch's own layers, optimizer and clipping, and a loop over sentences."""
    stack = cells(
        "translation",
        "clip_norm",
        model__architecture=architecture,
        model__heads=HEADS,
        model__layers=LAYERS,
        regularizer__threshold=0.3,
        optimizer__lr=0.02,
        seed=[0, 1],
        steps=40,
        eval_every=40,
    )
    data, cell = data_of(stack[0]), stack[1]
    setup = build_stack([cell], data, CPU)
    layout, vector = setup.layouts["network"], init_state(setup).parameters["network"][0]
    network = plain_of(architecture, layout.split(vector), data.sizes, WIDTH, HEADS, LAYERS)
    tables = {name: torch.as_tensor(np.asarray(data.arrays[name])) for name in data.arrays}
    optimizer = torch.optim.Adam(network.parameters(), lr=cell.lr)
    index = draw_chunk(setup, 0)["network"]["index"][0]
    losses, norms = [], []
    for step in range(40):
        source, target = (tables[f"train/{side}"][index[step]] for side in ("source", "target"))
        inputs = torch.cat([torch.full_like(target[:, :1], END), target[:, :-1]], dim=1)
        loss = F.cross_entropy(network(source, inputs).movedim(2, 1), target, ignore_index=PADDING)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(network.parameters(), 0.3)))
        losses.append(float(loss.detach()))
        optimizer.step()
    outcome = train(stack, data, CPU)
    np.testing.assert_allclose(outcome.curves["loss"][:, 1], losses, rtol=1e-8)
    np.testing.assert_allclose(outcome.curves["grad_norm"][:, 1], norms, rtol=1e-6)

    count = cell.config["model"]["evaluation_examples"]
    metrics = {name: values[1] for name, values in outcome.evaluations[40].items()}
    with torch.no_grad():
        for split in ("train", "test"):
            sources, targets = (tables[f"{split}/{side}"][:count] for side in ("source", "target"))
            inputs = torch.cat([torch.full_like(targets[:, :1], END), targets[:, :-1]], dim=1)
            logits, counts = network(sources, inputs), targets != PADDING
            loss = F.cross_entropy(logits.movedim(2, 1), targets, ignore_index=PADDING)
            hits = [
                plainly_translated(network, source[source != PADDING], targets.shape[1])
                == target[target != PADDING].tolist()
                for source, target in zip(sources, targets, strict=True)
            ]
            assert metrics[f"{split}/loss"] == pytest.approx(loss.item(), rel=1e-7)
            right = (logits.argmax(dim=2) == targets)[counts].double().mean().item()
            assert metrics[f"{split}/token_accuracy"] == pytest.approx(right, abs=1e-12)
            assert metrics[f"{split}/exact_match"] == pytest.approx(np.mean(hits), abs=1e-12)
    lines = bytes(tokens_to_text(outcome.arrays[1], data)["translations"]).decode().split("\n")
    assert len(lines) == min(SHOWN, count)
    for line, source, target in zip(lines, tables["test/source"], tables["test/target"], strict=False):
        own = plainly_translated(network, source[source != PADDING], targets.shape[1])
        rows = (("source", source.tolist()), ("target", target.tolist()), ("target", own))
        texts = [decode_row(data.arrays[f"vocabulary/{side}"], row) for side, row in rows]
        assert line.split("\t") == texts


def test_translations_of_numbers_that_are_not_finite_are_neither_right_nor_wrong():
    model = model_of("gru")
    data = {f"{split}/{side}": table for split in ("train", "test") for side, table in
            (("source", SOURCE), ("target", TARGET))}  # fmt: skip
    broken = lively("gru")
    with torch.no_grad():
        broken.output.bias.fill_(math.nan)
        found = model.evaluate({"network": broken}, data, {})
    assert found["test/exact_match"].isnan()
    assert found["train/exact_match"].isnan()


# ---- BLEU ----------------------------------------------------------------------------------------------------

sentences = st.lists(st.integers(2, 6), max_size=9)


@given(st.lists(st.tuples(sentences, sentences.filter(len)), min_size=1, max_size=8), st.integers(0, 3))
def test_bleu_is_sacrebleus(pairs, near):
    """Of some sentences a translation shares a beginning with its reference."""
    pairs = [(other[: near + 2] + own, other) for own, other in pairs]
    width = 1 + max(len(row) for pair in pairs for row in pair)
    tables = [
        np.array([row + [END] + [PADDING] * (width - len(row) - 1) for row in rows], np.int64)
        for rows in zip(*pairs, strict=True)
    ]
    texts = [[" ".join(map(str, row)) for row in rows] for rows in zip(*pairs, strict=True)]
    expected = sacrebleu.corpus_bleu(texts[0], [texts[1]], tokenize="none", force=True).score
    assert corpus_bleu(*tables, END) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_bleu_of_nothing_is_nothing_and_of_the_reference_itself_is_a_hundred():
    rows = np.array([[2, 3, 4, 5, 6, END], [6, 5, 4, 3, END, PADDING]])
    empty = np.full_like(rows, END)
    assert corpus_bleu(rows, rows, END) == pytest.approx(100)
    assert corpus_bleu(empty, rows, END) == 0


# ---- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "lstm"}, "model.architecture must be one of gru, transformer, got lstm"),
        ({"heads": 3}, "a multiple of heads, got 8, 3"),
        ({"width": 1, "heads": 1}, "model.width must be >= 2"),
        ({"layers": 0}, "layers must be >= 1"),
        ({"dropout": 1.0}, r"model.dropout must be in \[0, 1\), got 1.0"),
        ({"batch_size": 51}, "model.batch_size must be from 1 to 50"),
        ({"evaluation_examples": 0}, "model.evaluation_examples must be >= 1, got 0"),
    ],
)
def test_sizes_that_make_no_network_are_refused_by_name(change, said):
    with pytest.raises((UsageError, ValueError), match=said):
        Translation(SIZES, ARRAYS, **{"architecture": "gru", "evaluation_examples": 9} | KEYS | change)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dropout_acts_while_training_alone(architecture):
    network = model_of(architecture, dropout=0.5).networks()["network"]
    first, second = (read_target(network, SOURCE, TARGET) for _ in range(2))
    assert not torch.equal(first, second)
    network.eval()
    first, second = (read_target(network, SOURCE, TARGET) for _ in range(2))
    assert torch.equal(first, second)

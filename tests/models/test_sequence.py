"""Recurrent layers and the model that reads sequences, against torch's own, torch.optim and NumPy's eigenvalues."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import CPU, cells, data_of
from torch import nn

from gradbench.models.networks.language_model import CELLS
from gradbench.models.sequence import SequenceClassifier, SequenceReading, example_losses, is_correct
from gradbench.training.bind import init_state
from gradbench.training.draws import draw_chunk
from gradbench.training.loop import train
from gradbench.training.setup import build_stack

SIZES = {"features": 1, "length": 10, "answers": 1}
ARRAYS = {"train/x": np.zeros((5, 10, 1), np.float32), "train/y": np.zeros(5, np.float32)}

TORCHS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("kind", CELLS)
def test_written_out_layers_equal_torchs_in_outputs_states_gradients_and_a_penaltys_gradients(kind, layers):
    ours = CELLS[kind](5, 7, layers).double()
    theirs = TORCHS[kind](5, 7, layers, batch_first=True).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 11, 5, dtype=torch.float64, requires_grad=True)
    first = tuple(torch.randn(2 if kind == "lstm" else 1, layers, 3, 7, dtype=torch.float64))

    def results(network):
        out, state = network(x, first if kind == "lstm" else first[0])
        last = state if isinstance(state, tuple) else (state,)
        loss = out.square().sum() + sum(one.sin().sum() for one in last)
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        objective = loss + slope.flatten(1).norm(dim=1).square().mean()
        named = dict(network.named_parameters())
        plain = torch.autograd.grad(loss, list(named.values()), retain_graph=True)
        penalised = torch.autograd.grad(objective, [*named.values(), x])
        return (out, *last, slope, *plain, *penalised)

    assert list(dict(ours.named_parameters())) == list(dict(theirs.named_parameters()))
    for mine, other in zip(results(ours), results(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("cell", TORCHS)
@pytest.mark.parametrize("radius", [0.5, 1.5])
def test_radius_is_the_spectral_radius_of_the_initial_recurrent_weights(cell, radius):
    weights = SequenceClassifier(3, 100, 2, cell, radius).recurrent.get_parameter("weight_hh_l0").detach()
    found = [np.abs(np.linalg.eigvals(block.numpy())).max() for block in weights.split(100)]
    assert found == pytest.approx([radius] * len(found), rel=0.2)


def plain_reader(cell, data):
    """Train as a plain script would: torch's own recurrent layer, optimizer and clipping, the last output decoded."""
    setup = build_stack([cell], data, CPU)
    layout, vector = setup.layouts["network"], init_state(setup).parameters["network"][0]
    tensors = {name: tensor.clone() for name, tensor in layout.split(vector).items()}
    config = cell.config["model"]
    features, answers = data.sizes["features"], data.sizes["answers"]
    recurrent = TORCHS[config["cell"]](features, config["hidden"], batch_first=True).double()
    recurrent.load_state_dict(
        {name.removeprefix("recurrent."): t for name, t in tensors.items() if name.startswith("recurrent.")}
    )
    decoder = nn.Linear(config["hidden"], answers).double()
    decoder.load_state_dict({"weight": tensors["decoder.weight"], "bias": tensors["decoder.bias"]})
    parameters = [*recurrent.parameters(), *decoder.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=cell.lr)
    x, y = (torch.as_tensor(np.asarray(data.arrays[f"train/{name}"])) for name in "xy")
    index = draw_chunk(setup, 0)["network"]["index"][0]
    found, norms = [], []
    for step in range(cell.config["steps"]):
        outputs, _ = recurrent(x[index[step]].double())
        answer, target = decoder(outputs[:, -1]), y[index[step]]
        loss = F.mse_loss(answer[:, 0], target.double()) if answers == 1 else F.cross_entropy(answer, target)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(parameters, 0.3)))
        found.append(float(loss.detach()))
        optimizer.step()
    return found, norms, (recurrent, decoder)


@pytest.mark.parametrize("cell_kind", TORCHS)
@pytest.mark.parametrize("task", ["temporal_order", "adding"])
def test_a_reader_trains_and_is_judged_exactly_as_in_a_plain_pytorch_script(task, cell_kind):
    (cell,) = cells("sequence", "clip_norm", data=task, model__cell=cell_kind, regularizer__threshold=0.3)
    data = data_of(cell)
    found, norms, (recurrent, decoder) = plain_reader(cell, data)
    outcome = train([cell], data, CPU)
    np.testing.assert_allclose(outcome.curves["loss"][:, 0], found, rtol=1e-9)
    np.testing.assert_allclose(outcome.curves["grad_norm"][:, 0], norms, rtol=1e-8)
    metrics = outcome.evaluations[20]
    count = len(data.arrays["test/y"])
    for split in ("train", "test"):
        x, y = (torch.as_tensor(np.asarray(data.arrays[f"{split}/{name}"])) for name in "xy")
        answer = decoder(recurrent(x[:count].double())[0][:, -1]).detach().numpy()
        hits = (
            np.abs(answer[:, 0] - y[:count].numpy()) <= 0.04
            if task == "adding"
            else answer.argmax(axis=1) == y[:count].numpy()
        )
        assert metrics[f"{split}/accuracy"][0] == pytest.approx(hits.mean(), abs=1e-12)
    assert metrics["test/solved"][0] == 0.0


def test_a_task_is_solved_below_one_percent_of_error_and_not_at_it():
    model = SequenceReading(SIZES, ARRAYS, "rnn", 3, 1.0, 2)
    for wrong, solved in ((1, 0.0), (0, 1.0)):
        answers = torch.zeros(100, 1)
        answers[:wrong] = 0.05
        data = {"x": torch.zeros(100, 10, 1), "y": torch.full((100,), 0.0)}
        data = {f"{split}/{name}": tensor for split in ("train", "test") for name, tensor in data.items()}
        metrics = model.evaluate({"network": lambda x, answers=answers: answers}, data, {})
        assert float(metrics["test/accuracy"]) == pytest.approx(1 - wrong / 100)
        assert float(metrics["test/solved"]) == solved


def test_numbers_are_squared_errors_and_right_within_004_and_classes_are_cross_entropies():
    numbers, targets = torch.tensor([[0.5], [0.46], [0.4]]), torch.tensor([0.5, 0.5, 0.5])
    torch.testing.assert_close(example_losses(numbers, targets), torch.tensor([0.0, 0.0016, 0.01]))
    assert is_correct(numbers + 1e-4, targets).tolist() == [1.0, 1.0, 0.0]
    logits, classes = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    torch.testing.assert_close(
        example_losses(logits, classes), -logits.log_softmax(dim=1)[torch.arange(5), classes]
    )


def test_an_answer_that_is_not_finite_is_neither_right_nor_wrong_and_solves_nothing():
    broken = torch.tensor([[math.nan], [math.inf], [0.0]])
    torch.testing.assert_close(
        is_correct(broken, torch.zeros(3)), torch.tensor([math.nan, math.nan, 1.0]), equal_nan=True
    )
    logits = torch.tensor([[0.0, math.nan], [1.0, 0.0]])
    torch.testing.assert_close(
        is_correct(logits, torch.tensor([0, 0])), torch.tensor([math.nan, 1.0]), equal_nan=True
    )
    model = SequenceReading(SIZES, ARRAYS, "rnn", 3, 1.0, 2)
    data = {f"{split}/x": torch.zeros(3, 10, 1) for split in ("train", "test")}
    data |= {f"{split}/y": torch.zeros(3) for split in ("train", "test")}
    metrics = model.evaluate({"network": lambda x: broken}, data, {})
    assert metrics["test/accuracy"].isnan()
    assert metrics["test/solved"].isnan()


def test_gradients_explode_with_length_for_a_large_radius_and_vanish_for_a_small_one():
    def slope(radius, length):
        torch.manual_seed(0)
        net = SequenceClassifier(2, 100, 1, "rnn", radius)
        nn.init.zeros_(net.recurrent.bias_ih_l0)
        nn.init.zeros_(net.recurrent.bias_hh_l0)
        x = (1e-6 * torch.randn(4, length, 2)).requires_grad_()
        (gradient,) = torch.autograd.grad(net(x).sum(), x)
        return float(gradient[:, 0].norm())

    assert slope(2.0, 12) > 10 * slope(2.0, 4)
    assert slope(0.5, 12) < 0.1 * slope(0.5, 4)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"cell": "lsmt"}, "rnn, gru, lstm, got lsmt"),
        ({"layers": 0}, "layers"),
        ({"hidden": 0}, "hidden"),
        ({"radius": float("inf")}, "radius"),
    ],
)
def test_sizes_that_make_no_network_are_refused_by_name(change, names):
    given = {"cell": "rnn", "hidden": 3, "radius": 1.0, "batch_size": 2} | change
    with pytest.raises(ValueError, match=names):
        SequenceReading(SIZES, ARRAYS, **given)

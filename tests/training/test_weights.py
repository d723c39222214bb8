"""Initial weights from a file."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small import CPU, cells, data_of
from torch import nn
from training.test_reference import assert_follows

from gradbench.errors import UsageError
from gradbench.sweep.plan import validate
from gradbench.training.bind import init_state
from gradbench.training.loop import train
from gradbench.training.setup import build_stack
from gradbench.training.weights import apply_weights


def weights_of(model="mlp", **values):
    """Return the trained weights of a small cell, as a state dict of its network."""
    (cell,) = cells(model, "none", **values)
    setup = build_stack([cell], data_of(cell), CPU)
    vectors = init_state(setup).parameters
    return {
        (f"{name}.{key}" if len(vectors) > 1 else key): tensor.clone()
        for name, vector in vectors.items()
        for key, tensor in setup.layouts[name].split(vector[0].float() + 0.25).items()
    }


def saved(path, weights):
    """Save weights by what the file's name ends in."""
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    return str(path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_every_cell_starts_from_the_weights_of_the_file(tmp_path, name):
    weights = weights_of()
    stack = cells("mlp", "none", model__weights=saved(tmp_path / name, weights), seed=[0, 1])
    setup = build_stack(stack, data_of(stack[0]), CPU)
    expected = setup.layouts["mlp"].join(weights).double()
    for vector in init_state(setup).parameters["mlp"]:
        assert torch.equal(vector, expected)


def test_both_networks_of_a_gan_start_from_one_file_and_follow_the_reference(tmp_path):
    path = saved(tmp_path / "w.safetensors", weights_of("wgan"))
    assert_follows(cells("wgan", "gp", model__weights=path, seed=[0, 3], steps=3, eval_every=3))


def test_the_id_is_of_the_content_and_not_of_the_path(tmp_path):
    weights = weights_of()
    one, same, other = (
        cells("mlp", "none", model__weights=saved(tmp_path / name, found))[0].id
        for name, found in (
            ("a.safetensors", weights),
            ("b.safetensors", weights),
            ("c.safetensors", {name: tensor + 1 for name, tensor in weights.items()}),
        )
    )
    assert one == same
    assert len({one, other, cells("mlp", "none")[0].id}) == 3


def test_a_new_head_is_drawn_by_the_seed(tmp_path):
    body = {name: tensor for name, tensor in weights_of().items() if not name.startswith("output")}
    stack = cells("mlp", "none", model__weights=saved(tmp_path / "w.pt", {"state_dict": body}), seed=[0, 1])
    setup = build_stack(stack, data_of(stack[0]), CPU)
    first, second = (setup.layouts["mlp"].split(vector) for vector in init_state(setup).parameters["mlp"])
    assert torch.equal(first["hidden.0.weight"], second["hidden.0.weight"])
    assert not torch.equal(first["output.weight"], second["output.weight"])


class Code:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"nowhere": torch.zeros(2)},
            r"has nowhere, and the network has no such tensor; it has hidden\.0\.weight",
        ),
        ({"output.bias": torch.zeros(3)}, r"output\.bias of shape \[3\], expected \[10\]"),
        ({"output.bias": Code()}, "is no state dict that can be read as data only"),
        ([torch.zeros(2)], "holds no tensors by name"),
        (
            {"output.bias": torch.tensor([0.0] * 7 + [math.inf, math.nan, 0])},
            r"has output\.bias\[7\] = inf, expected a finite number",
        ),
        (
            {"output.bias": torch.zeros(10, dtype=torch.int64)},
            r"has output\.bias of whole numbers \(int64\), expected floating ones",
        ),
    ],
)
def test_what_does_not_fit_is_refused_at_the_plan(tmp_path, content, said, capfd):
    torch.save(content, tmp_path / "w.pt")
    stack = cells("mlp", "none", model__weights=str(tmp_path / "w.pt"))
    with pytest.raises(UsageError, match=said):
        validate(stack, data_of)
    assert "executed" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.mkdir(), r"\(a folder\)"),
        (lambda path: path.symlink_to("/dev/zero"), r"\(no regular file\)"),
        (lambda path: path.touch(), "is an empty file"),
        (lambda path: path.write_bytes(truncated(path)), "is damaged: its end is missing"),
        (lambda path: None, r"\(no such file\)"),
    ],
)
def test_what_is_no_whole_file_of_weights_is_called_what_it_is(tmp_path, make, said):
    path = tmp_path / "w.pt"
    make(path)
    with pytest.raises(UsageError, match=said):
        validate(cells("mlp", "none", model__weights=str(path)), data_of)


def truncated(path):
    """Return half of a file of weights."""
    torch.save(weights_of(), path)
    return path.read_bytes()[: path.stat().st_size // 2]


def test_a_mask_that_is_no_parameter_may_be_infinite():
    net = nn.Linear(2, 2)
    net.register_buffer("mask", torch.zeros(2))
    apply_weights({"net": net}, {"mask": torch.tensor([0.0, -math.inf])})
    assert net.mask[1] == -math.inf


def test_a_plan_says_which_tensors_the_file_lacks(tmp_path):
    path = saved(tmp_path / "w.pt", {"output.bias": torch.zeros(10)})
    (note,) = validate(cells("mlp", "none", model__weights=path), data_of)
    assert note == (
        "model.weights lacks 5 of the network's tensors, which each seed draws: hidden.0.weight, hidden.0.bias, "
        "hidden.1.weight and 2 more"
    )


def test_a_file_that_changed_since_the_plan_is_not_trained_from(tmp_path):
    path = tmp_path / "w.pt"
    stack = cells("mlp", "none", model__weights=saved(path, weights_of()))
    saved(path, weights_of(seed=[5]))
    with pytest.raises(UsageError, match="has changed since the run was planned"):
        train(stack, data_of(stack[0]), CPU)


def test_training_goes_on_from_where_the_weights_are(tmp_path):
    (cell,) = cells(
        "mlp", "none", model__weights=saved(tmp_path / "w.pt", weights_of()), steps=4, eval_every=4
    )
    (plain,) = cells("mlp", "none", steps=4, eval_every=4)
    ours, drawn = (train([one], data_of(one), CPU).curves["loss"][0] for one in (cell, plain))
    assert not np.array_equal(ours, drawn)

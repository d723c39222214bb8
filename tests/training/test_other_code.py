"""Networks as other people write them: each follows the reference step by step, and goes on to the same bits."""

import pytest
from small import CPU, cells, data_of
from stopping import StopError, always, assert_same_outcome, stop_at
from training.test_reference import assert_follows

from gradbench.training.loop import train

CALM = {"optimizer": "sgd", "optimizer__lr": 0.02}

CODE = {
    "torchvision's resnet18": (
        "classifier",
        {
            "model__network": "networks.resnet",
            "model__batch_size": 32,
            "optimizer__lr": 1e-3,
            "regularizer__lambda": 1e-2,
        },
    ),
    "a branch on a shape": ("classifier", {"model__network": "networks.Shaped"}),
    "a gpt with tied weights": ("language_model", {"model__network": "networks.GPT"}),
    "a recurrent language model": ("language_model", {"model__network": "networks.Recollection"}),
    "a spectral-normed critic": ("wgan", {"model__networks__critic": "networks.SpectralCritic"}),
    "a normed generator": ("wgan", {"model__networks__generator": "networks.NormedGenerator"}),
    "both": (
        "wgan",
        {
            "model__networks__critic": "networks.SpectralCritic",
            "model__networks__generator": "networks.NormedGenerator",
        },
    ),
}

HEAVY = ("torchvision's resnet18",)
QUICK = ("a gpt with tied weights", "both")
"""In the default suite."""


def case(name, regularizer):
    """Return a case."""
    return pytest.param(name, regularizer, marks=[] if name in QUICK else [pytest.mark.slow])


@pytest.mark.parametrize(
    ("name", "regularizer"), [case(name, regularizer) for name in CODE for regularizer in ("clip_norm", "gp")]
)
def test_it_follows_the_reference(name, regularizer):
    model, given = CODE[name]
    given = {"steps": 4, "eval_every": 4, "regularizer__lambda": 0.1} | CALM | given
    if regularizer != "gp":
        del given["regularizer__lambda"]
    assert_follows(cells(model, regularizer, seed=[0, 3], **given))


@pytest.mark.parametrize(("name", "regularizer"), [case(name, "clip_norm") for name in CODE])
def test_it_goes_on_to_the_same_bits(name, regularizer, tmp_path):
    model, given = CODE[name]
    given = {name: value for name, value in given.items() if name != "regularizer__lambda"}
    steps = {"steps": 8, "eval_every": 2} if name in HEAVY else {"steps": 24, "eval_every": 6}
    stack = cells(model, regularizer, seed=[0, 1], precision="float32", **steps | CALM | given)
    data, path = data_of(stack[0]), tmp_path / "stack.pt"
    whole = train(stack, data, CPU)
    with pytest.raises(StopError):
        train(stack, data, CPU, stop_at(steps["steps"] // 2), always(path))
    assert_same_outcome(train(stack, data, CPU, checkpoint=always(path)), whole)

"""Networks and tasks of other people's: each follows the reference step by step, and goes on to the same bits.

What every model promises, they promise as well: tests/test_contract.py.
"""

import pytest
from small import CPU, OTHER_PAIRS, OTHERS, cells, data_of, in_suites
from stopping import StopError, always, assert_same_outcome, stop_at
from training.test_reference import assert_follows

from gradbench.training.loop import train

QUICK = ("gpt", "tagger", "spectral_critic_and_normed_generator")
"""In the default suite."""

LARGE = "resnet18"
"""Of this only that it follows the reference is tried in CI."""

CALM = {"optimizer": "sgd", "optimizer__lr": 0.02}
# normalised over few values of 1 × 1 images, a channel without variance is rounding errors, and a ReLU is of their sign
CALMER = {"resnet18": {"optimizer__lr": 1e-3, "model__batch_size": 32}}
WEAK = {"gp": {"regularizer__lambda": 0.01}}

SOME_PAIRS = [
    (name, "gp" if index % 2 and (name, "gp") in OTHER_PAIRS else "clip_norm")
    for index, name in enumerate(OTHERS)
]
"""Each network with a clip or with a penalty."""


@in_suites("name, regularizer", [pair for pair in SOME_PAIRS if pair[0] in QUICK], SOME_PAIRS, OTHER_PAIRS)
def test_it_follows_the_reference(name, regularizer):
    given = CALM | CALMER.get(name, {}) | WEAK.get(regularizer, {})
    assert_follows(cells(name, regularizer, seed=[0, 3], **{"steps": 3, "eval_every": 3} | given))


@in_suites("name", [(name,) for name in QUICK], [(name,) for name in OTHERS if name != LARGE], [(LARGE,)])
def test_it_goes_on_to_the_same_bits(name, tmp_path):
    given = CALM | CALMER.get(name, {}) | {"steps": 8, "eval_every": 2}
    stack = cells(name, "clip_norm", seed=[0, 1], precision="float32", **given)
    data, path = data_of(stack[0]), tmp_path / "stack.pt"
    whole = train(stack, data, CPU)
    with pytest.raises(StopError):
        train(stack, data, CPU, stop_at(4), always(path))
    assert_same_outcome(train(stack, data, CPU, checkpoint=always(path)), whole)

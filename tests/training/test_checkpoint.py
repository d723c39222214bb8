"""A stack that is stopped and gone on with ends as one that was never stopped, bit for bit."""

import os

import pytest
import torch
from small import CPU, cells, data_of, every_update, few_pairs, in_suites, some_pairs
from stopping import Heard, StopError, always, assert_same_outcome, stop_at

from gradbench.training.checkpoint import Checkpoint
from gradbench.training.loop import SLACK, largest_checkpoint, tensor_bytes, train


# whatever has a state of its own must find it again
@in_suites("model, regularizer", quick=[*few_pairs(2), ("mlp", "zclip+autoclip")], slow=some_pairs(2))
def test_a_stopped_stack_goes_on_to_the_same_bits(model, regularizer, tmp_path):
    stack = cells(
        model, regularizer, seed=[0, 1], steps=12, eval_every=3, precision="float32", optimizer="adam"
    )
    data, path = data_of(stack[0]), tmp_path / "stack.pt"
    whole = train(stack, data, CPU)
    for step in (6, 9):
        with pytest.raises(StopError):
            train(stack, data, CPU, stop_at(step), always(path))
    saved = always(path).load(CPU)
    assert tensor_bytes(saved) <= largest_checkpoint(stack, data, CPU) - SLACK
    heard = Heard()
    outcome = train(stack, data, CPU, [heard], always(path))
    assert min(heard.chunks) == 9, "the checkpoint of step 6 must have been gone on from"
    assert_same_outcome(outcome, whole)


@every_update
def test_a_stopped_stack_goes_on_to_the_same_bits_whatever_its_updates(update, tmp_path):
    stack = cells("mlp", "clip_norm", steps=12, eval_every=4, precision="float32", **update)
    data, path = data_of(stack[0]), tmp_path / "stack.pt"
    whole = train(stack, data, CPU)
    with pytest.raises(StopError):
        train(stack, data, CPU, stop_at(8), always(path))
    saved = always(path).load(CPU)
    assert tensor_bytes(saved) <= largest_checkpoint(stack, data, CPU) - SLACK
    assert_same_outcome(train(stack, data, CPU, checkpoint=always(path)), whole)


def test_divergence_before_the_stop_is_remembered(tmp_path):
    stack = [
        cells("mlp", "none", optimizer__lr=lr, precision="float32", eval_every=5)[0] for lr in (0.1, 1e30)
    ]
    data, path = data_of(stack[0]), tmp_path / "stack.pt"
    whole = train(stack, data, CPU)
    with pytest.raises(StopError):
        train(stack, data, CPU, stop_at(15), always(path))
    outcome = train(stack, data, CPU, checkpoint=always(path))
    assert outcome.diverged_at[1] > 0
    assert_same_outcome(outcome, whole)


def test_nothing_saved_is_nothing_to_go_on_from(tmp_path):
    assert always(tmp_path / "absent.pt").load(CPU) is None


def test_what_was_saved_comes_back(tmp_path):
    content = {"step": 3, "tensors": {"a": torch.randn(2, 3)}, "list": [{"b": torch.ones(1)}]}
    always(tmp_path / "x.pt").save(content)
    back = always(tmp_path / "x.pt").load(CPU)
    assert back["step"] == 3
    assert torch.equal(back["tensors"]["a"], content["tensors"]["a"])


@pytest.mark.parametrize("damage", ["truncated", "flipped in the body", "flipped in the header", "emptied"])
def test_a_damaged_checkpoint_is_set_aside_and_not_used(tmp_path, damage):
    path = tmp_path / "x.pt"
    always(path).save({"a": torch.randn(50)})
    whole = bytearray(path.read_bytes())
    if damage == "truncated":
        whole = whole[:-20]
    elif damage == "emptied":
        whole = bytearray()
    else:
        whole[-30 if "body" in damage else -len(whole) + whole.index(b"sha256") + 12] ^= 4
    path.write_bytes(whole)
    assert always(path).load(CPU) is None
    assert not path.exists()
    assert (tmp_path / "_x.pt.damaged-1").read_bytes() == whole


@pytest.mark.parametrize("other", [{"cells": ["b"]}, {"cells": ["a"], "torch": "1.0"}])
def test_a_checkpoint_of_other_cells_or_versions_is_not_gone_on_from(tmp_path, other):
    path = tmp_path / "x.pt"
    always(path).save({"a": torch.ones(1)})
    assert always(path, **other).load(CPU) is None
    assert path.exists(), "it is sound: it waits to be overwritten"


def test_a_checkpoint_is_data_never_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    path = tmp_path / "x.pt"
    always(path).save({"a": Bomb()})
    assert always(path).load(CPU) is None
    assert (tmp_path / "_x.pt.damaged-1").exists()
    assert not (tmp_path / "exploded").exists()


def test_a_checkpoint_that_another_user_wrote_is_set_aside(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"
    always(path).save({"a": torch.ones(1)})
    monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    assert always(path).load(CPU) is None
    assert not path.exists()


def test_it_is_due_only_after_its_seconds(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    checkpoint = Checkpoint(tmp_path / "x.pt", {}, seconds=60)
    assert not checkpoint.due()
    clock[0] += 60
    assert checkpoint.due()
    checkpoint.save({})
    assert not checkpoint.due()

"""The yardstick of `make bench` trains the same cells: plain PyTorch, the same numbers."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from small import CPU, cells, data_of

from gradbench.config.compose import Configs
from gradbench.sweep.plan import make_plan
from gradbench.training.loop import train

STRENGTHS = {
    "none": {},
    "clip_norm": {"threshold": 0.05},
    "clip_value": {"threshold": 0.01},
    "gp": {"lambda": 0.5},
}
RATES = {
    "mlp": 0.5,
    "lstm": 2.0,
    "wgan": 0.001,
    "transformer": 0.01,
    "cnn": 0.1,
    "actor_critic": 0.001,
}
"""High enough to move, low enough for float64 to agree over every step."""
STACKED = import_module("bench").STACKED
PAIRS = [(model, regularizer) for model in ("mlp", "lstm", "wgan") for regularizer in STRENGTHS]
PAIRS += [(model, regularizer) for model in STACKED for regularizer in ("none", "clip_norm")]


@pytest.fixture(autouse=True)
def kernels():
    """The language model's script leaves PyTorch's kernels switched off where it took second derivatives."""
    yield
    import_module("peer_lstm").with_kernel(True)


def settings_of(cell):
    """Return what a plain script is told of a cell, and more."""
    groups = (cell.config[group] for group in ("optimizer", "schedule", "model"))
    return {key: value for group in groups for key, value in group.items()} | {**cell.config, "lr": cell.lr}


def peer(cell):
    """Train a cell of gradbench's as the plain script does."""
    script = import_module(f"peer_{cell.config['model']['name']}")
    treatment = import_module("peer_cell").Treatment(
        cell.config["regularizer"]["name"], 0.0 if np.isnan(cell.strengths[0]) else cell.strengths[0]
    )
    settings = settings_of(cell)
    return script, script.train(settings, data_of(cell), treatment, cell.seed, torch.float64)


@pytest.mark.parametrize(("model", "regularizer"), PAIRS)
def test_plain_pytorch_agrees_step_by_step_in_double_precision(model, regularizer):
    strength = {f"regularizer__{key}": value for key, value in STRENGTHS[regularizer].items()}
    (cell,) = cells(model, regularizer, seed=3, optimizer__lr=RATES[model], eval_every=10, **strength)
    outcome = train([cell], data_of(cell), CPU)
    script, record = peer(cell)

    assert record.diverged_at == outcome.diverged_at[0] == 0
    for column, series in enumerate(script.SERIES):
        theirs = [row[column] for row in record.rows]
        np.testing.assert_allclose(outcome.curves[series][:, 0], theirs, rtol=1e-6, atol=1e-9, err_msg=series)
    assert record.evaluations.keys() == outcome.evaluations.keys()
    for step, metrics in outcome.evaluations.items():
        assert cell.config["model"]["metric"] in record.evaluations[step]
        for name, value in record.evaluations[step].items():
            np.testing.assert_allclose(metrics[name][0], value, rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("model", ["mlp", "lstm"])
def test_plain_pytorch_gives_a_cell_up_at_the_same_step(model):
    rule = {"divergence__factor": 1.01, "divergence__patience": 3}
    (cell,) = cells(model, "none", optimizer__lr=300.0, steps=60, **rule)
    outcome = train([cell], data_of(cell), CPU)
    _, record = peer(cell)
    assert record.diverged_at == outcome.diverged_at[0] > 0


@pytest.mark.parametrize(
    ("model", "regularizer"),
    [("mlp", "clip_norm"), ("mlp", "clip_value"), ("lstm", "gp"), ("wgan", "clip_value"), ("wgan", "gp")],
)
def test_what_is_read_late_as_from_a_gpu_is_what_is_read_at_once(model, regularizer, monkeypatch):
    rates = {"optimizer__lr": 300.0 if model == "lstm" else RATES[model], "divergence__patience": 3}
    strength = {f"regularizer__{key}": value for key, value in STRENGTHS[regularizer].items()}
    (cell,) = cells(model, regularizer, eval_every=15, steps=30, **rates, **strength)
    _, at_once = peer(cell)
    monkeypatch.setattr(
        import_module("peer_cell").Record, "__post_init__", lambda self: setattr(self, "waits", False)
    )
    _, late = peer(cell)
    assert late.diverged_at == at_once.diverged_at
    assert (late.diverged_at > 0) == (model == "lstm")
    # of a step that is not taken the rest differs
    columns = slice(3) if late.diverged_at else slice(None)
    for one, other in zip(at_once.rows, late.rows, strict=True):
        np.testing.assert_allclose(other[columns], one[columns], rtol=1e-9, atol=1e-12)
    assert late.evaluations == at_once.evaluations


def words_of_the_yardstick():
    """Return what peer.yaml says."""
    return OmegaConf.to_container(
        OmegaConf.load(Configs().experiments["quick"].parent / "throughput/peer.yaml")
    )


def test_the_yardstick_is_told_to_train_the_cells_of_quick():
    """Its sizes, budgets, treatments and seeds are those of the experiment."""
    told = words_of_the_yardstick()
    swept = told["hydra"]["sweeper"]["params"]
    treatments = swept["treatment"]
    plan = make_plan("quick", [])
    seeds = {cell.seed for cell in plan.cells}
    models = {cell.config["model"]["name"] for cell in plan.cells}
    assert swept["seed"] == f"range({len(seeds)})"
    assert len(plan.cells) == len(models) * treatments.count("[") * len(seeds)
    for cell in plan.cells:
        config, name = cell.config, cell.config["model"]["name"]
        strength = 0.0 if np.isnan(cell.strengths[0]) else cell.strengths[0]
        assert f"[{config['regularizer']['name']},{strength:g}]" in treatments
        meant = settings_of(cell) | {"data": config["data"]["name"]}
        assert told[name] == {key: meant[key] for key in told[name]}


@pytest.mark.parametrize("model", STACKED)
def test_stacks_one_by_one_and_the_yardstick_train_the_same_cells(model, tmp_path):
    told = words_of_the_yardstick()[model]
    stacked, single, plain = (
        [word for word in import_module("bench").command(model, who, tmp_path, ()) if "=" in word]
        for who in ("gradbench", "one_by_one", "joblib")
    )
    assert single == [*stacked, "stack_width.cpu=1"]
    assert "treatment=[none,0],[clip_norm,1]" in plain
    assert {word for word in plain if word.startswith(("steps=", "seed="))} <= set(stacked)
    plan = make_plan(None, stacked)
    treatments = {(cell.config["regularizer"]["name"], cell.seed) for cell in plan.cells}
    assert treatments == {(name, seed) for name in ("none", "clip_norm") for seed in range(8)}
    assert max(len(stack.cells) for stack in plan.stacks) > 1
    for cell in plan.cells:
        meant = settings_of(cell) | {"data": cell.config["data"]["name"], "steps": told["steps"]}
        assert told == {key: meant[key] for key in told}
        assert cell.strengths[0] == 1 or cell.config["regularizer"]["name"] == "none"


@pytest.mark.parametrize("part", import_module("bench").FURTHER)
def test_the_bench_asks_each_further_script_for_what_it_takes(part, tmp_path, monkeypatch):
    bench, asked = import_module("bench"), []
    monkeypatch.setattr(bench.subprocess, "run", lambda words, check: asked.append(words))
    for quick_check in (False, True):
        bench.measure_by(part, tmp_path, quick_check)
    script = Path(asked[0][1]).read_text(encoding="utf-8")
    options = {word for words in asked for word in words if word.startswith("--")}
    assert {"--folder", "--rounds"} <= options
    assert all(f'"{option}"' in script for option in options)

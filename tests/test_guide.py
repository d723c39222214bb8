"""The guide: its files and commands work as they stand, and its tables name what there is."""

import inspect
import math
import re
import shlex
import subprocess
import sys
import warnings
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from guide import COMMANDS, FILES, GUIDE, write_files
from small import CPU, data_of, in_suites

import gradbench
from gradbench.cli import main as cli
from gradbench.config.compose import Configs, Experiment
from gradbench.grid.expand import expand
from gradbench.grid.stacks import group_by_program
from gradbench.sweep.plan import validate
from gradbench.training.loop import train
from gradbench.training.program import build

CALM = ["model.hidden=6", "model.depth=2", "steps=20", "eval_every=20", "precision=float64"]


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The folder that a reader has in the end."""
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in FILES:  # so that no other test finds these modules
        sys.modules.pop(name.removesuffix(".py"), None)


def test_every_file_of_the_guide_is_used_by_a_command_or_another_file():
    assert {"my_nets.py", "my_conf/model/denoising.yaml", "my_conf/experiments/how_wide.yaml"} <= FILES.keys()
    for name in FILES:
        used = [text for other, text in FILES.items() if other != name] + COMMANDS
        assert any(Path(name).stem in text for text in used), name


@in_suites("command", [(command,) for command in COMMANDS[::3]], [(command,) for command in COMMANDS])
def test_each_command_of_the_guide_trains_what_it_says(command, study):
    words = shlex.split(command)
    short = [*words, "steps=2", "eval_every=2", "--no-report", "--jobs", "1"]
    with pytest.raises(SystemExit) as stopped:
        cli.main(short)
    assert not stopped.value.code
    if "--dry-run" in words:
        return
    (folder,) = (path for path in (study / "results").iterdir() if path.name != "cache")
    cells = pd.read_parquet(folder / "cells")
    assert set(cells["status"]) == {"completed"}
    if "my_metrics.top3" in command:
        assert (cells["test/top3"] >= cells["test/accuracy"]).all()


def cells_of(study, *words):
    """Return the cells of a command of the guide's folder."""
    configs = Configs(study / "my_conf")
    return expand(configs, Experiment("mine"), configs.parse(list(words)), lambda config: "unread")


def test_the_treatment_of_the_guide_clips_and_keeps_the_direction(study):
    (cell,) = cells_of(study, "model=mlp", "regularizer=my_clip", "regularizer.threshold=1e-3", *CALM)
    curves = train([cell], data_of(cell), CPU).curves
    assert (curves["clipped"] == 1).all()
    np.testing.assert_allclose(curves["cosine"], 1)


def test_the_treatment_that_asks_for_the_learning_rate_bounds_the_update(study):
    words = ["model=mlp", "regularizer=bounded_update", "regularizer.bound=1e-3", "schedule=cosine", *CALM]
    (cell,) = cells_of(study, *words)
    curves = train([cell], data_of(cell), CPU).curves
    np.testing.assert_allclose(curves["update_norm"], np.minimum(1e-3, curves["lr"] * curves["grad_norm"]))
    assert curves["update_norm"].max() == pytest.approx(1e-3)


def test_the_optimizer_and_the_schedule_of_the_guide_move_every_coordinate_as_far_as_they_say(study):
    words = ["model=mlp", "optimizer=sign", "optimizer.lr=0.25", "schedule=linear", "schedule.until=10,40"]
    grid = cells_of(study, *words, *CALM)
    assert {"optimizer", "schedule"} <= grid[0].sources.keys(), "edited code is trained again"
    (members,) = group_by_program(grid)
    curves = train(members, data_of(grid[0]), CPU).curves
    for k, cell in enumerate(members):
        until = cell.config["schedule"]["until"]
        rates = [0.25 * max(1 - step / until, 0) for step in range(20)]
        np.testing.assert_allclose(curves["lr"][:, k], rates, rtol=1e-6)
        moved = curves["update_norm"][:, k] / curves["lr"][:, k].clip(1e-9)
        assert (np.square(moved[:10]).round(3) % 1 == 0).all(), "every coordinate moves as far, or not at all"


def test_the_task_of_the_guide_gives_back_what_noise_was_added_to(study):
    stack = cells_of(study, "model=denoising", "regularizer=none,gp", "steps=4")
    validate(stack, data_of)
    for cell in stack:
        assert math.isfinite(train([cell], data_of(cell), CPU).evaluations[4]["test/loss"][0])
    assert stack[0].config["data"]["name"] == "digits"
    data = data_of(stack[0])
    task = build(stack[0].config, data).model
    nets = task.networks()
    rows = {name: torch.as_tensor(array) for name, array in data.arrays.items()}
    draw = {name: tensor[0] for name, tensor in task.draw("network", 0, 0, 1, data.arrays).items()}
    batch = task.batch("network", nets, rows, draw)
    assert torch.equal(batch["y"], rows["train/x"][draw["index"]])
    assert float((batch["x"] - batch["y"]).std()) == pytest.approx(0.3, rel=0.2)


def blocks_from_python():
    section = re.search(r"^## From Python\n(.*?)^## ", GUIDE, flags=re.MULTILINE | re.DOTALL)[1]
    return re.findall(r"^```python\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)


SLOW_MACHINE = re.compile("^trying out .*\n", flags=re.MULTILINE)
"""What a plan says on stderr if the machine is busy, and nothing else."""


@pytest.mark.slow
def test_the_runs_from_python_work_as_a_script(study):
    short = (
        "import functools, gradbench\ngradbench.run = functools.partial(gradbench.run, steps=4, quiet=True)\n"
    )
    (study / "script.py").write_text("\n".join([short, *blocks_from_python()]))
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=True)
    assert not SLOW_MACHINE.sub("", done.stderr)
    assert done.stdout.splitlines()[-1].endswith("report/index.html")
    assert (study / "strengths.png").stat().st_size


@pytest.mark.slow
def test_the_runs_from_python_work_in_a_notebook_and_show_their_progress_answers_and_figures_there(study):
    import nbformat
    from nbclient import NotebookClient

    first, second = blocks_from_python()
    sources = [first.replace("print(results.answers())", "results"), second, 'results.figure("strengths")']
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the notebook's own packages
        NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(study)}}).execute()
    (*told, answers), _, (figure,) = (cell.outputs for cell in notebook.cells)
    shown = "".join(one["data"].get("text/html", "") for one in told if "data" in one)
    assert re.search(r" (\d+)/\1 stacks: 1 done, 0 running", shown)
    assert "6 cells: 6 completed" in answers["data"]["text/html"]
    assert figure["data"]["image/png"]
    said = [one["text"] for cell in notebook.cells for one in cell.outputs if one.get("name") == "stderr"]
    assert not SLOW_MACHINE.sub("", "".join(said))


# ---- what code of one's own imports --------------------------------------------------------------------------


def test_a_task_of_the_guide_takes_data_without_targets(study):
    np.savez("mine.npz", x=np.random.default_rng(0).random((60, 1, 4, 4)))
    words = (
        "run --config-dir my_conf model=denoising data=npz data.path=mine.npz steps=2 eval_every=2 --jobs 1"
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main([*shlex.split(words), "--no-report"])
    assert not stopped.value.code


def names_of_the_guide():
    section = GUIDE[GUIDE.index("\n## Names\n") :]
    return set(re.findall(r"`gradbench\.(\w+)`", section))


def test_the_public_names_are_those_of_the_guide_and_can_be_imported():
    assert names_of_the_guide() == gradbench.PUBLIC.keys()
    assert set(gradbench.__all__) == gradbench.PUBLIC.keys()
    for name in gradbench.PUBLIC:
        assert inspect.isclass(getattr(gradbench, name)) or callable(getattr(gradbench, name))
        assert name in dir(gradbench)
    with pytest.raises(AttributeError, match="has no attribute 'Regulariser'"):
        gradbench.Regulariser  # noqa: B018 - the access is what is tried


def test_importing_gradbench_imports_nothing_else():
    code = "import sys, gradbench; print(*sorted(n for n in ('torch', 'numpy', 'pandas', 'hydra') if n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def table(title):
    """Return the names in the first column of a part's table, without arguments."""
    part = re.search(rf"^### [^\n]*{title}[^\n]*\n(.*?)(?=^##)", GUIDE, flags=re.MULTILINE | re.DOTALL)[1]
    return set(re.findall(r"^\| `(\w+)", part, flags=re.MULTILINE))


@pytest.mark.parametrize("name", ["Task", "SupervisedTask"])
def test_the_guide_names_methods_that_there_are_with_their_arguments(name):
    kind = getattr(gradbench, name)
    part = re.search(rf"^### `gradbench\.{name}`\n(.*?)(?=^##)", GUIDE, flags=re.MULTILINE | re.DOTALL)[1]
    for method, arguments in re.findall(r"^\| `(\w+)\(([^)]*)\)`", part, flags=re.MULTILINE):
        given = [one.strip() for one in arguments.split(",") if one.strip()]
        names = [one for one in inspect.signature(getattr(kind, method)).parameters if one != "self"]
        assert names[: len(given)] == given, method
        assert all(one == "fused" for one in names[len(given) :]), method
    assert table(f"gradbench.{name}`") >= {
        method for method, one in vars(kind).items() if getattr(one, "__isabstractmethod__", False)
    }


@pytest.mark.parametrize(
    ("name", "left_out"), [("Regularizer", {"parts"}), ("Optimizer", {"fused", "is_plain_sgd"})]
)
def test_the_guide_names_every_argument_of_what_a_function_returns(name, left_out):
    found = {one.name for one in fields(getattr(gradbench, name))}
    assert table(f"gradbench.{name}`") == found - left_out


def test_the_guide_names_what_data_are_made_of():
    assert table("gradbench.Data`") == {"arrays", "sizes"} <= {one.name for one in fields(gradbench.Data)}

"""A plan says what a sweep would do, names its folder, and refuses what cannot be trained."""

import time
from dataclasses import replace

import pandas as pd
import pytest
import yaml

from gradbench.cli.main import main
from gradbench.config.compose import Configs, Experiment
from gradbench.errors import UsageError
from gradbench.grid.expand import expand
from gradbench.grid.stacks import Stack
from gradbench.storage.results import Results
from gradbench.sweep import plan as sweep
from gradbench.sweep.estimate import expected_seconds

MLP = ["model=mlp", "model.hidden=4", "steps=4"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def plan(*words: str, experiment: str | None = None, **options) -> sweep.Plan:
    return sweep.make_plan(experiment, [*MLP, *words] if experiment is None else list(words), **options)


def name(*words: str) -> str:
    return sweep.folder_name(Experiment("x"), Configs().parse(list(words)))


def finish(
    made: sweep.Plan, status: str = "completed", cells: int = 1, seconds: float = 1.0, **more: str
) -> None:
    """Write rows for the first cells of a plan, as a worker would."""
    stored = Results(made.folder)
    stored.create({})
    rows = [
        {
            "cell": cell.id,
            "status": status,
            "model": "mlp",
            "regularizer.family": "none",
            "step_seconds": seconds,
        }
        | more
        for cell in made.cells[:cells]
    ]
    stored.write_failures(rows) if status == "failed" else stored.write(
        rows, pd.DataFrame({"cell": [], "step": []}), {}
    )


def test_planning_writes_nothing(tmp_path):
    plan("seed=0,1")
    assert list(tmp_path.iterdir()) == []


def test_a_plan_counts_what_is_done_failed_and_to_run():
    for status in ("completed", "diverged", "failed"):
        finish(plan("seed=range(6)", results=sweep.RESULTS / status), status, cells=2)
        made = plan("seed=range(6)", results=sweep.RESULTS / status)
        assert made.counts() == {status: 2, "to run": 4}
        left = [cell for cells in made.todo() for cell in cells]
        assert len(left) == (6 if status == "failed" else 4)


def test_a_resumed_sweep_has_the_stacks_of_the_whole_grid():
    whole = plan("seed=range(40)")
    finish(whole, cells=7)
    resumed = plan("seed=range(40)")
    assert [stack.id for stack in resumed.stacks] == [stack.id for stack in whole.stacks]
    left = {cell.id for cell in whole.cells[7:]}
    expected = [{cell.id for cell in stack.cells} & left for stack in whole.stacks]
    assert sorted(map(sorted, expected)) == sorted(
        sorted(cell.id for cell in cells) for cells in resumed.todo()
    )


def test_long_stacks_start_first():
    made = plan("seed=0,1", "regularizer=none,gp", experiment=None)
    costs = [sweep.expected_cost(cells) for cells in made.todo()]
    assert costs == sorted(costs, reverse=True)
    assert made.todo()[0][0].choices["regularizer"] == "gp"


def test_the_expected_time_is_unknown_until_something_alike_was_trained_and_nothing_when_all_is_done():
    made = plan("seed=range(3)")
    assert expected_seconds(made) is None
    finish(plan("seed=9", results=sweep.RESULTS / "another"), seconds=0.5)
    assert expected_seconds(made) == pytest.approx(3 * 4 * 0.5)
    assert expected_seconds(plan("seed=range(3)", "regularizer=gp")) is None
    finish(made, cells=3)
    assert expected_seconds(plan("seed=range(3)")) == 0


def test_the_expected_time_of_another_network_is_another_one():
    made = plan("seed=0")
    (cell,) = made.cells
    model = dict(cell.config["model"], network={"_target_": "my_pkg.Net"})
    stranger = replace(cell, config=dict(cell.config, model=model))
    other = replace(made, cells=[stranger], stacks=[Stack((stranger,))])
    finish(made)
    assert expected_seconds(made) == pytest.approx(4)
    assert expected_seconds(other) is None
    finish(plan("seed=9", results=sweep.RESULTS / "another"), seconds=0.5, **{"model.network": "my_pkg.Net"})
    assert expected_seconds(made) == pytest.approx(4)
    assert expected_seconds(other) == pytest.approx(4 * 0.5)


# ---- the folder's name -----------------------------------------------------------------------------------------


def test_an_experiment_as_it_stands_gives_its_name_to_the_folder():
    assert plan(experiment="quick").folder == sweep.RESULTS / "quick"
    assert name("device=cpu", "stack_width.cpu=3") == "x"


def test_the_same_words_in_any_order_name_the_same_folder():
    assert (
        name("seed=0,1", "model=mlp")
        == name("model=mlp", "seed=1,0")
        == name("model=mlp", "seed=shuffle(0,1)")
    )


def test_other_words_name_another_folder():
    names = [
        name(*words)
        for words in (["seed=1"], ["seed=2"], ["seed=1,2"], ["steps=1"], ["~seed"], ["model=mlp"])
    ]
    assert len(set(names)) == len(names)


def test_a_folders_name_is_short_and_plain_whatever_was_typed():
    odd = name("regularizer=glob(*)", "+note='../../é \"x\"'", "model=mlp,lstm")
    assert len(odd) < 120
    assert "/" not in odd
    assert odd.startswith("x-")


# ---- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["model=lstm", "data=gaussians8"],
            "model=lstm: it needs data with 'vocabulary', and data=gaussians8 has none",
        ),
        (["model=lstm", "data=text", "data.path=nowhere.txt"], "cannot read nowhere.txt"),
        (["model=mlp", "+model.layers=3"], "gradbench.models.mlp.Classifier does not accept its keys"),
        (["model=mlp", "model.activation=rleu"], "model=mlp: model.activation must be one of relu"),
        (["model=mlp", "regularizer._target_=os.system"], "only a config folder may"),
        (["model=mlp", "device=cuda:77"], "device=cuda:77 is not on this machine"),
        (["model=mlp", "device=0"], "device must be a name, got 0"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(tmp_path, words, said):
    with pytest.raises(UsageError) as caught:
        sweep.make_plan(None, words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_scale_sets_keys_that_cells_have_whatever_is_typed(tmp_path):
    grid = {"model": "mlp", "regularizer": ["none", "clip_norm"], "seed": [0]}
    settable = {
        "steps": 3,
        "regularizer.threshold": 1,
        "regularizer.gp.lambda": 1,
        "model": "mlp",
        "device": "cpu",
    }
    settable |= {"divergence": "{factor: 2}", "model.network": "a.B", "+note": 1}
    for key, said in [
        *dict.fromkeys(settable, "").items(),
        ("stesp", "steps"),
        ("model.dept", "model.depth"),
    ]:
        scales = {"small": {key: settable.get(key, 3)}}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"grid": grid, "scales": scales}))
        if not said:
            assert plan("regularizer=none", experiment="mine.yaml").cells
            continue
        with pytest.raises(
            UsageError, match=f"scale=small sets {key}, which no cell has; did you mean '{said}'?"
        ):
            plan(experiment="mine.yaml")


@pytest.mark.parametrize("blank", ["", " "])
def test_a_blank_word_is_no_experiment(blank):
    with pytest.raises(UsageError, match=f"there is no experiment '{blank}'"):
        plan(experiment=blank)


def test_cells_of_one_sweep_run_on_one_kind_of_device(tmp_path):
    path = tmp_path / "split.yaml"
    path.write_text("grid: [{device: cpu, seed: 0}, {device: auto, seed: 1}]")
    with pytest.raises(UsageError, match="device cannot be swept, got auto, cpu"):
        plan(experiment=str(path))


def test_a_folder_of_something_else_is_refused_when_planning(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="not a results folder"):
        plan(results=tmp_path)


# ---- code of the user's own ------------------------------------------------------------------------------------


def own_cell():
    """Return a cell with a network of the user's own, which is never built."""
    words = Configs().parse(["model=classifier", "model.network=a.Net"])
    (cell,) = expand(Configs(), Experiment("x"), words, lambda _config: "f" * 64)
    return cell


def test_code_that_takes_long_to_try_out_is_named_once(monkeypatch, capsys):
    monkeypatch.setattr(sweep, "PATIENCE_SECONDS", 0.0)
    said = ""
    with sweep.trying_out(own_cell()):
        while not said:
            time.sleep(0.01)
            said = capsys.readouterr().err
    assert said == "trying out model.network=a.Net …; Ctrl-C stops\n"


def test_code_that_exits_while_it_is_tried_out_is_named():
    with (
        pytest.raises(
            UsageError, match=r"^model\.network=a\.Net called sys\.exit\(0\) \(test_plan\.py:\d+\)$"
        ),
        sweep.trying_out(own_cell()),
    ):
        raise SystemExit(0)


@pytest.mark.parametrize("option", [[], ["--dry-run"]])
def test_code_that_ends_the_process_that_plans_is_named_and_the_command_goes_on_to_say_so(
    tmp_path, monkeypatch, capsys, option
):
    monkeypatch.syspath_prepend(tmp_path)
    text = "import os\nfrom torch import nn\nclass Net(nn.Module):\n    def __init__(self): os._exit(9)\n"
    (tmp_path / "net_ends.py").write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main(["run", "model=classifier", "model.network=net_ends.Net", *option])
    assert stopped.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said == "error: model.network=net_ends.Net ended its process (exit code 9)"


def test_a_claim_on_the_stopwatch_of_stacks_is_noted_with_what_reads_timed_steps(tmp_path):
    claim = {"id": "1x", "sentence": "s", "goal": "min", "effect": "ratio", "below": 1.1}
    claim |= {"treatment": {"regularizer": "gp"}, "control": {"regularizer": "none"}}
    grid = {"model": "mlp", "model.hidden": 4, "regularizer": ["none", "gp"], "seed": "range(2)"}
    for metric in ("step_seconds", "cost/step_ratio"):
        spec = {"question": "q", "grid": [grid], "claims": [{**claim, "metric": metric}]}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(spec))
        notes = [
            line for line in sweep.make_plan(str(tmp_path / "mine.yaml"), []).notes if "step_seconds" in line
        ]
        assert bool(notes) == (metric == "step_seconds")
        assert all("claim 1x" in line and "metric: cost/step_ratio" in line for line in notes)


@pytest.mark.parametrize(
    ("word", "late"),
    [
        ("schedule.milestones=[1000]", "1000"),
        ("schedule.milestones=[2,4,9]", "4,9"),  # the learning rate of the last step is that after 3
        ("schedule.milestones=[1,3]", ""),
        ("schedule.every=4", "4"),
        ("schedule.every=3", ""),
    ],
)
def test_a_change_of_the_learning_rate_after_the_last_step_is_noted(word, late):
    schedule = "schedule=step" if "every" in word else "schedule=milestones"
    notes = [note for note in plan(schedule, word, "seed=0,1").notes if note.startswith("schedule")]
    said = f"{word}: training ends after 4 steps, so that nothing happens at {late}; give"
    assert [note.startswith(said) for note in notes] == ([True] if late else [])
    assert sweep.make_plan(None, ["model=mlp", schedule, word, "steps=2000"]).notes == []

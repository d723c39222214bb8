"""What a person types, and what comes back: one line for a mistake, help that can be pasted, an exit status."""

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import typer
import yaml
from rich.console import Console

from gradbench.api.progress import LineDisplay, LiveDisplay, QuietDisplay, display_for
from gradbench.cli import main as cli
from gradbench.cli.catalog import group_entries
from gradbench.config.compose import Configs
from gradbench.errors import UsageError
from gradbench.grid.cell import Cell

COMMANDS = {
    command.name or command.callback.__name__: command.callback
    for command in cli.app.registered_commands
    if not command.hidden
}
SMALL = ["model=mlp", "model.hidden=4", "model.depth=1", "steps=4"]
SWEEP = [*SMALL, "regularizer=none,clip_norm", "regularizer.threshold=1,10", "seed=0,1"]


def gradbench(*words: str) -> int:
    """Run the command line in this process; return its exit status."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(words))
    return int(stopped.value.code)


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], env=os.environ | environment, capture_output=True, text=True, check=False
    )


# ---- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "qick"], "did you mean 'quick'"),
        (["run", "quick", "other"], "one experiment at a time"),
        (["run", "model=mpl"], "did you mean 'mlp'"),
        (["run", "model="], "model is one of"),
        (["run", "seed="], "seed must be a whole number"),
        (["run", "steps=1.5"], "steps must be a whole number"),
        (["run", "seed=range(1"], "cannot read 'seed=range(1'"),
        (["run", "stepz=1"], "did you mean 'steps'"),
        (["run", "device=cpu,cuda"], "cannot be swept"),
        (["run", "device=tpu"], "device=tpu is not on this machine"),
        (["run", "model=lstm", "data=gaussians8"], "or choose others or another model"),
        (["run", "--jobs", "0"], "--jobs"),
        (["run", "--jobs", "two"], "--jobs"),
        (["run", "--nope"], "No such option: --nope"),
        (["run", "--config-dir", "nowhere"], "--config-dir nowhere is not a folder"),
        (["run", *SMALL, "--results", "file"], "file is a file"),
        (["run", *SMALL, "--results", "file/below"], "--results DIR"),
        (["run", *SMALL, "--dry-run", "--results", "."], "not a results folder"),
        (["rnu"], "No such command 'rnu'"),
        (["info", "modles"], "did you mean 'models'"),
        (["info", "models", "--config-dir", "nowhere"], "is not a folder"),
        (["show", "abc"], "there are no results yet: gradbench run quick"),
        (["show", "abc", "--results", "nowhere"], "no cell begins with 'abc' in nowhere"),
        (["show", "abc"], "another folder is searched with --results FOLDER"),
        (["show"], "CELL"),
        (["report", "nowhere"], "nowhere"),
        (["report", "."], "holds no finished cells"),
    ],
)
def test_a_mistake_is_one_line_and_status_2_and_writes_nothing(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert gradbench(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert said in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_interrupt_is_status_130_and_says_that_the_same_command_goes_on(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("gradbench.sweep.plan.make_plan", interrupted)
    assert gradbench("run", "quick") == 130
    assert "the same command goes on" in capsys.readouterr().err


# ---- help ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_documented(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert gradbench(command, "--help") == 0
    shown = capsys.readouterr().out
    assert COMMANDS[command].__doc__.splitlines()[0] in shown
    group = typer.main.get_command(cli.app)
    for parameter in group.commands[command].params:
        if parameter.name != "help":
            assert parameter.help, f"{command}: {parameter.name} says nothing"
            assert parameter.help.split(".")[0] in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_examples_that_can_be_typed(command):
    """Every example is read by the parser, and every run is planned as far as its words go."""
    examples = re.findall(r"\[cyan\](.*?)\[/\]", COMMANDS[command].__doc__)
    assert examples
    group = typer.main.get_command(cli.app)
    for example in examples:
        program, name, *words = shlex.split(example)
        assert (program, name) == ("gradbench", command)
        context = group.commands[name].make_context(name, list(words))
        if name == "run":
            overrides = [word for word in context.params["words"] if "=" in word]
            assert Configs().parse(overrides).axes or context.params["words"] == ["quick"]


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_names_every_command(words, capsys):
    assert gradbench(*words) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


def test_help_and_version_import_neither_torch_nor_hydra():
    for words in (["--help"], ["--version"], ["run", "--help"]):
        code = (
            "import sys; from gradbench.cli.main import main\n"
            f"try: main({words})\n"
            "except SystemExit as stop: assert not stop.code\n"
            "heavy = {'torch', 'hydra', 'pandas', 'matplotlib'} & set(sys.modules)\n"
            "assert not heavy, heavy"
        )
        done = python("-c", code)
        assert done.returncode == 0, done.stderr


def test_python_dash_m_is_the_same_program():
    done = python("-m", "gradbench", "--version")
    assert re.fullmatch(r"gradbench \d+\.\d+\.\d+\n", done.stdout)


# ---- completion ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("run q", {"quick"}),
        ("run mod", {"model=", "modes"}),
        ("run quick model=l", {"model=language_model", "model=lstm"}),
        ("run regularizer=clip_", {"regularizer=clip_norm", "regularizer=clip_value"}),
        ("run regularizer=none,clip_", {"regularizer=none,clip_norm", "regularizer=none,clip_value"}),
        ("run regularizer = clip_", {"clip_norm", "clip_value"}),
        ("run seed=", set()),
        ("info mo", {"models"}),
        ("sh", {"show"}),
    ],
)
def test_the_shell_completes_commands_experiments_and_options(typed, expected, monkeypatch, capsys):
    """By the protocol that Typer's script for bash speaks; bash itself splits words at the equals sign."""
    words = f"gradbench {typed}"
    for name, value in {
        "_GRADBENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        cli.app(prog_name="gradbench")
    assert set(capsys.readouterr().out.split()) == expected


def test_options_of_ones_own_folder_are_completed(tmp_path, monkeypatch, capsys):
    (tmp_path / "regularizer").mkdir()
    (tmp_path / "regularizer/mine.yaml").write_text("")
    words = f"gradbench run --config-dir {tmp_path} regularizer=mi"
    monkeypatch.setenv("_GRADBENCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", "4")
    with pytest.raises(SystemExit):
        cli.app(prog_name="gradbench")
    assert capsys.readouterr().out.split() == ["regularizer=mine"]


# ---- info ------------------------------------------------------------------------------------------------------


def test_info_lists_every_option_of_every_group_and_every_experiment(capsys, monkeypatch):
    monkeypatch.setattr(cli, "out", Console(width=200))
    assert gradbench("info") == 0
    shown = capsys.readouterr().out
    configs = Configs()
    for name in [
        *configs.experiments,
        *(option for options in configs.groups.values() for option in options),
    ]:
        assert re.search(rf"│ {re.escape(name)} +│ \S", shown), f"{name} says nothing"
    assert "center=model.gradient_center" in shown
    assert gradbench("info", "model") == gradbench("info", "experiment") == 0
    assert "classifier" in capsys.readouterr().out
    assert "$" not in shown


def test_in_info_an_option_of_ones_own_changes_no_other_and_is_named_alone_where_it_is_broken(tmp_path):
    (tmp_path / "schedule").mkdir()
    own = tmp_path / "schedule" / "aaa.yaml"
    own.write_text("# @package _global_\n# mine\nschedule: {name: aaa}\noptimizer: {lr: 0.777}\n")
    groups = ["optimizer", "schedule"]
    found = group_entries(Configs(tmp_path), groups)
    assert found["optimizer"] == group_entries(Configs(), groups)["optimizer"]
    assert found["schedule"][0].summary == "mine"
    own.write_text("name: [aaa\n")
    with pytest.raises(UsageError, match=r"^cannot compose schedule=aaa: .*aaa\.yaml"):
        group_entries(Configs(tmp_path), groups)


# ---- a sweep from its first run to its report --------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """A folder in which a small sweep has run, with its report."""
    home = tmp_path_factory.mktemp("swept")
    before = Path.cwd()
    os.chdir(home)
    try:
        assert gradbench("run", *SWEEP, "--jobs", "1") == 0
    finally:
        os.chdir(before)
    return home


@pytest.fixture
def cells(swept, monkeypatch) -> pd.DataFrame:
    """The table of the sweep, read as a stranger would; the working directory is where it ran."""
    monkeypatch.chdir(swept)
    (folder,) = Path("results").iterdir()
    return pd.read_parquet(folder / "cells")


def test_a_sweep_leaves_two_tables_a_report_and_its_command(cells):
    assert len(cells) == 6
    assert set(cells["status"]) == {"completed"}
    (folder,) = Path("results").iterdir()
    curves = pd.read_parquet(folder / "curves")
    assert curves.groupby("cell")["step"].apply(list).to_dict() == {
        cell: [1, 2, 3, 4] for cell in cells["cell"]
    }
    assert (folder / "report/index.html").is_file()
    spec = yaml.safe_load((folder / "experiment.yaml").read_text())
    assert spec["command"] == shlex.join(["gradbench", "run", *SWEEP])
    assert set(spec["cells"]) == set(cells["cell"])


def test_the_same_command_again_trains_nothing(cells, capsys):
    assert gradbench("run", *SWEEP, "--no-report") == 0
    out, err = capsys.readouterr()
    assert "6 cells: 6 finished before" in out
    assert err == ""
    (folder,) = Path("results").iterdir()
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "cells"), cells)


def test_a_dry_run_says_what_is_done_and_how_long_the_rest_takes(cells, capsys):
    assert gradbench("run", *SWEEP, "--dry-run") == 0
    assert "6 cells done, 0 to run" in capsys.readouterr().out
    (folder,) = Path("results").iterdir()
    assert gradbench("run", *SMALL, "seed=range(5)", "--dry-run", "--results", str(folder)) == 0
    said = capsys.readouterr().out
    assert "2 cells done, 3 to run (0 of them failed before), 1 of 1 stack" in said
    assert re.search(r"expected time: \d+ s", said)
    assert f"results: {folder}" in said


def test_a_printed_command_is_the_cell_that_printed_it(cells, capsys):
    """The command of every row, typed into the folder that holds it, finds its cell done."""
    (folder,) = Path("results").iterdir()
    for command in cells["command"]:
        assert gradbench(*shlex.split(command)[1:], "--results", str(folder), "--dry-run") == 0
        assert "1 cell done, 0 to run" in capsys.readouterr().out


def test_show_prints_a_cell_and_its_command_on_one_line(cells, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    row = cells.iloc[0]
    assert gradbench("show", row["cell"][:8]) == 0
    shown = capsys.readouterr().out
    assert row["command"] in shown.splitlines()
    assert row["status"] in shown
    assert re.search(r"model\.hidden +│ 4 ", shown)
    assert gradbench("show", "") == 2
    assert "6 cells begin with ''" in capsys.readouterr().err


def test_show_breaks_no_word_and_no_number_of_a_curve_on_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    quick = Path(__file__).parents[2] / "results" / "reference" / "quick"
    stored = pd.read_parquet(quick / "cells")
    cell = stored.loc[(stored["model"] == "wgan") & (stored["regularizer"] == "gp"), "cell"].iloc[0]
    assert gradbench("show", cell, "--results", str(quick)) == 0
    _, *lines = capsys.readouterr().out.split("curve, ")[1].splitlines()
    words = [line.split() for line in lines]
    plain = ["step", "loss", "penalty", "grad_", "grad_", "clipped", "cosine"]
    assert words[0] == [*plain, "update_", "generator/", "generator/"]
    assert (len(words[3]), words[3][0]) == (10, "1")


def test_a_report_is_rebuilt_from_the_tables_alone(cells, capsys):
    (folder,) = Path("results").iterdir()
    page = folder / "report/index.html"
    page.unlink()
    assert gradbench("report", str(folder)) == 0
    assert page.is_file()
    assert f"report: {page}" in capsys.readouterr().out.splitlines()


# ---- progress --------------------------------------------------------------------------------------------------


def stack(seeds: int) -> tuple[Cell, ...]:
    config = {"steps": 10, "model": {"name": "mlp"}, "regularizer": {"name": "none"}}
    return tuple(Cell(config | {"seed": seed, "data": {}}, "", {}, (), {}) for seed in range(seeds))


def told(display: QuietDisplay, out: io.StringIO) -> str:
    """Tell a display of one stack that finishes and one that is tried twice and fails; return what it wrote."""
    with display:
        display.started(0)
        display.started(1)
        display.progress(0, 5, [0.5, float("nan"), 0.7])
        display.progress(1, 5, [float("nan")])
        display.finished(0, ["completed", "diverged", "completed"])
        display.started(1)
        display.progress(1, 2, [1.0])
        display.failed(1, "[out] of luck")
    assert display.statuses == {"completed": 2, "diverged": 1, "failed": 1}
    return out.getvalue()


@pytest.mark.parametrize(
    ("terminal", "quiet", "kind"),
    [
        (True, False, LiveDisplay),
        (False, False, LineDisplay),
        (True, True, QuietDisplay),
        (False, True, QuietDisplay),
    ],
)
def test_progress_fits_where_it_is_read(terminal, quiet, kind):
    out = io.StringIO()
    display = display_for(
        [stack(3), stack(1)], Console(file=out, force_terminal=terminal, width=120), quiet=quiet
    )
    assert type(display) is kind
    written = told(display, out)
    assert "mlp · none · 1 cell: [out] of luck" in re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", written)
    if kind is QuietDisplay:
        assert len(written.splitlines()) == 1
    if kind is LineDisplay:
        assert "\x1b" not in written
        assert "[1/2] mlp · none · 3 cells · 1 diverged" in written


def test_the_live_bar_counts_each_step_once_also_when_a_stack_is_tried_again():
    out = io.StringIO()
    display = LiveDisplay([stack(3), stack(1)], Console(file=out, force_terminal=True, width=120))
    told(display, out)
    (whole,) = display.bars.tasks
    assert whole.completed == whole.total == 4 * 10

"""What ``launcher=slurm`` does without a SLURM: it reads what SLURM says, packs stacks, and refuses in one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

import gradbench
from gradbench.api.status import cancel_tasks, read_status
from gradbench.cli import main as cli
from gradbench.errors import UsageError
from gradbench.launchers.slurm import launcher, task
from gradbench.launchers.slurm.launcher import Slurm
from gradbench.launchers.slurm.queue import parse_task
from gradbench.launchers.slurm.submissions import Submission, list_submissions
from gradbench.launchers.slurm.task import Task
from gradbench.sweep.plan import make_plan

GRID = ("model=mlp", "model.hidden=2", "model.depth=1", "steps=4")
TOKEN = "0123abcd"


# ---- what squeue says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "index", "state"),
    [
        (f"17|gradbench-{TOKEN}|PENDING||Resources", 0, "PENDING"),
        (f"17_3|gradbench-{TOKEN}|RUNNING|n1|None", 3, "RUNNING"),
        (f" 17_12 | gradbench-{TOKEN} | COMPLETED | n[1-2] | None ", 12, "COMPLETED"),
    ],
)
def test_a_line_of_squeue_is_a_task(line, index, state):
    found = parse_task(line)
    assert (found.token, found.index, found.state) == (TOKEN, index, state)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "slurm_load_jobs error: Unable to contact slurm controller",
        "17|sleep|RUNNING|n1|None",
        f"17_[3-5]|gradbench-{TOKEN}|PENDING||None",
        f"17_3|gradbench-{TOKEN}|RUNNING|n1",
    ],
)
def test_a_line_of_anything_else_is_none(line):
    assert parse_task(line) is None


@pytest.mark.parametrize(
    ("state", "reason", "is_live", "is_held"),
    [
        ("PENDING", "Priority", True, False),
        ("PENDING", "JobHeldUser", True, False),
        ("PENDING", "BeginTime", True, False),
        ("PENDING", "launch failed requeued held", False, True),
        ("PENDING", "launch_failed_requeued_held", False, True),
        ("REQUEUE_HOLD", "JobHoldMaxRequeue", False, True),
        ("SPECIAL_EXIT", "None", False, True),
        ("RUNNING", "None", True, False),
        ("COMPLETING", "None", True, False),
        ("COMPLETED", "None", False, False),
        ("NODE_FAIL", "None", False, False),
        ("CANCELLED", "None", False, False),
        ("OUT_OF_MEMORY", "OutOfMemory", False, False),
    ],
)
def test_a_task_lives_unless_it_has_ended_or_slurm_holds_it_for_ever(state, reason, is_live, is_held):
    found = parse_task(f"17_3|gradbench-{TOKEN}|{state}||{reason}")
    assert (found.is_live, found.is_held) == (is_live, is_held)


def test_a_task_that_is_ending_is_followed_by_no_later_run():
    running, ending = (
        parse_task(f"17_3|gradbench-{TOKEN}|{state}||None") for state in ("RUNNING", "COMPLETING")
    )
    assert running.will_train
    assert not ending.will_train


# ---- what a task does ----------------------------------------------------------------------------------------------


def run_task(monkeypatch, script: str) -> list[float]:
    """Run a task whose process is a script; return for how many seconds it waits for SLURM afterwards."""
    waited: list[float] = []
    monkeypatch.setattr(task, "QUIET", ("sh", "-c", script))
    monkeypatch.setattr(task.time, "sleep", waited.append)
    Task(["results"])()
    return waited


def test_a_task_whose_process_has_done_all_ends(monkeypatch):
    assert run_task(monkeypatch, "exit 0") == []


@pytest.mark.parametrize("script", ["exit 130", "kill -TERM $$"])
def test_a_task_that_was_told_to_stop_waits_for_what_slurm_does_with_it(script, monkeypatch):
    assert run_task(monkeypatch, script) == [task.PATIENCE_SECONDS]


@pytest.mark.parametrize(
    ("script", "said"), [("exit 2", "exit code 2"), ("kill -KILL $$", "exit code -9, SIGKILL: often out of")]
)
def test_a_task_whose_process_ends_in_another_way_has_failed(script, said, monkeypatch):
    with pytest.raises(RuntimeError, match=said):
        run_task(monkeypatch, script)


TOLD = """
import os, signal, sys, threading
from gradbench.launchers.slurm import task

def on_signal(*_):
    print(one.checkpoint().function.arguments, flush=True)
    os._exit(3)

task.QUIET = ("sh", "-c", "exec sleep 600")
one = task.Task(["results"])
signal.signal(signal.SIGUSR2, on_signal)
threading.Timer(1, os.kill, (os.getpid(), signal.SIGUSR2)).start()
one()
"""


def test_a_task_that_is_told_that_its_time_is_up_ends_its_process_and_can_be_run_again():
    done = subprocess.run(
        [sys.executable, "-c", TOLD], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (3, "['results']\n"), done.stderr


SAVED = """
import os, signal
from gradbench import signals

signals.leave_on_interrupt()
signals.hear_once()
with signals.Interruption() as interruption:
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
    print("saved", interruption.requested, flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print("no sweep heard it")
"""


def test_a_process_that_is_told_to_stop_saves_however_often_it_is_told_and_leaves_where_nothing_trains():
    done = subprocess.run(
        [sys.executable, "-c", SAVED], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (130, "saved True\n"), done.stderr


# ---- how many tasks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "stacks", "seconds", "limit", "expected"),
    [
        ({}, 10, None, 1000, 10),
        ({}, 1000, None, 1000, launcher.UNKNOWN_TASKS),
        ({"parallel": 2}, 1000, None, 1000, 8),
        ({}, 1000, None, 5, 5),
        ({"task_minutes": 10}, 1000, 6000.0, 1000, 10),
        ({"task_minutes": 10, "cpus": 2}, 1000, 6000.0, 1000, 5),
        ({"task_minutes": 10, "cpus": 2, "gpus": 1}, 1000, 6000.0, 1000, 10),
        ({"task_minutes": 10}, 1000, 1.0, 1000, 1),
        ({"task_minutes": 10}, 3, 1e9, 1000, 3),
    ],
)
def test_tasks_last_as_long_as_asked_for_and_no_longer_array_than_allowed(
    keys, stacks, seconds, limit, expected
):
    assert Slurm(**keys).count_tasks(stacks, seconds, limit) == expected


# ---- what was submitted --------------------------------------------------------------------------------------------

SUBMISSION = {
    "token": TOKEN,
    "plan": "0" * 16,
    "tasks": [[0, 1], [2]],
    "submitted": "2026-11-30T10:00:00",
    "results": "/home/us/results",
    "job": 17,
}


def store(folder: Path, content: str, token: str = TOKEN) -> None:
    path = folder / "jobs" / token / "submission.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)


def test_what_was_submitted_is_read_again(tmp_path):
    one = Submission(**SUBMISSION)
    one.folder(tmp_path).mkdir(parents=True)
    one.write(tmp_path)
    assert list_submissions(tmp_path) == [one]


@pytest.mark.parametrize(
    "changed",
    [
        {"token": "../../../x"},
        {"token": "ABCDEF01"},
        {"plan": "../x"},
        {"plan": None},
        {"job": "17; reboot"},
        {"job": True},
        {"submitted": 3},
        {"results": None},
        {"tasks": None},
        {"tasks": {"0": 1}},
        {"tasks": [["0"]]},
        {"tasks": [0]},
        {"more": 1},
    ],
    ids=str,
)
def test_a_submission_that_is_none_is_left_out(changed, tmp_path):
    store(tmp_path, json.dumps(SUBMISSION | changed))
    store(tmp_path, json.dumps(SUBMISSION | {"token": "89abcdef"}), "89abcdef")
    assert [one.token for one in list_submissions(tmp_path)] == ["89abcdef"]


def test_a_copy_of_a_folder_leaves_the_tasks_of_the_other_alone(fake, home, capsys):
    refuse(capsys, "launcher=slurm")
    store(home / "results", json.dumps(SUBMISSION | {"results": str(home / "results")}))
    (fake / "squeue").write_text(f"#!/bin/sh\necho '17_0|gradbench-{TOKEN}|RUNNING|n1|None'\n")
    (home / "link").symlink_to("results")
    shutil.copytree(home / "results", home / "copy")
    assert [len(cancel_tasks(home / folder)) for folder in ("copy", "link", "results")] == [0, 1, 1]
    assert [len(read_status(home / folder).submissions) for folder in ("copy", "results")] == [0, 1]


@pytest.mark.parametrize("command", ["status", "cancel"])
@pytest.mark.parametrize("folder", ["absent", "file", "full"])
def test_what_is_no_results_folder_is_refused_with_what_to_name(folder, command, home, capsys):
    (home / "file").touch()
    (home / "full").mkdir()
    (home / "full/thesis").touch()
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, folder])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {folder} is no results folder; name one that `gradbench run` has written"


def test_a_status_says_that_the_queue_is_unknown_where_slurm_does_not_answer(fake, home, capsys):
    refuse(capsys, "launcher=slurm")
    store(home / "results", json.dumps(SUBMISSION | {"results": str(home / "results")}))
    (fake / "squeue").write_text("#!/bin/sh\nexit 1\n")
    found = read_status(home / "results")
    assert [one.queue for one in found.submissions] == ["unknown"]
    assert "SLURM does not answer" in found.notes[0]


@pytest.mark.parametrize("content", ["", "[]", "null", "{", "\x00", "[" * 100_000])
def test_a_file_that_is_no_submission_is_left_out(content, tmp_path):
    store(tmp_path, content)
    assert list_submissions(tmp_path) == []


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refuse(capsys, *words: str) -> str:
    """Return the one line that refuses a command."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", *GRID, "--results", "results", "--no-report", *words])
    assert stopped.value.code == 2
    said = capsys.readouterr()
    (line,) = (said.out + said.err).splitlines()
    return line


FAKE = {
    "sbatch": "echo 'sbatch: error: invalid partition specified: nonexistent' >&2\n"
    "echo 'sbatch: error: Batch job submission failed: Invalid partition name specified' >&2\nexit 1",
    "squeue": "exit 0",
    "scancel": "exit 0",
    "srun": "exit 0",
    "scontrol": "echo 'MaxArraySize            = 1001'",
}


@pytest.fixture
def fake(home, monkeypatch):
    """SLURM's commands, of a cluster that takes nothing."""
    folder = home / "bin"
    folder.mkdir()
    for name, script in FAKE.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_without_slurm_a_line_says_where_to_type_and_nothing_is_written(home, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(home))
    line = refuse(capsys, "launcher=slurm")
    assert "sbatch, squeue, scancel, srun cannot be found; type this on a login node" in line
    assert not (home / "results").exists()


def test_without_submitit_a_line_says_what_to_install_and_nothing_is_written(fake, home, monkeypatch, capsys):
    monkeypatch.setattr(launcher, "find_spec", lambda name: None)
    assert "type: pip install 'gradbench[slurm]'" in refuse(capsys, "launcher=slurm")
    assert not (home / "results").exists()


def test_code_of_this_process_alone_is_refused_and_nothing_is_written(fake, home):
    class Net(torch.nn.Linear):
        def __init__(self):
            super().__init__(3, 10)

    data = numpy.zeros((200, 3), "float32"), numpy.arange(200) % 10
    with pytest.raises(UsageError, match="put it into a module"):
        gradbench.run("launcher=slurm", "steps=4", model=Net, data=data, results=home / "ours", quiet=True)
    assert not (home / "ours").exists()


@pytest.mark.parametrize(
    "words", [("launcher.partition=nonexistent",), ("launcher.partition=nonexistent", "--detach")]
)
def test_what_slurm_refuses_is_one_line_and_leaves_no_submission(words, fake, home, capsys):
    line = refuse(capsys, "launcher=slurm", *words)
    assert "Invalid partition name specified" in line
    assert not list((home / "results/jobs").iterdir())


@pytest.mark.parametrize("command", ["squeue", "scontrol"], ids=lambda command: f"{command} does not answer")
def test_a_slurm_that_does_not_answer_is_one_line(command, fake, home, capsys):
    if command == "squeue":  # asked about what was submitted before
        refuse(capsys, "launcher=slurm")
        store(home / "results", json.dumps(SUBMISSION | {"results": str(home / "results")}))
    (fake / command).write_text("#!/bin/sh\necho 'error: Unable to contact slurm controller' >&2\nexit 1\n")
    assert "Unable to contact slurm controller" in refuse(capsys, "launcher=slurm")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("launcher=slurmy",), "slurm"),
        (("launcher=slurm", "launcher.gpus=-1"), "launcher.gpus must be >= 0"),
        (("launcher=slurm", "launcher.gpus=1.5"), "launcher.gpus"),
        (("launcher=slurm", "launcher.cpus=0"), "launcher.cpus must be >= 1"),
        (("launcher=slurm", "launcher.cpus=many"), "launcher.cpus"),
        (("launcher=slurm", "launcher.minutes=0"), "launcher.minutes must be >= 1"),
        (("launcher=slurm", "launcher.minutes=1.5"), "launcher.minutes"),
        (("launcher=slurm", "launcher.task_minutes=0"), "launcher.task_minutes must be > 0"),
        (("launcher=slurm", "launcher.tries=0"), "launcher.tries must be >= 1"),
        (("launcher=slurm", "launcher.parallel=0"), "launcher.parallel must be >= 1"),
        (("launcher=slurm", "launcher.memory_gb=-1"), "launcher.memory_gb must be"),
        (("launcher=slurm", "launcher.device=tpu"), "launcher.device must be one of null, cpu, cuda"),
        (("launcher=slurm", "launcher.setup=module load cuda"), "launcher.setup"),
        (("launcher=slurm", "launcher.options=x"), "launcher.options"),
        (("launcher=slurm", "launcher.options.reservation=x"), "type +launcher.options.reservation"),
        (("launcher=slurm", "+launcher.options.job-name=x"), "launcher.options.job-name: gradbench says"),
        (("launcher=slurm", "+launcher.options.job_name=x"), "leave it out"),
        (("launcher=slurm", "+launcher.options.array=0-3"), "to know its tasks"),
        (("launcher=slurm", "+launcher.options.time=5"), "by launcher.minutes"),
        (("launcher=slurm", "launcher.partition=[main]"), "launcher.partition must be a word"),
        (("launcher=slurm", "launcher.python=[python]"), "launcher.python must be a word"),
        (("launcher=slurm", "launcher.task_minutes=0.5"), "Invalid partition name specified"),
        (("launcher=slurm", "launcher.partition=7"), "Invalid partition name specified"),
        (("launcher=slurm", "launcher.cpu=2"), "launcher.cpu"),
        (("launcher=slurm", "launcher.cpus=1,2"), "launcher"),
        (("launcher.gpus=1",), "launcher.gpus"),
        (("launcher=local", "--detach"), "launcher=slurm"),
        (("launcher=slurm", "device=cuda"), "launcher.device="),
        (("launcher=slurm", "launcher.gpus=1"), "launcher.device_memory_gb=80"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_in_one_line_that_names_it(words, said, fake, home, capsys):
    assert said in refuse(capsys, *words)


@pytest.mark.parametrize("words", [("launcher.device_memory_gb=80",), ("stack_width.cuda=2",)])
def test_gpus_that_are_elsewhere_are_planned_for(words, home):
    plan = make_plan(None, [*GRID, "seed=range(4)", "launcher=slurm", "launcher.gpus=1", *words])
    assert plan.devices == ["cuda"]
    assert len(plan.stacks) == (2 if words == ("stack_width.cuda=2",) else 1)


def test_variables_of_sbatch_do_not_rename_tasks(fake, home, monkeypatch, capsys):
    (fake / "sbatch").write_text('#!/bin/sh\necho "$SBATCH_JOB_NAME, $SBATCH_ACCOUNT" >&2; exit 1\n')
    monkeypatch.setenv("SBATCH_JOB_NAME", "mine")
    monkeypatch.setenv("SBATCH_ACCOUNT", "ours")
    assert refuse(capsys, "launcher=slurm").endswith("took no task: , ours")
    assert os.environ["SBATCH_JOB_NAME"] == "mine"


def test_why_sbatch_refuses_is_said_and_not_how_to_get_help(fake, home, capsys):
    said = "sbatch: unrecognized option '--nonsense=x'\nTry \"sbatch --help\" for more information"
    (fake / "sbatch").write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{said}\nEND\nexit 1\n")
    assert refuse(capsys, "launcher=slurm").endswith("unrecognized option '--nonsense=x'")


def test_jobs_are_tasks_at_a_time(home, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(cli, "print_plan", seen.append)
    for words in (["launcher=slurm", "--jobs", "3"], ["launcher=slurm", "launcher.parallel=3"]):
        with pytest.raises(SystemExit):
            cli.main(["run", *GRID, "--dry-run", *words])
    assert [plan.launcher.parallel for plan in seen] == [3, 3]


def test_a_launcher_is_no_part_of_a_cell(home):
    one, other = (make_plan(None, [*GRID, *words]) for words in ((), ("launcher=slurm", "launcher.cpus=4")))
    assert [cell.id for cell in one.cells] == [cell.id for cell in other.cells]
    assert one.id == other.id
    assert one.folder == other.folder

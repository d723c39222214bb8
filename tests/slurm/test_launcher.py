"""``launcher=slurm`` on a real SLURM: whatever happens to its tasks, the tables end as those of ``launcher=local``."""

import os
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict

import pytest
from slurm.cluster import Cluster
from slurm.site import CHUNKS, OPTIONS, WORDS, Site
from soak import OWN, compare

pytestmark = pytest.mark.slurm

SLOW = {"CHUNK_SECONDS": "0.5"}
"""A stack takes ten seconds."""

ELSEWHERE = [*OWN, "command"]
"""Columns that say when and where; the command names the folder of configs."""


@pytest.fixture
def site(cluster, tmp_path):
    with Site(tmp_path / "home", cluster) as site:
        yield site


@pytest.fixture(scope="module")
def local(_cluster, tmp_path_factory):
    """The results of the grid on this machine."""
    with Site(tmp_path_factory.mktemp("local") / "home", _cluster) as site:
        assert site.type("run", *WORDS, "--results", "results", *OPTIONS).status == 0
        return site.home / "results"


# ---- a sweep with much that may be typed ---------------------------------------------------------------------------

PYTHON = '#!/bin/sh\nexport WRAPPED=yes\nexec {} "$@"\n'


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A folder with the results of one experiment by SLURM and by this machine, and what was seen meanwhile."""
    home = tmp_path_factory.mktemp("home") / "with a space"
    with Cluster(cpus=4, max_array_size=3) as small, Site(home, small) as site:
        python = site.home / "my python"
        python.write_text(PYTHON.format(shlex.quote(sys.executable)))
        python.chmod(0o755)
        process = site.begin(
            *("run", "mine", "--results", "results/our own", *OPTIONS),
            *("launcher=slurm", "launcher.parallel=2", "launcher.cpus=2", "launcher.memory_gb=0.5"),
            *("launcher.gpus=1", "launcher.device=cpu", "launcher.setup=['export SET_UP=yes']"),
            f"launcher.python={shlex.quote(str(python))!r}",
        )
        site.running = []
        while process.poll() is None:
            site.running.append([job for job in small.jobs() if job.state == "RUNNING"])
        site.status, site.said = process.returncode, process.communicate()[0]
        site.tasks, site.memory = small.jobs(), small.memory_of("1_0")
        site.chunks = site.written_down()
    site.local = site.type("run", "mine", "--results", "results/local", *OPTIONS)
    return site


def test_the_tables_are_those_of_this_machine(swept, tmp_path):
    for results in ("our own", "local"):
        shutil.copytree(swept.home / "results" / results, tmp_path / results)
        (failed,) = (tmp_path / results / "cells").glob(
            "failed-*"
        )  # of one stack; its error is compared, too
        failed.rename(failed.with_name(failed.name.removeprefix("failed-")))
    compare(tmp_path / "our own", tmp_path / "local")


def test_an_array_is_no_larger_than_the_cluster_allows(swept):
    assert {task.id for task in swept.tasks} == {"1_0", "1_1", "1_2"}


def test_no_more_tasks_run_at_a_time_than_asked_for(swept):
    assert max(map(len, swept.running)) == 2


def test_a_stack_that_fails_is_a_row_with_its_reason_and_the_others_are_trained(swept):
    cells = swept.cells("results/our own").set_index("regularizer")
    assert swept.status == swept.local.status == 1
    assert set(cells.loc["share", "status"]) == {"completed"}
    assert "RuntimeError: out of luck" in cells.loc["unlucky", "error"]
    assert "failed mlp · unlucky · 1 cell: RuntimeError: out of luck" in swept.said
    assert "Traceback" not in swept.said


def test_show_prints_the_end_of_the_log_of_a_failed_cell(swept):
    cell = swept.cells("results/our own").set_index("regularizer").loc["unlucky", "cell"]
    shown = swept.type("show", cell, "--results", "results/our own")
    assert shown.status == 0
    assert "failed mlp · unlucky · 1 cell: RuntimeError: out of luck" in shown.said, swept.logs(
        "results/our own"
    )


def test_a_task_trains_as_many_stacks_at_a_time_as_it_has_cores_each_with_one_thread(swept):
    assert {chunk["threads"] for chunk in swept.chunks} == {1}
    workers = defaultdict(set)
    for chunk in swept.chunks:
        workers[chunk["SLURM_ARRAY_TASK_ID"]].add(chunk["pid"])
    assert max(map(len, workers.values())) == 2


def test_a_task_has_the_memory_asked_for(swept):
    assert swept.memory == "512M"


def test_a_task_sees_its_own_gpu(swept):
    seen = defaultdict(set)
    for chunk in swept.chunks:
        seen[chunk["SLURM_ARRAY_TASK_ID"]].add(chunk["CUDA_VISIBLE_DEVICES"])
    assert all(len(gpus) == 1 and gpus <= {"0", "1"} for gpus in seen.values())


def test_lines_of_setup_and_a_python_of_ones_own_are_used(swept):
    assert {(chunk["SET_UP"], chunk["WRAPPED"]) for chunk in swept.chunks} == {("yes", "yes")}


# ---- detached, followed, cancelled ---------------------------------------------------------------------------------


def test_a_detached_run_is_shown_followed_and_cancelled_alone_and_goes_on(site, cluster, local):
    foreign = cluster.submit("sleep 600")
    assert site.run("results/other", "seed=1", "--detach", **SLOW).status == 0
    others = {job.id for job in site.jobs()}
    detached = site.run("results/ours", "--detach", **SLOW)
    assert detached.status == 0, detached.said
    ours = {job.id for job in site.jobs()} - others
    assert len(ours) == 2

    shown = site.type("status", "results/ours")
    assert shown.status == 0
    assert "to run" in shown.said, shown.said
    assert "1 running" in shown.said
    assert "cancel: gradbench cancel results/ours" in shown.said

    following = site.begin(*site.words("results/ours"))
    said = site.read_until(following, "of an earlier run")
    cancelled = site.type("cancel", "results/ours")
    assert cancelled.status == 0, cancelled.said
    assert "cancelled tasks: " in cancelled.said, cancelled.said
    said += following.communicate()[0]
    assert following.returncode == 130, said
    assert "2 tasks of an earlier run" in said
    assert {job.id for job in site.jobs()} <= others, "nothing is submitted twice"
    assert "CANCELLED" not in {cluster.job(job).state for job in others}
    assert cluster.job(foreign).state in ("PENDING", "RUNNING")

    assert site.type("cancel", "results/other").status == 0
    subprocess.run(["scancel", foreign], env=cluster.environment, check=True)
    again = site.run("results/ours")
    assert again.status == 0, again.said
    compare(site.home / "results/ours", local, ELSEWHERE)


def test_what_slurm_refuses_is_one_line_and_the_right_words_go_on_from_there(site, cluster):
    refused = site.run("results", "launcher.partition=nonexistent")
    assert refused.status == 2
    (line,) = refused.said.splitlines()
    assert "SLURM took no task: sbatch: error: Batch job submission failed: Invalid partition name" in line
    assert not site.jobs()
    assert not list((site.home / "results/jobs").iterdir())
    assert site.run("results", "launcher.partition=main", "--detach").status == 0
    assert {job.partition for job in site.jobs()} == {"main"}


def test_two_runs_that_begin_together_submit_each_stack_once(site):
    slow = site.home / "bin/scontrol"  # asked between a look at the queue and a submission
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/sh\nsleep 3\nexec {shutil.which("scontrol")} "$@"\n')
    slow.chmod(0o755)
    path = {"PATH": f"{slow.parent}:{os.environ['PATH']}"}
    words = site.words("results", "+launcher.options.hold=true", "--detach")
    said = [run.communicate()[0] for run in [site.begin(*words, **path) for _ in range(2)]]
    assert [one.count("2 tasks submitted") for one in sorted(said, key=len)] == [0, 1], said
    assert len(site.jobs()) == 2


# ---- tasks that end before their stacks ----------------------------------------------------------------------------


def assert_goes_on(site, process, local, repeated=0):
    """Assert that a run ends as one on this machine, and has trained no more chunks of steps twice than some."""
    said, _ = process.communicate()
    assert process.returncode == 0, said + site.logs("results")
    resumed = [line["step"] for line in site.written_down("resumed")]
    assert resumed, said
    assert all(resumed)
    assert 2 * CHUNKS <= len(site.written_down()) <= 2 * CHUNKS + repeated
    compare(site.home / "results", local, ELSEWHERE)
    return said


def preempt(site, cluster):
    """Begin a run, and return it once it was preempted."""
    process = site.begin(*site.words("results", "+launcher.options.nodelist=n1", "launcher.tries=1"), **SLOW)
    site.wait_for_chunks(6)
    urgent = cluster.submit("sleep 1", "--partition=urgent", "--nodelist=n1", "--exclusive")
    cluster.wait_for(urgent)
    return process


@pytest.mark.slow
def test_a_preempted_task_is_saved_and_goes_on(site, cluster, local):
    assert_goes_on(site, preempt(site, cluster), local)


@pytest.mark.slow
def test_so_it_is_where_preemption_is_announced_by_sigterm_alone(local, tmp_path):
    with (
        Cluster(nodes=1, lines="SlurmctldParameters=idle_on_node_suspend\n") as cluster,
        Site(tmp_path / "home", cluster) as site,
    ):
        assert_goes_on(site, preempt(site, cluster), local)


@pytest.mark.slow
def test_at_the_time_limit_a_task_is_saved_and_goes_on(site, local):
    words = site.words("results", "launcher.minutes=1", "launcher.tries=1")
    said = assert_goes_on(site, site.begin(*words, CHUNK_SECONDS="3"), local)
    assert said.count("submitted") == 1


@pytest.mark.slow
def test_the_tasks_of_a_node_that_died_go_on_elsewhere(site, cluster, local):
    process = site.begin(*site.words("results"), **SLOW)
    site.wait_for_chunks(6)
    cluster.kill_node("n1")
    assert_goes_on(site, process, local, repeated=2)
    assert {chunk["SLURMD_NODENAME"] for chunk in site.written_down()} == {"n1", "n2"}


@pytest.mark.slow
def test_a_task_whose_process_is_killed_is_submitted_again_and_goes_on(site, local):
    process = site.begin(*site.words("results"), **SLOW)
    site.wait_for_chunks(6)
    for trains in site.processes():
        trains.kill()
    said = assert_goes_on(site, process, local, repeated=2)
    assert "its task ended as failed; it goes on from its checkpoint" in said


@pytest.mark.slow
def test_a_stack_whose_tasks_all_die_is_a_row_with_the_reason(site):
    process = site.begin(*site.words("results", "launcher.tries=1"), **SLOW)
    site.wait_for_chunks(6)
    site.processes()[0].kill()
    said, _ = process.communicate()
    assert process.returncode == 1, said
    cells = site.cells("results").set_index("status")
    reason = "its task ended as failed without a result, 1 time"
    assert list(cells.loc["failed", "error"]) == [reason] * 2
    assert len(cells.loc["completed"]) == 2
    assert reason in said
    shown = site.type("show", cells.loc["failed", "cell"].iloc[0], "--results", "results")
    assert "exit code -9, SIGKILL: often out of memory" in shown.said


# ---- a controller that forgets -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_controller_that_is_away_is_waited_for(site, cluster, local):
    process = site.begin(*site.words("results"), **SLOW)
    site.wait_for_chunks(6)
    cluster.wait_until_saved()
    cluster.kill_controller()
    said = site.read_until(process, "SLURM does not answer")
    cluster.start_controller()
    said += process.communicate()[0]
    assert process.returncode == 0, said
    assert said.count("submitted") == 1
    assert len(site.written_down()) == 2 * CHUNKS
    compare(site.home / "results", local, ELSEWHERE)


@pytest.mark.slow
def test_tasks_that_slurm_forgot_are_submitted_again_and_an_old_ones_id_deceives_nobody(local, tmp_path):
    with Cluster() as cluster, Site(tmp_path / "home", cluster) as site:
        process = site.begin(*site.words("results"), **SLOW)
        site.wait_for_chunks(6)
        cluster.lose_state()
        said, _ = process.communicate()
        assert process.returncode == 0, said
        assert "its task left the queue; it goes on from its checkpoint" in said
        assert said.count("submitted as job 1;") == 2
        compare(site.home / "results", local, ELSEWHERE)


# ---- nodes that are not well ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_task_that_slurm_cannot_start_and_holds_is_submitted_again(local, tmp_path):
    prolog = tmp_path / "prolog"
    prolog.write_text('#!/bin/sh\n[ "$SLURMD_NODENAME" != n1 ]\n')
    prolog.chmod(0o755)
    with Cluster(lines=f"Prolog={prolog}\n") as cluster, Site(tmp_path / "home", cluster) as site:
        done = site.run("results")
        assert done.status == 0, done.said
        assert "SLURM could not start its task; it goes on from its checkpoint" in done.said
        assert {chunk["SLURMD_NODENAME"] for chunk in site.written_down()} == {"n2"}
        assert "PENDING" not in {job.state for job in site.jobs()}, "what is held is cancelled"
        compare(site.home / "results", local, ELSEWHERE)


@pytest.mark.slow
def test_what_a_node_cannot_write_is_not_lost(site, local):
    full = "launcher.setup=['[ \"$SLURMD_NODENAME\" != n1 ] || ulimit -f 8']"  # KiB: room for a log, and for no table
    done = site.run("results", "launcher.cpus=2", full)  # a task per node
    cells = site.cells("results").set_index("status")
    assert len(cells.loc["completed"]) >= 2, done.said
    if done.status:  # where the other task came to the same node again
        assert done.status == 1
        shown = site.type("show", cells.loc["failed", "cell"].iloc[0], "--results", "results")
        assert "(File too large); make room or repair the folder" in shown.said
    again = site.run("results")
    assert again.status == 0, again.said
    compare(site.home / "results", local, ELSEWHERE)


NO_LOCKS = """
import errno
import fcntl
import os


def lockf(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


fcntl.lockf = lockf
"""


@pytest.mark.slow
def test_without_locks_two_runs_give_the_same_tables_and_no_row_twice(site, local):
    (site.home / "sitecustomize.py").write_text(NO_LOCKS)
    path = {"PYTHONPATH": os.pathsep.join([str(site.home), os.environ.get("PYTHONPATH", "")])}
    here = ("run", *WORDS, "--results", "results", *OPTIONS)
    runs = [site.begin(*words, **path, CHUNK_SECONDS="1") for words in (site.words("results"), here)]
    said = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    trained = [(chunk["stack"], chunk["SLURMD_NODENAME"] is None) for chunk in site.written_down()]
    assert len(set(trained)) == 4, "both trained both stacks"
    compare(site.home / "results", local, ELSEWHERE)

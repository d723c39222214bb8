"""``launcher=slurm`` on a real SLURM: whatever happens to its tasks, the tables end as those of ``launcher=local``."""

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
            *("launcher=slurm", "launcher.parallel=2", "launcher.cpus=2"),
            *("launcher.gpus=1", "launcher.device=cpu", "launcher.setup=['export SET_UP=yes']"),
            f"launcher.python={shlex.quote(str(python))!r}",
        )
        site.running = []
        while process.poll() is None:
            site.running.append([job for job in small.jobs() if job.state == "RUNNING"])
        site.status, site.said = process.returncode, process.communicate()[0]
        site.tasks = small.jobs()
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


# ---- tasks that end before their stacks ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_preempted_task_is_saved_and_goes_on(site, cluster, local):
    running = site.begin(*site.words("results", "+launcher.options.nodelist=n1"), **SLOW)
    site.wait_for_chunks(6)
    urgent = cluster.submit("sleep 1", "--partition=urgent", "--nodelist=n1", "--exclusive")
    cluster.wait_for(urgent)
    said, _ = running.communicate()
    assert running.returncode == 0, said + site.logs("results")
    assert all(line["step"] for line in site.written_down("resumed"))
    assert site.written_down("resumed"), said
    assert len(site.written_down()) == 2 * CHUNKS, "no step is trained twice"
    compare(site.home / "results", local, ELSEWHERE)

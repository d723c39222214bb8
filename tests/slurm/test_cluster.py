"""The SLURM that other tests stand on does what a real one does when something fails."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from slurm.cluster import Cluster, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

FIRST_TIME = '[ -z "$SLURM_RESTART_COUNT" ]'


def processes_of(folder):
    """Return the processes that use the cluster of a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SLURM_CONF") == f"{folder}/slurm.conf":
                found.append(process)
        except psutil.Error:
            continue
    return found


def lines_of(path):
    return path.read_text().splitlines() if path.exists() else []


def wait_for_line(path, line):
    wait_until(lambda: line in lines_of(path), f"{line!r} in {path}")


def test_all_nodes_are_idle(cluster):
    assert cluster.node_states() == {"n1": "idle", "n2": "idle"}


def test_nobody_listens_but_on_loopback(cluster):
    addresses = [
        connection.laddr.ip
        for process in processes_of(cluster.folder)
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert addresses == ["127.0.0.1"] * 3


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_job_runs_on_the_node_it_asks_for(node, cluster, tmp_path):
    job = cluster.submit("echo $SLURMD_NODENAME", f"--nodelist={node}", output=tmp_path / "out")
    cluster.wait_for(job)
    assert (tmp_path / "out").read_text() == f"{node}\n"
    assert cluster.job(job).node == node


def test_a_job_that_fails_or_is_cancelled_says_so(cluster):
    failed, cancelled = cluster.submit("exit 3"), cluster.submit("sleep 600")
    cluster.wait_for(failed, "FAILED")
    cluster.wait_for(cancelled, "RUNNING")
    subprocess.run(["scancel", cancelled], env=cluster.environment, check=True)
    cluster.wait_for(cancelled, "CANCELLED")


def test_an_array_runs_every_task(cluster, tmp_path):
    job = cluster.submit("echo $SLURM_ARRAY_TASK_ID", "--array=0-3", output=tmp_path / "%a")
    cluster.wait_for(job)
    assert {task.id for task in cluster.jobs(job)} == {f"{job}_{index}" for index in range(4)}
    assert [(tmp_path / str(index)).read_text() for index in range(4)] == ["0\n", "1\n", "2\n", "3\n"]


def test_jobs_with_gpus_see_their_own(cluster, tmp_path):
    outputs = [tmp_path / "first", tmp_path / "second"]
    for output in outputs:
        script = "echo $CUDA_VISIBLE_DEVICES; sleep 600"
        cluster.submit(script, "--gpus-per-node=1", "--nodelist=n1", output=output)
    wait_until(lambda: sorted(map(lines_of, outputs)) == [["0"], ["1"]], "each job has a GPU of its own")


@pytest.mark.parametrize("end", [Cluster.stop_controller, Cluster.kill_controller])
def test_a_job_goes_on_without_the_controller(end, cluster, tmp_path):
    job = cluster.submit(
        f"echo begun; until [ -e {tmp_path}/go ]; do sleep 0.1; done; echo ended", output=tmp_path / "out"
    )
    cluster.wait_for(job, "RUNNING")
    wait_for_line(tmp_path / "out", "begun")
    cluster.wait_until_saved()
    end(cluster)
    with pytest.raises(subprocess.CalledProcessError):
        cluster.jobs()
    (tmp_path / "go").touch()
    wait_for_line(tmp_path / "out", "ended")
    cluster.start_controller()
    cluster.wait_for(job)
    assert (tmp_path / "out").read_text() == "begun\nended\n"


def test_a_preempted_job_is_told_and_requeued_and_finishes(cluster, tmp_path):
    script = f"""
        trap "echo told" USR2
        echo begun
        if {FIRST_TIME}; then while true; do sleep 0.1; done; fi
        echo finished"""
    options = ("--nodelist=n1", "--signal=B:USR2@90", "--time=60", "--open-mode=append")
    job = cluster.submit(script, *options, output=tmp_path / "out")
    wait_for_line(tmp_path / "out", "begun")
    urgent = cluster.submit("sleep 1", "--partition=urgent", "--nodelist=n1", "--exclusive")
    cluster.wait_for(urgent)
    cluster.wait_for(job)
    lines = [line for line in (tmp_path / "out").read_text().splitlines() if "***" not in line]
    assert lines == ["begun", "told", "begun", "finished"]


def test_the_job_of_a_node_that_died_runs_again_on_another(cluster, tmp_path):
    def sleepers():
        return [process for process in processes_of(cluster.folder) if process.name() == "sleep"]

    script = f"echo $SLURMD_NODENAME; if {FIRST_TIME}; then setsid sleep 600; fi"
    job = cluster.submit(script, "--open-mode=append", output=tmp_path / "out")
    wait_until(sleepers, "the job sleeps")
    (first,) = lines_of(tmp_path / "out")
    cluster.kill_node(first)
    assert not sleepers()
    cluster.wait_for(job, seconds=120)
    (other,) = {"n1", "n2"} - {first}
    assert lines_of(tmp_path / "out") == [first, other]
    assert cluster.node_states()[first].startswith("down")


def test_arrays_are_as_large_as_a_cluster_allows():
    with Cluster(nodes=1, max_array_size=4) as small:
        small.submit("true", "--array=0-3")
        with pytest.raises(subprocess.CalledProcessError):
            small.submit("true", "--array=0-4")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_who_started_the_cluster(number):
    command = [sys.executable, "-m", "tests.slurm.cluster", "--nodes", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        configuration = Path(starter.stdout.readline().strip().removeprefix("export SLURM_CONF="))
        environment = {**os.environ, "SLURM_CONF": str(configuration)}
        script = "#!/bin/bash\nsetsid sleep 600"
        subprocess.run(["sbatch", "--output=/dev/null"], input=script, env=environment, text=True, check=True)
        folder = configuration.parent
        wait_until(lambda: "sleep" in [each.name() for each in processes_of(folder)], "the job runs")
        starter.send_signal(number)
    wait_until(lambda: not processes_of(folder), "all processes have ended")
    assert folder.exists() == (number == signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)

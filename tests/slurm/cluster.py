"""A real SLURM of several nodes on this machine, for tests; see README.md.

    python -m tests.slurm.cluster [--nodes 2]

starts one and prints how to use it; Ctrl-C stops it.

No systemd, no cgroups, no file outside its folder, no address but 127.0.0.1. Each daemon is the child of a keeper
(keeper.py): a node dies with all its jobs, and everything dies with the process that started the cluster.
"""

import argparse
import contextlib
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
MISSING = "needs Debian's slurm-wlm and munge: make slurm-packages"
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
"""The daemons lie where an ordinary user's PATH does not look."""

GPUS = ("/dev/null", "/dev/zero")
"""What each node declares as its GPUs: any two devices, of which SLURM tells a job which are its own."""
KEEPER = Path(__file__).with_name("keeper.py")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# a job that was requeued waits as long as its old credential is valid
AuthInfo=socket={folder}/munge.socket,cred_expire={credential_seconds}

StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
PlugStackConfig={folder}/plugstack.conf

ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true

SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU={memory_per_cpu}
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,sched_min_interval=0,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# a preempted job gets the signal that it asked for with --signal, as before its time is up
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
MaxArraySize={max_array_size}

MinJobAge={job_memory_seconds}
KillWait={kill_seconds}
SlurmdTimeout={node_timeout}
ReturnToService=2
CompleteWait=0

# what a node has is declared here, whatever the machine has
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=DEFAULT CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
{nodes}
PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE State=UP
PartitionName=main Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace_seconds}
PartitionName=urgent PriorityTier=10 PreemptMode=OFF
"""


def is_installed() -> bool:
    """Tell whether SLURM's programs are on this machine."""
    return all(shutil.which(program, path=PATH) for program in PROGRAMS)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Return once a condition holds.

    Raises:
        TimeoutError: it does not within some seconds.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.1)


class Job(NamedTuple):
    """A line of ``squeue``: a job, or a task of an array."""

    id: str
    state: str
    node: str
    partition: str
    name: str
    comment: str
    reason: str


class Daemon:
    """A daemon and everything it started."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str]):
        with log.open("ab") as output:
            self.keeper = subprocess.Popen(
                [sys.executable, str(KEEPER), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )

    def is_alive(self) -> bool:
        return self.keeper.poll() is None

    def kill(self) -> None:
        """Kill it with all its processes."""
        self.keeper.communicate(b"\n")

    def terminate(self) -> None:
        """Let it write its state, and end."""
        self.keeper.terminate()
        self.keeper.communicate()


class Cluster:
    """A SLURM of its own, up between ``start`` and ``stop``.

    Partition ``urgent`` preempts ``main``, whose jobs are requeued.

    Args:
        folder: where everything lies, less than 90 characters long (a socket's path may not be longer); by default
            a new one that ``stop`` removes.
        nodes: how many; they are called n1, n2, ….
        cpus: CPU cores of a node, as declared.
        memory: of a node, as declared, in MiB.
        max_array_size: one more than the largest index of an array.
        credential_seconds: how long a job that was requeued waits.
        grace_seconds: how long a preempted job goes on after its signal.
        kill_seconds: how long a job has between SIGTERM and SIGKILL.
        job_memory_seconds: how long ``squeue`` knows a job that has ended.
        node_timeout: seconds until a node that does not answer is down, twice as long at most.
        lines: further ones of ``slurm.conf``, which count instead of those above.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        nodes: int = 2,
        cpus: int = 2,
        memory: int = 4000,
        max_array_size: int = 1001,
        credential_seconds: int = 5,
        grace_seconds: int = 10,
        kill_seconds: int = 1,
        job_memory_seconds: int = 600,
        node_timeout: int = 10,
        lines: str = "",
    ):
        self._own_folder = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="gradbench-slurm-")) if folder is None else folder
        self.nodes = tuple(f"n{number}" for number in range(1, nodes + 1))
        self.cpus, self.memory, self.lines = cpus, memory, lines
        self.options = {
            "max_array_size": max_array_size,
            "credential_seconds": credential_seconds,
            "grace_seconds": grace_seconds,
            "kill_seconds": kill_seconds,
            "job_memory_seconds": job_memory_seconds,
            "node_timeout": node_timeout,
        }
        self._daemons: dict[str, Daemon] = {}

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that is to use this cluster, and no other."""
        return {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("SLURM", "SBATCH_", "SQUEUE_", "SCANCEL_", "SINFO_"))
            },
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": PATH,
        }

    def start(self) -> None:
        """Start every daemon, and wait until all nodes can be used."""
        self._configure()
        try:
            self._start_munge()
            self.start_controller()
            for node in self.nodes:
                self.start_node(node)
            self.wait_until_idle()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every process of the cluster, its jobs included."""
        for name in (*self.nodes, "slurmctld", "munged"):
            self._kill(name)
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start_controller(self) -> None:
        """Start slurmctld, with the state that the last one wrote, if any."""
        self._start("slurmctld", "slurmctld", "-D")
        self._wait_for("slurmctld", lambda: self._call("scontrol", "ping", check=False).returncode == 0)

    def stop_controller(self) -> None:
        """Let slurmctld write its state and end."""
        self._daemons.pop("slurmctld").terminate()

    def kill_controller(self) -> None:
        """Kill slurmctld, which may lose what it learnt in the last seconds."""
        self._kill("slurmctld")

    def lose_state(self) -> None:
        """Kill slurmctld and start one that knows nothing: jobs are forgotten, and their ids are given again."""
        self.kill_controller()
        shutil.rmtree(self.folder / "state")
        (self.folder / "state").mkdir()
        self.start_controller()

    def wait_until_saved(self) -> None:
        """Wait until slurmctld has written all it knows now: it writes some seconds later."""
        asked = time.time()
        self._call("scancel", self.submit("", "--hold"))
        written = self.folder / "state" / "job_state"
        wait_until(lambda: written.exists() and written.stat().st_mtime > asked, "slurmctld writes its state")

    def start_node(self, node: str) -> None:
        """Start a node; ``wait_until_idle`` waits until it can be used."""
        self._start(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """Kill a node with its jobs' processes, as when the power fails; the controller is not told."""
        self._kill(node)

    def reset(self) -> None:
        """Cancel all jobs, start what is not running, and wait until all nodes are idle."""
        if not self._is_alive("slurmctld"):
            self.start_controller()
        for node in self.nodes:
            if not self._is_alive(node):
                self.start_node(node)
        self._call("scancel", "--me")
        self.wait_until_idle()

    def submit(self, script: str, *options: str, output: Path | str = "/dev/null") -> str:
        """Submit a bash script by sbatch, and return the job's id."""
        arguments = ("--parsable", f"--output={output}", *options)
        return self._call("sbatch", *arguments, input=f"#!/bin/bash\n{script}\n").stdout.strip()

    def jobs(self, *ids: str) -> list[Job]:
        """Return the jobs, or those of some ids (of a job, an array or a task), that squeue knows, ended ones too."""
        fields = "%i\t%T\t%N\t%P\t%j\t%k\t%r"
        found = self._call("squeue", "--array", "--states=all", "--noheader", f"--format={fields}").stdout
        jobs = [Job(*line.replace("(null)", "").split("\t")) for line in found.splitlines()]
        return [job for job in jobs if not ids or job.id in ids or job.id.split("_")[0] in ids]

    def job(self, job_id: str) -> Job:
        """Return one job."""
        (job,) = self.jobs(job_id)
        return job

    def memory_of(self, job_id: str) -> str:
        """Return the memory that a job has asked for."""
        return self._call(
            "squeue", "--states=all", "--noheader", "--format=%m", f"--jobs={job_id}"
        ).stdout.strip()

    def wait_for(self, job_id: str, state: str = "COMPLETED", seconds: float = 60.0) -> None:
        """Return once a job, or every task of an array, is in a state."""

        def is_reached() -> bool:
            jobs = self.jobs(job_id)
            return bool(jobs) and all(job.state == state for job in jobs)

        try:
            wait_until(is_reached, f"job {job_id} {state}", seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it is {self.jobs(job_id)}") from None

    def node_states(self) -> dict[str, str]:
        """Return each node's state: idle, mixed, allocated, down, …; followed by * where it does not answer."""
        found = self._call("sinfo", "--Node", "--noheader", "--partition=main", "--format=%N %T").stdout
        return dict(line.split() for line in found.splitlines())

    def wait_until_idle(self) -> None:
        """Wait until all nodes are idle."""
        with self._shown_logs():
            wait_until(lambda: set(self.node_states().values()) == {"idle"}, "all nodes are idle")

    def _configure(self) -> None:
        """Write all configuration files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "state").mkdir()
        for node in self.nodes:
            (self.folder / f"spool-{node}").mkdir()
        host = socket.gethostname().split(".")[0]
        controller_port, *ports = free_ports(1 + len(self.nodes))
        nodes = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
            for node, port in zip(self.nodes, ports, strict=True)
        ]
        configuration = CONFIGURATION.format(
            host=host,
            user=pwd.getpwuid(os.getuid()).pw_name,
            folder=self.folder,
            controller_port=controller_port,
            cpus=self.cpus,
            memory=self.memory,
            memory_per_cpu=self.memory // self.cpus,
            gpus=len(GPUS),
            nodes="\n".join(nodes),
            **self.options,
        )
        (self.folder / "slurm.conf").write_text(configuration + self.lines)
        (self.folder / "gres.conf").write_text(f"Name=gpu File={','.join(GPUS)}\n")
        (self.folder / "plugstack.conf").touch()

    def _start_munge(self) -> None:
        """Start munged, which vouches for who sent a message."""
        key, munge_socket = self.folder / "munge.key", self.folder / "munge.socket"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        files = {"key": key, "socket": munge_socket, "pid": self.folder / "munged.pid"}
        files |= {"seed": self.folder / "munge.seed", "log": self.folder / "munged.log"}
        options = [f"--{name}-file={path}" for name, path in files.items() if name != "socket"]
        self._start("munged", "munged", "--foreground", "--force", f"--socket={munge_socket}", *options)
        self._wait_for("munged", munge_socket.exists)

    def _start(self, name: str, *command: str) -> None:
        program = shutil.which(command[0], path=PATH)
        assert program is not None, MISSING
        log = self.folder / f"{name}.log"
        self._daemons[name] = Daemon([program, *command[1:]], log, self.environment)

    def _kill(self, name: str) -> None:
        if name in self._daemons:
            self._daemons.pop(name).kill()

    def _is_alive(self, name: str) -> bool:
        return name in self._daemons and self._daemons[name].is_alive()

    def _wait_for(self, name: str, condition: Callable[[], bool]) -> None:
        """Wait until a daemon answers."""

        def is_settled() -> bool:
            return not self._is_alive(name) or condition()

        with self._shown_logs():
            wait_until(is_settled, f"{name} answers")
            if not self._is_alive(name):
                raise RuntimeError(f"{name} has ended")

    @contextlib.contextmanager
    def _shown_logs(self) -> Iterator[None]:
        """Add to an error what the daemons said last."""
        try:
            yield
        except (RuntimeError, TimeoutError) as error:
            for log in sorted(self.folder.glob("*.log")):
                lines = log.read_text(errors="replace").splitlines()[-10:]
                error.add_note("\n".join([f"{log}:", *lines]))
            raise

    def _call(
        self, *command: str, check: bool = True, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one of SLURM's commands."""
        return subprocess.run(
            command,
            env=self.environment,
            check=check,
            input=input,
            capture_output=True,
            text=True,
            timeout=60,
        )


def main() -> None:
    """Start a cluster, and stop it at Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description="Start a SLURM on this machine, until Ctrl-C.")
    parser.add_argument("--nodes", type=int, default=2)
    options = parser.parse_args()
    if not is_installed():
        parser.exit(1, f"{MISSING}\n")
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell has what it runs in the background ignore Ctrl-C
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), Cluster(nodes=options.nodes) as cluster:
        print(f"export SLURM_CONF={shlex.quote(cluster.environment['SLURM_CONF'])}", flush=True)
        print(f"{len(cluster.nodes)} nodes are idle; Ctrl-C stops them", file=sys.stderr)
        signal.pause()


if __name__ == "__main__":
    main()

"""What workers measure after a sweep: in turn, within the time there is, and at nobody's expense."""

import threading
from dataclasses import dataclass, field
from multiprocessing import Pipe

import pytest

from gradbench.errors import ShortageError
from gradbench.launchers import measuring
from gradbench.launchers.forkserver import Worker
from gradbench.launchers.measuring import Measuring
from gradbench.signals import Interruption


@dataclass
class Measured:
    title: str
    wanted: bool = False
    reason: str = ""


@dataclass
class Ended:
    """A process of which only the end matters."""

    exitcode: int | None = -9
    killed: list[bool] = field(default_factory=list)

    def join(self) -> None:
        """Return at once."""

    def kill(self) -> None:
        """Remember it."""
        self.killed.append(True)


class Sweep:
    """A sweep's workers, which answer as their measurements say: a reason, their death, or nothing."""

    def __init__(self, room: int = 9) -> None:
        self.workers: list[Worker] = []
        self.lines: list[str] = []
        self.started: list[str] = []
        self.served: list[str] = []
        self.room = room
        self.interruption = Interruption()
        self.measuring = Measuring(self.workers, self.start, self.lines.append, self.interruption)

    def start(self, device: str) -> Worker:
        if not self.room:
            raise ShortageError("no room")
        self.room -= 1
        self.started.append(device)
        ours, theirs = Pipe()
        threading.Thread(target=self.serve, args=(theirs,), daemon=True).start()
        return Worker(Ended(), ours, device)

    def serve(self, pipe) -> None:
        with pipe:
            while True:
                measurement = pipe.recv()
                self.served.append(measurement.title)
                if measurement.reason == "interrupt":
                    self.interruption.requested = True
                    return threading.Event().wait()
                if measurement.reason == "death":
                    return None
                pipe.send(("measured", measurement.reason))

    def run(self, measurements, places=("cpu",)):
        self.measuring.run(measurements, places, 0.0)


def test_measurements_are_made_one_after_another_by_workers_that_are_there():
    sweep = Sweep()
    sweep.workers.append(sweep.start("cpu"))
    sweep.run([Measured("a"), Measured("b")])
    assert (sweep.served, sweep.started, sweep.lines) == (["a", "b"], ["cpu"], [])


def test_a_place_without_a_worker_gets_one_and_each_place_has_one_measurement_at_a_time():
    sweep = Sweep()
    sweep.run([Measured("a"), Measured("b"), Measured("c")], ["cuda:0", "cuda:1"])
    assert sorted(sweep.started) == ["cuda:0", "cuda:1"]
    assert sorted(sweep.served) == ["a", "b", "c"]


def test_a_failure_is_one_line_and_a_worker_that_dies_is_replaced():
    sweep = Sweep()
    sweep.run([Measured("a", reason="it is odd"), Measured("b", reason="death"), Measured("c")])
    assert sweep.served == ["a", "b", "c"]
    assert sweep.lines == [
        "a: the time of a step was not measured (it is odd)",
        "b: the time of a step was not measured (its worker process died (exit code -9, SIGKILL: often out of memory))",
    ]
    assert len(sweep.workers) == 1


def test_when_the_time_is_up_the_rest_is_left_out_unless_a_claim_wants_it(monkeypatch):
    monkeypatch.setattr(measuring, "SECONDS", -1.0)
    sweep = Sweep()
    sweep.run([Measured("a", wanted=True), Measured("b"), Measured("c")])
    assert sweep.served == ["a"]
    assert sweep.lines == [
        "b and 1 more: the time of a step was not measured (the time is up; the same command goes on with it)"
    ]


def test_without_room_for_a_worker_nothing_is_measured_and_one_line_says_so():
    sweep = Sweep(room=0)
    sweep.run([Measured("a"), Measured("b")])
    assert sweep.lines == ["a and 1 more: the time of a step was not measured (no room)"]


@pytest.mark.parametrize("places", [["cpu"], ["cpu", "cpu"]])
def test_an_interruption_ends_what_is_measured(places):
    sweep = Sweep()
    sweep.run([Measured("a", reason="interrupt")] * 3, places)
    assert len(sweep.served) <= len(places)
    assert any(worker.process.killed for worker in sweep.workers)
    assert sweep.lines == []

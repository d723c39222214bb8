"""Interrupt commands at instants spread over their whole course, and see what they say and leave behind.

    python tests/interrupts.py --instants 60

An instant is an audit event of Python (a file opened, a module run, a process started …), counted from the first line
of ``gradbench/__main__.py``: the same instants are hit on a slow machine and on a fast one.
"""

import argparse
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from gradbench.signals import FAREWELL, INTERRUPTED

SMALL = ("model=mlp", "model.hidden=4", "model.depth=1", "seed=0,1")
RUN = ("run", *SMALL, "steps=4,5", "--jobs", "2", "--results")
COMMANDS = {
    "help": ("--help",),
    "info": ("info",),
    "plan": (*RUN, "new", "--dry-run"),
    "run": (*RUN, "new"),
    "report": ("report", "done"),
    "show": ("show", "", "--results", "done"),
    "claims": ("claims", "done"),
}

WAYS = {
    "Ctrl-C": (signal.SIGINT, True),
    "SIGINT": (signal.SIGINT, False),
    "SIGTERM": (signal.SIGTERM, False),
    "SIGTERM to all": (signal.SIGTERM, True),
}
"""What is sent, and whether to the whole process group, as a terminal does."""

OWN = ("[", "stopping: ", "done has no claims")
"""How the lines begin that commands print to stderr anyway."""

PROGRAM = """
import atexit, os, runpy, signal, sys

at, number, whole_group = map(int, sys.argv[1:4])
count, begun, sent = 0, False, False

def hook(event, arguments):
    global count, begun, sent
    count += begun
    begun = begun or event == "exec" and arguments[0].co_filename.endswith("gradbench/__main__.py")
    if count >= at > 0 and not sent and callable(signal.getsignal(number)):
        sent = True
        print("interrupted at", event, flush=True)
        os.killpg(0, number) if whole_group else os.kill(os.getpid(), number)

signal.signal(signal.SIGINT, signal.default_int_handler)
if not at:
    atexit.register(lambda: print(count))
del sys.argv[1:4]
sys.addaudithook(hook)
runpy.run_module("gradbench", run_name="__main__", alter_sys=True)
"""


def start(home: Path, words: Sequence[str], at: int, number: int, whole_group: bool) -> subprocess.Popen[str]:
    """Start a command that interrupts itself at an instant, or at 0 prints the number of its instants."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(at), str(int(number)), str(int(whole_group)), *words],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def count_instants(home: Path, command: str) -> int:
    """Return the number of instants of a command."""
    out, _ = start(home, COMMANDS[command], 0, signal.SIGINT, False).communicate()
    return int(out.split()[-1])


def interrupt(home: Path, command: str, way: str, at: int) -> str | None:
    """Interrupt a command at an instant; return what is wrong with its end, if anything, and ``""`` if it had ended."""
    shutil.rmtree(home / "new", ignore_errors=True)
    process = start(home, COMMANDS[command], at, *WAYS[way])
    out, err = process.communicate(timeout=120)
    left = outlives(process.pid)
    said = [line for line in err.splitlines() if not line.startswith(OWN)]
    if left:
        return f"left behind: {left}"
    if "interrupted at" not in out:
        return ""
    if process.returncode != INTERRUPTED or said not in ([], [FAREWELL]):
        return f"status {process.returncode}, {out.splitlines()[-1]}: {err}"
    return None


def outlives(leader: int) -> list[str]:
    """Return the command lines of a process group that are still there after seconds."""
    deadline = time.monotonic() + 10
    while (found := group(leader)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def group(leader: int) -> list[str]:
    """Return the command lines of the living processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, process_group = (path / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(process_group) == leader and state not in "ZX":
                found.append((path / "cmdline").read_text().replace("\0", " "))
    return found


def prepare(home: Path) -> None:
    """Make the results that commands read."""
    words = [sys.executable, "-m", "gradbench", *RUN, "done"]
    subprocess.run(words, cwd=home, check=True, capture_output=True)


def spread(count: int, instants: int) -> list[int]:
    """Return instants spread evenly over ``count``."""
    return [1 + round(index * (count - 1) / max(1, instants - 1)) for index in range(instants)]


def main() -> None:
    """Interrupt every command in every way; print the number of interrupts, and stop at the first fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--instants", type=int, default=60, help="instants of each command, over which ways take turns"
    )
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    options = parser.parse_args()
    hit = dict.fromkeys(options.commands, 0)
    with tempfile.TemporaryDirectory(prefix="interrupts-") as name:
        home = Path(name)
        prepare(home)
        for command in options.commands:
            count = count_instants(home, command)
            for index, at in enumerate(spread(count, options.instants)):
                way = list(WAYS)[index % len(WAYS)]
                if fault := interrupt(home, command, way, at):
                    raise SystemExit(f"{command}, {way} at {at} of {count}: {fault}")
                hit[command] += fault is None
    print(json.dumps(hit))


if __name__ == "__main__":
    main()

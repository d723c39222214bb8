"""Run a command, and end with it everything that it started, however far away that went.

    python keeper.py COMMAND [ARGUMENT …]

Orphans of the command become children of this process. All of them are killed once the command has ended, or once
standard input has something to read or is closed: so also when whoever started this process was killed. SIGTERM is
passed on to the command.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

import psutil

PR_SET_CHILD_SUBREAPER = 36


def kill_descendants() -> None:
    """Kill every process below this one, those included that are started meanwhile."""
    while children := [
        child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE
    ]:
        for child in children:
            child.kill()
        time.sleep(0.01)


def kill_on_input() -> None:
    """Wait for standard input, then kill."""
    os.read(0, 1)
    kill_descendants()


def main() -> None:
    """Run the command, and reap all that it left."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda *_: command.terminate())
    threading.Thread(target=kill_on_input, daemon=True).start()
    while True:
        try:
            pid, _ = os.wait()
        except ChildProcessError:
            return
        if pid == command.pid:
            kill_descendants()


if __name__ == "__main__":
    main()

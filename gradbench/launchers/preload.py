"""Forkserver preload: import torch and gradbench once, so that forked workers start in milliseconds."""

import ctypes
import gc
import importlib
import signal
import sys

from gradbench import streams

DEATH_OF_PARENT = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>


def end_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, however it ends.

    Otherwise the server would go on importing for seconds after a run has been refused or interrupted. Workers do not
    inherit this setting: they exit when their pipe closes, after saving their stack.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH_OF_PARENT, signal.SIGKILL)


def import_and_freeze() -> None:
    """Import the modules and exclude their objects from garbage collection.

    Importing is a fifth faster without collections, and workers share the memory pages as long as no collection
    writes to them.
    """
    gc.disable()
    importlib.import_module("gradbench.launchers.worker")
    importlib.import_module("gradbench.sweep.plan")
    gc.freeze()
    gc.enable()


end_with_parent()
streams.protect()
sys.excepthook = lambda *_: None  # the parent says in one line that this process has ended
import_and_freeze()

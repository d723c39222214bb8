"""Compiling what has been recorded with torch's inductor: fewer passes over memory, for seconds of compilation."""

import contextlib
import logging
import os
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from gradbench.errors import UsageError
from gradbench.grammar import one_line
from gradbench.tape import Recording, record

OPTIONS = {"deterministic": True}
"""Of inductor, where this torch has them: no choice by a stopwatch may change what is computed."""


def compiled(recording: Recording, args: tuple[Any, ...]) -> Callable[..., Any]:
    """Compile a recording for tensors of the shapes and types of just these.

    Sums may be taken in another order than recorded, so results differ by rounding; the same recording compiled
    again, in any process, gives the same bits on the same machine. What was compiled once is found in inductor's
    own cache, ``TORCHINDUCTOR_CACHE_DIR``.

    Args:
        recording: of a function whose results need no gradient.
        args: containers of tensors, as the function gets them.

    Raises:
        RuntimeError: of some kind, where there is no compiler that works.
    """
    import torch._inductor as inductor
    from torch._inductor import config

    config.compile_threads = 1  # else a pool of processes would stay behind a worker that is killed
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # a CPU needs no CUDA runtime
    options = {name: value for name, value in OPTIONS.items() if name in inductor.list_options()}
    output = recording.graph.output_node()
    results, form = tree_flatten(output.args[0])
    output.args = (tuple(results),)
    run = inductor.compile(recording.module, [*recording.dense(args)], options=options)
    return lambda *given: tree_unflatten(run(*recording.dense(given)), form)


def check(device: torch.device) -> None:
    """Try to compile something.

    Raises:
        UsageError: where that fails.
    """
    x = torch.ones(8, device=device)
    try:
        with contextlib.redirect_stderr(None):
            compiled(record(torch.sin, (x,))[1], (x,))(x)
    except Exception as error:  # inductor, its subprocesses and the linker have a dozen
        reason = one_line(error) if isinstance(error, OSError) else type(error).__name__
        raise UsageError(
            f"compile=true needs a C++ compiler that works, and {os.environ.get('CXX', 'g++')} did not ({reason}); "
            "install g++ and Python's headers, or name another in the variable CXX, or leave compile=true out"
        ) from error

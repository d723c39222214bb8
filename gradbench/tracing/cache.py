"""Trace a function at its first call, and replay the trace from then on, in every stack of the same program."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gradbench.functional.torch_internals import tree_leaves, tree_map
from gradbench.tracing.passes import rewrite
from gradbench.tracing.tracer import Trace, trace

CAPACITY = 64
"""Traces that a process keeps for stacks to come; the next one empties the cache."""

TRACE_CACHE: dict[Hashable, Trace] = {}
"""Key -> trace, of this process."""


def traced(function: Callable[..., Any], key: Hashable, donated: int = 0) -> Callable[..., Any]:
    """Return a function that runs the rewritten trace of another one.

    It does so from the first call on: what is computed must not depend on when a stack was resumed.

    Args:
        function: of tensors and containers of them; pure, and its course depends on no tensor's value.
        key: functions with equal keys must compute the same for tensors of equal shapes.
        donated: number of arguments, from the first, whose tensors the caller will not read again: results may be
            written over them. The function returns a tuple, whose first items have the form of these arguments and will
            be donated at the next call: no two of their tensors share memory.

    Raises:
        UntraceableError: at the first call, as :func:`gradbench.tracing.tracer.trace` does.
    """
    kept: list[Trace] = []  # for as long as the stack: CUDA graphs read a trace's constants

    def replay(*args: Any) -> Any:
        if not kept:
            if key not in TRACE_CACHE:
                if len(TRACE_CACHE) == CAPACITY:
                    TRACE_CACHE.clear()
                TRACE_CACHE[key] = rewritten(function, args, donated)
            kept.append(TRACE_CACHE[key])
        # with gradients enabled, or aten::lstm would not return what its traced derivative reads
        with torch.inference_mode(), torch.enable_grad():
            return kept[0](*args)

    return replay


@contextmanager
def dropped_afterwards() -> Iterator[None]:
    """Forget the traces that are made inside the block: those of a trial are of no stack to come."""
    before = dict(TRACE_CACHE)
    try:
        yield
    finally:
        TRACE_CACHE.clear()
        TRACE_CACHE.update(before)


def rewritten(function: Callable[..., Any], args: tuple[Any, ...], donated: int) -> Trace:
    """Return a function's trace for tensors of the shapes and types of these arguments, rewritten."""
    made = trace(function, tree_map(materialize, args))[
        1
    ]  # the result is dropped before anything else is made
    rewrite(made, tree_leaves(args)[0].device.type, donated=len(tree_leaves(args[:donated])))
    return made


def materialize(tensor: Tensor) -> Tensor:
    """Return a contiguous tensor that autograd accepts: a copy of one that was made in inference mode."""
    whole = torch.contiguous_format
    return tensor.clone(memory_format=whole) if tensor.is_inference() else tensor.contiguous()

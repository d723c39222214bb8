"""Rewrite a trace: fewer operations, faster ones, and fewer passes over memory, one file for each rewrite.

Results differ by rounding at most, and the same trace always becomes the same program. Any rewrite can be left out by
its name. None touches what the traced function itself writes to.

Each file says what it rewrites, when that is valid, and its gain: the time of a step without the rewrite over that with
all of them, on the stack that gains most, measured by ``experiments/throughput/passes.py`` on a CPU
(``results/throughput/passes.csv`` has all stacks, with intervals).

Here belongs what is valid for any graph of ATen operations. What is specific to a network is written into the network.
"""

from collections.abc import Callable, Collection

import torch
from torch.fx import Graph

from gradbench.tracing.passes.alignment import align_cells
from gradbench.tracing.passes.biases import fuse_biases
from gradbench.tracing.passes.calls import call_methods
from gradbench.tracing.passes.common import eliminate_common_subexpressions
from gradbench.tracing.passes.constants import fold_constants
from gradbench.tracing.passes.graph import eliminate_dead_code, repropagate
from gradbench.tracing.passes.inplace import reuse_buffers, separate_results
from gradbench.tracing.passes.products import transpose_matmuls
from gradbench.tracing.passes.scaling import hoist_scaling
from gradbench.tracing.passes.views import simplify_views
from gradbench.tracing.tracer import Trace

Pass = Callable[[Graph, str], None]
"""``rewrite(graph, device type)``: changes the graph in place."""

ARITHMETIC: tuple[Pass, ...] = (
    simplify_views,
    hoist_scaling,
    transpose_matmuls,
    simplify_views,
    eliminate_common_subexpressions,
    fuse_biases,
    simplify_views,
    align_cells,
)
"""Rewrites of what is computed, in order: views are looked through again wherever others have left new ones."""

NAMES = (
    *dict.fromkeys(rewrite.__name__ for rewrite in ARITHMETIC),
    fold_constants.__name__,
    reuse_buffers.__name__,
    call_methods.__name__,
)
"""What can be left out."""


def rewrite(trace: Trace, device: str, donated: int = 0, without: Collection[str] = ()) -> None:
    """Apply all passes to a trace, before it is run for the first time.

    Args:
        trace: is changed in place.
        device: type of the device that it runs on.
        donated: number of inputs, from the first, that the caller will not read again: results may overwrite them. As
            many results, from the first, will be donated to the next call.
        without: names of passes to leave out.
    """
    graph = trace.graph
    # shapes are inferred by running operations: on the device a wide stack's take no time
    with torch.device(device):
        for apply in ARITHMETIC:
            if apply.__name__ not in without:
                apply(graph, device)
                eliminate_dead_code(graph)
        repropagate(graph)
    if fold_constants.__name__ not in without:
        fold_constants(trace)
        eliminate_dead_code(graph)
    separate_results(graph, donated)
    if reuse_buffers.__name__ not in without:
        reuse_buffers(graph, donated)
        eliminate_dead_code(graph)
    if call_methods.__name__ not in without:
        call_methods(graph, device)
    for node in graph.nodes:
        node.meta.pop("fixed", None)

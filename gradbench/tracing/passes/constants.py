"""Constants: compute what depends on no input once, when the function is traced.

Gain: 1.04 (MLP, clipping). Valid where the function does not write to the result.
"""

from gradbench.tracing.aliasing import touched
from gradbench.tracing.passes.graph import value
from gradbench.tracing.tracer import Trace


def fold_constants(trace: Trace) -> None:
    """Read small results that depend on no input from constants instead of computing them at each call.

    The tracer has kept them, up to ``CONSTANT_SIZE`` numbers each; larger ones are filled in as fast as they are read.
    """
    graph = trace.graph
    fixed_in_time = touched(graph)
    for node in graph.nodes:
        fixed = node.meta.get("fixed")
        if fixed is None or node.op != "call_function" or node in fixed_in_time:
            continue
        if fixed.stride() == value(node).stride() and any("fixed" not in user.meta for user in node.users):
            trace.constants[node.name] = fixed
            with graph.inserting_before(node):
                constant = graph.get_attr(node.name)
            constant.meta["val"] = value(node)
            node.replace_all_uses_with(constant)

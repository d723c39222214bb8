"""Common subexpressions: compute nothing twice.

torch's own pass, ``torch.fx.passes.dialect.common.cse_pass``, is for graphs without in-place operations: it merges what
reads a tensor before and after it is written to.

Gain: 1.10 (LSTM, gp). Valid for operations that read nothing that is written to; none draws random numbers.
"""

import math
from typing import Any

from torch.fx import Graph, Node

from gradbench.tracing.aliasing import touched


def eliminate_common_subexpressions(graph: Graph, _device: str) -> None:
    """Use the first of several equal operations on equal inputs for all of them.

    They must return the same type, too: the arguments 2 and 2.0 are equal, but may give integers and fractions.
    """
    fixed_in_time = touched(graph)
    first: dict[Any, Node] = {}
    for node in graph.nodes:
        if node.op == "call_function" and node not in fixed_in_time:
            dtype = getattr(node.meta.get("val"), "dtype", None)
            same = first.setdefault((dtype, hashable((node.target, node.args, node.kwargs))), node)
            if same is not node:
                node.replace_all_uses_with(same)


def hashable(argument: Any) -> Any:
    """Return an operation's arguments as tuples, which a dict can look up."""
    if isinstance(argument, list | tuple):
        return tuple(map(hashable, argument))
    if isinstance(argument, float) and argument == 0.0:  # which equals -0.0
        return argument, math.copysign(1.0, argument)
    if isinstance(argument, dict):
        return tuple(sorted((name, hashable(value)) for name, value in argument.items()))
    return argument

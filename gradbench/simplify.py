"""What has been recorded, rewritten: fewer operations, quicker ones, and fewer passes over memory.

Results differ by rounding at most. The same recording always becomes the same program.
"""

from collections.abc import Collection, Sequence
from types import BuiltinFunctionType, MethodDescriptorType
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves, tree_map_only

from gradbench.tape import LARGEST, Recording, shape_of

aten = torch.ops.aten

RESHAPES = (aten.view.default, aten._unsafe_view.default)

VIEWS = (
    *RESHAPES,
    aten.detach.default,
    aten.expand.default,
    aten.permute.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.transpose.int,
    aten.unsqueeze.default,
)
"""Operations that only name numbers anew."""

ZEROS = (aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default)

LINEAR = (
    *VIEWS,
    aten.clone.default,
    aten.neg.default,
    aten.sum.default,
    aten.sum.dim_IntList,
    aten.mul.Scalar,
    aten.div.Scalar,
    aten.threshold_backward.default,
)
"""Operations that return zeros where what they are given first is zero."""

BILINEAR = (aten.mul.Tensor, aten.bmm.default, aten.mm.default)
"""Operations that return zeros where either of what they are given is zero."""

NARROW = 16
"""Columns below which a CPU takes several times as long for a product as for its transpose, of as few rows."""

IN_PLACE = {
    aten.add.Tensor: aten.add_.Tensor,
    aten.addcmul.default: aten.addcmul_.default,
    aten.clamp.Tensor: aten.clamp_.Tensor,
    aten.div.Scalar: aten.div_.Scalar,
    aten.div.Tensor: aten.div_.Tensor,
    aten.exp.default: aten.exp_.default,
    aten.maximum.default: aten.maximum.out,
    aten.minimum.default: aten.minimum.out,
    aten.mul.Scalar: aten.mul_.Scalar,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.neg.default: aten.neg_.default,
    aten.relu.default: aten.relu_.default,
    aten.sigmoid.default: aten.sigmoid_.default,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.tanh.default: aten.tanh_.default,
    aten.threshold_backward.default: aten.threshold_backward.grad_input,
}
"""Operations that can write what they return over what they are given first."""


def simplify(recording: Recording, kind: str, compiles: bool = False, free: int = 0) -> None:
    """Rewrite a recording in place, before it is run.

    Args:
        recording: in its graph each node's ``meta["val"]`` has its result's shape, strides and type.
        kind: of device that it runs on.
        compiles: leave to a compiler what it does by itself.
        free: how many inputs, from the first, nobody uses afterwards.
    """
    graph = recording.graph
    # shapes are found by running operations: a wide stack's take a GPU no time
    with torch.device(kind):
        skip_views(graph)
        skip_zeros(graph, kind)
        scale_late(graph, kind)
        clamp_twice(graph, kind)
        turn_products(graph, kind)
        skip_views(graph)
        skip_repetitions(graph)
        add_biases(graph)
        settle(graph)
    if not compiles:
        keep_constants(recording)
        write_over(graph, free)
        for node in graph.nodes:
            call_directly(node)
    for node in graph.nodes:
        node.meta.pop("fixed", None)


def value(node: Node) -> Tensor:
    """Return a tensor on ``meta`` that is shaped like a node's result."""
    shaped: Tensor = node.meta["val"]
    return shaped


def source(node: Node) -> Node:
    """Return what an operation is given first."""
    (first, *_rest) = node.all_input_nodes
    return first


def insert(before: Node, operation: Any, *args: Any, **kwargs: Any) -> Node:
    """Return a new node before another."""
    with before.graph.inserting_before(before):
        node = before.graph.call_function(operation, args, kwargs)
    node.meta["val"] = run(node)
    return node


def filled(operation: Any, shape: list[int], before: Node, kind: str) -> Node:
    """Return zeros or ones in front of a node, of the type of its result."""
    dtype = value(before).dtype
    made = insert(before, operation, shape, dtype=dtype, device=torch.device(kind))
    if value(made).numel() <= LARGEST:
        made.meta["fixed"] = operation(shape, dtype=dtype, device=torch.device(kind))
    return made


def run(node: Node) -> Any:
    """Return what an operation's result is shaped like, from running it on zeros: ``meta`` imports torch's compiler."""

    def zeros(given: Node) -> Any:
        return tree_map_only(
            Tensor,
            lambda shaped: torch.empty_strided(shaped.shape, shaped.stride(), dtype=shaped.dtype).zero_(),
            given.meta["val"],  # of several results a list
        )

    result = node.target(*map_arg(node.args, zeros), **map_arg(node.kwargs, zeros))  # type: ignore[operator]
    return tree_map_only(Tensor, shape_of, result)


def replace(node: Node, by: Node) -> None:
    """Use one node in another's place; :func:`settle` sees to it that numbers may lie in another order."""
    differs = value(by).stride() != value(node).stride()
    by.meta["moved"] = differs or any(one.meta.get("moved", False) for one in (node, by))
    node.replace_all_uses_with(by)


def prune(graph: Graph) -> None:
    """Leave out what nobody reads, and what only that read."""
    for node in reversed(graph.nodes):
        if not node.users and node.op in ("call_function", "get_attr") and not written_by(node):
            graph.erase_node(node)


def settle(graph: Graph) -> None:
    """Follow up on numbers that lie in another order than recorded: copy them where no view fits any more."""
    prune(graph)
    for node in graph.nodes:
        if node.op != "call_function" or not any(given.meta.get("moved") for given in node.all_input_nodes):
            continue
        try:
            after = run(node)
        except RuntimeError:  # a view
            copy = insert(node, aten.clone.default, source(node), memory_format=torch.contiguous_format)
            node.args = (copy, *node.args[1:])
            after = run(node)
        same = isinstance(after, Tensor) and after.stride() == value(node).stride()
        node.meta["moved"] = node.meta.get("moved", False) or not same
        node.meta["val"] = after


def call_directly(node: Node) -> None:
    """Call an operation as a tensor's method, or as torch's function, where it is one: a microsecond or two faster."""
    if (method := method_of(node)) is not None:
        node.op, (node.target, node.args, node.kwargs) = "call_method", method
        return
    schema = getattr(node.target, "_schema", None)
    if schema is None or any("Tensor?[]" in str(part.type) for part in schema.arguments):
        return  # what may be no tensor only operations take in lists
    name = schema.name.removeprefix("aten::")
    method, function = getattr(torch.Tensor, name, None), getattr(torch, name, None)
    if name.startswith("linalg_"):
        function = getattr(torch.linalg, name.removeprefix("linalg_"), None)
    first, *rest = schema.arguments
    of_tensor = first.name == "self" and str(first.type) == "Tensor" and not any(part.is_out for part in rest)
    if of_tensor and isinstance(method, MethodDescriptorType):
        node.op, node.target = "call_method", name
    elif isinstance(function, BuiltinFunctionType):
        node.target = function


def method_of(node: Node) -> tuple[str, tuple[Any, ...], dict[str, Any]] | None:
    """Return a method of another name that does what an operation does, and its arguments; none where there is none."""
    if node.target in RESHAPES:
        return "view", node.args, {}
    if node.target is aten.slice.Tensor and len(node.args) == 4:
        start, stop = reach(node)
        return "narrow", (*node.args[:2], start, max(stop - start, 0)), {}
    if node.target is aten.split.Tensor:
        size: Any
        axis: Any
        size, axis = (*node.args[1:], 0)[:2]
        sizes = [part.shape[axis] for part in torch.split(value(source(node)), size, axis)]
        return "split_with_sizes", (source(node), sizes, axis), {}
    if (
        node.target is aten._to_copy.default
        and value(node).dtype != value(source(node)).dtype  # else it would be no copy
        and node.kwargs.keys() <= {"dtype", "device", "layout"}
    ):
        return "to", node.args, {name: node.kwargs[name] for name in node.kwargs if name != "layout"}
    return None


def keep_constants(recording: Recording) -> None:
    """Compute once what depends on no input."""
    graph = recording.graph
    kept = mutated(graph)
    for node in graph.nodes:
        fixed = node.meta.get("fixed")
        if fixed is None or node.op != "call_function" or node in kept:
            continue
        if fixed.stride() == value(node).stride() and any("fixed" not in user.meta for user in node.users):
            recording.constants[node.name] = fixed
            with graph.inserting_before(node):
                constant = graph.get_attr(node.name)
            constant.meta["val"] = value(node)
            node.replace_all_uses_with(constant)
    prune(graph)


# ---- memory ------------------------------------------------------------------------------------------------


def is_view(node: Node) -> bool:
    """Return whether an operation returns memory that it was given."""
    if node.op != "call_function":
        return False
    schema = getattr(node.target, "_schema", None)  # none: an item of several results
    return schema is None or node.target in RESHAPES or any(part.alias_info for part in schema.returns)


def memory_of(graph: Graph, apart: Collection[Node] = ()) -> dict[Node, Node]:
    """Return for each node the one that made the memory in which its result lies.

    Args:
        graph: of these nodes.
        apart: views that count as makers of their own.
    """
    makers: dict[Node, Node] = {}
    for node in graph.nodes:
        own = node in apart or not is_view(node)
        makers[node] = node if own else makers[(*written_by(node), source(node))[0]]
    return makers


def cut_up(graph: Graph) -> dict[Node, list[Node]]:
    """Return results [K, ...] that are read in slices only, which are all of their rows: result -> slices, in order."""
    found = {}
    for node in graph.nodes:
        slices = list(node.users)
        if node.op == "call_function" and not is_view(node) and all(is_slice(one) for one in slices):
            slices.sort(key=reach)
            if slices and covers(node, slices) and value(node).is_contiguous():
                found[node] = slices
    return found


def is_slice(node: Node) -> bool:
    """Return whether an operation takes some rows of [K, ...], one after another."""
    return bool(node.target is aten.slice.Tensor and len(node.args) == 4 and node.args[1] == 0)


def reach(piece: Node) -> tuple[int, int]:
    """Return where a slice starts along its axis, and where it has ended."""
    axis: Any
    _whole, axis, *ends = piece.args
    start, stop, _step = slice(*ends).indices(value(source(piece)).shape[axis])
    return start, stop


def covers(whole: Node, pieces: Sequence[Node]) -> bool:
    """Return whether slices one after another are all of what they are taken of."""
    if not all(is_slice(piece) and source(piece) is whole for piece in pieces):
        return False
    starts, stops = zip(*map(reach, pieces), strict=True)
    return [*starts, len(value(whole))] == [0, *stops]


def mutated(graph: Graph) -> set[Node]:
    """Return the nodes whose memory the recorded function itself writes to again, and those that read it.

    They stay as they are: when they are computed matters.
    """
    targets = [given for node in graph.nodes for given in written_by(node)]
    if not targets:
        return set()
    makers = memory_of(graph)
    written = {makers[given] for given in targets}
    return {
        node
        for node in graph.nodes
        if written.intersection(makers[one] for one in (node, *node.all_input_nodes))
    }


def is_current(earlier: Node, later: Node) -> bool:
    """Return whether what one node read is as it was when another one runs."""
    makers = memory_of(later.graph)
    read, ran = {makers[given] for given in earlier.all_input_nodes}, False
    for node in later.graph.nodes:
        if node is later:
            return True
        if ran and any(makers[given] in read for given in written_by(node)):
            return False
        ran = ran or node is earlier
    return True


def written_by(node: Node) -> list[Node]:
    """Return what an operation is given to write to."""
    if node.target is aten._fused_adam_.default:  # and to gradients, says its schema: where it unscales them
        return [one for index in (0, 2, 3) for one in node.args[index]]  # type: ignore[union-attr,misc]
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    given = dict(zip((part.name for part in schema.arguments), node.args, strict=False)) | node.kwargs
    written = [
        given.get(part.name) for part in schema.arguments if part.alias_info and part.alias_info.is_write
    ]
    return [one for one in tree_leaves(written) if isinstance(one, Node)]


def write_over(graph: Graph, free: int) -> None:
    """Have operations write over what they are given, where nobody reads it afterwards: nor, of inputs, the caller."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    ours, pieces = set(inputs[:free]), cut_up(graph)
    makers = memory_of(graph, apart={piece for several in pieces.values() for piece in several})
    place = {node: index for index, node in enumerate(graph.nodes)}
    last = {makers[given]: node for node in graph.nodes for given in node.all_input_nodes}
    heirs: dict[Node, Node] = {}  # who wrote over whose memory

    def maker(node: Node) -> Node:
        made = makers[node]
        while made in heirs:
            made = heirs[made]
        return made

    def may_overwrite(given: Any, node: Node) -> bool:
        if not isinstance(given, Node) or (maker(given).op != "call_function" and maker(given) not in ours):
            return False
        whole = maker(given).meta.get("val")
        return (
            last[maker(given)] is node
            and isinstance(whole, Tensor)
            and whole.numel() == value(given).numel()
            and whole.is_contiguous()
            and value(given).is_contiguous()
            and value(node).is_contiguous()
            and alike(given, node)
            and all(other is given or maker(other) is not maker(given) for other in node.all_input_nodes)
        )

    def inherit(node: Node, given: Node) -> None:
        last[maker(given)] = last.get(node, node)
        heirs[node] = maker(given)

    def put_back(node: Node) -> Node | None:
        """Return what was cut up, where a node puts together what was written over all of it."""
        if not is_put_together(node):
            return None
        parts: Any = node.args[0]
        for whole, several in pieces.items():
            if [maker(part) for part in parts] == several and all(map(same_place, parts, several)):
                return whole
        return None

    def same_place(part: Node, piece: Node) -> bool:
        return alike(part, piece) and value(part).is_contiguous()

    for node in graph.nodes:
        if (whole := put_back(node)) is not None:
            # one memory again: whoever reads any of it last is the last of its readers
            readers = [last[memory] for memory in (node, *pieces[whole]) if memory in last]
            last[node] = max(readers, key=place.__getitem__)
            heirs.update(dict.fromkeys([whole, *pieces[whole]], node))
            node.replace_all_uses_with(whole)
        if node.target is aten.clone.default and may_overwrite(source(node), node):
            inherit(node, source(node))
            node.replace_all_uses_with(source(node))
        if node.target not in IN_PLACE:
            continue
        first, *rest = node.args
        commutes = node.target in (aten.add.Tensor, aten.mul.Tensor) and not node.kwargs
        if commutes and may_overwrite(rest[0], node) and not may_overwrite(first, node):
            node.args = (rest[0], first)
        if may_overwrite(node.args[0], node):
            given = node.args[0]
            node.target = IN_PLACE[node.target]
            node.kwargs = node.kwargs | {
                part.name: given for part in node.target._schema.arguments if part.is_out
            }
            inherit(node, given)
    prune(graph)


# ---- views -------------------------------------------------------------------------------------------------


def skip_views(graph: Graph) -> None:
    """Leave out what changes nothing, and look through one view at what another was taken of."""
    kept = mutated(graph)
    for node in graph.nodes:
        if node.target in RESHAPES and source(node).target in RESHAPES:
            origin = source(source(node))
            if can_view(origin, node):
                node.args = (origin, node.args[1])
        if (same := unchanged_by(node) or part_of(node, kept) or whole_of(node, kept)) is not None:
            replace(node, same)
    prune(graph)


def unchanged_by(node: Node) -> Node | None:
    """Return what an operation is given, where it returns just that."""
    if node.target is aten.mul.Scalar and node.args[1] == 1:
        return source(node)
    if node.target in (*RESHAPES, aten.expand.default, aten.detach.default, aten.slice.Tensor):
        return source(node) if value(source(node)).shape == value(node).shape else None
    if node.target is aten.permute.default and node.args[1] == sorted(node.args[1]):  # type: ignore[arg-type]
        return source(node)
    if node.target is aten.transpose.int and source(node).target is aten.transpose.int:
        return source(source(node)) if node.args[1:] == source(node).args[1:] else None
    if is_turn(node) and is_turn(source(node)):
        return source(source(node))
    if node.target is aten.select.int and source(node).target in RESHAPES:  # a column, of a vector
        vector = source(source(node))
        return vector if value(vector).shape == value(node).shape == value(source(node)).shape[:1] else None
    return None


def part_of(node: Node, kept: set[Node]) -> Node | None:
    """Return which of the tensors that were put together a slice is."""
    if node.target is not aten.slice.Tensor or not is_put_together(source(node)):
        return None
    if node in kept or source(node) in kept:
        return None
    parts: Any = source(node).args[0]
    start = 0
    for part in parts:
        stop = start + len(value(part))
        if node.args[1:] == (0, start, stop):
            return part  # type: ignore[no-any-return]
        start = stop
    return None


def whole_of(node: Node, kept: set[Node]) -> Node | None:
    """Return what was cut up, where a node puts the slices together again."""
    if not is_put_together(node) or node in kept:
        return None
    parts: Any = node.args[0]
    whole = source(parts[0]) if is_slice(parts[0]) else None
    return whole if whole is not None and covers(whole, parts) else None


def can_view(origin: Node, result: Node) -> bool:
    """Return whether a tensor can be seen in the shape of another without a copy."""
    try:
        value(origin).view(value(result).shape)
    except RuntimeError:
        return False
    return True


# ---- arithmetic --------------------------------------------------------------------------------------------


def skip_zeros(graph: Graph, kind: str) -> None:
    """Leave out arithmetic with zeros: much of a penalty's derivative, where activations are piecewise linear.

    Zero times infinity counts as zero: a network with an infinite weight has diverged, and its loss says so.
    """
    zero: set[Node] = set()
    kept = mutated(graph)
    for node in graph.nodes:
        if node in kept or node.op != "call_function":
            continue
        given = [argument for argument in node.args[:2] if isinstance(argument, Node)]
        if (
            node.target in ZEROS
            or (node.target in LINEAR and source(node) in zero)
            or (node.target in BILINEAR and zero.intersection(given))
            or (node.target is aten.add.Tensor and len(given) == 2 and zero.issuperset(given))
        ):
            zero.add(node)
        elif node.target is aten.add.Tensor and not node.kwargs:
            for one, other in (given, reversed(given)) if len(given) == 2 else ():
                if one in zero and alike(other, node):
                    replace(node, other)
    for node in list(graph.nodes):
        if node in zero and node.target not in ZEROS:
            replace(node, filled(aten.zeros.default, list(value(node).shape), node, kind))
    prune(graph)


def alike(one: Node, other: Node) -> bool:
    """Return whether two results have the same shape and type."""
    return (value(one).shape, value(one).dtype) == (value(other).shape, value(other).dtype)


def scale_late(graph: Graph, kind: str) -> None:
    """Scale a vector's norm, and a step along it, instead of the vector: |s g| = |s| |g|, r (s g) = (r s) g.

    How far a step leads is known from what was added: |(p + r g) - p| = |r| |g|.
    """
    kept = mutated(graph)
    for node in list(graph.nodes):
        if node in kept:
            continue
        if takes_norms(node):
            replace(node, norm_of(node, source(node)))
        elif node.target is aten.addcmul.default and (
            scaled := scaled_vector(node.args[2], node) or scaled_vectors(node.args[2], node, kind)
        ):
            vector, factor = scaled
            rate = node.args[1]
            if alike(rate, factor):
                node.args = (node.args[0], insert(node, aten.mul.Tensor, rate, factor), vector)
    prune(graph)


def clamp_twice(graph: Graph, kind: str) -> None:
    """Clamp from below, then from above: by numbers that repeat, a CPU clamps one coordinate at a time in one go."""
    for node in graph.nodes:
        if kind == "cpu" and node.target is aten.clamp.Tensor and len(node.all_input_nodes) == 3:
            numbers, least, most = node.all_input_nodes
            raised = insert(node, aten.maximum.default, numbers, least)
            replace(node, insert(node, aten.minimum.default, raised, most))
    prune(graph)


def takes_norms(node: Node) -> bool:
    """Return whether an operation takes a norm of each of some vectors [K, P]."""
    if node.target is not aten.linalg_vector_norm.default or node.kwargs or value(source(node)).dim() != 2:
        return False
    order, *axes = node.args[1:]
    return bool(order != 0 and axes == [[1]] and value(source(node)).dtype == value(node).dtype)


def norm_of(node: Node, vectors: Node) -> Node:
    """Return the norms of vectors [K, P], in front of a node that takes norms, from those of what they were made of."""
    if scaled := scaled_vector(vectors, node) or step_of(vectors, node):
        vectors, factor = scaled
        size = insert(node, aten.abs.default, insert(node, aten.select.int, factor, 1, 0))
        return insert(node, aten.mul.Tensor, norm_of(node, vectors), size)
    if is_put_together(vectors) and is_current(vectors, node):
        parts: Any = vectors.args[0]
        return insert(node, aten.cat.default, [norm_of(node, part) for part in parts])
    return insert(node, aten.linalg_vector_norm.default, vectors, *node.args[1:])


def step_of(vectors: Node, node: Node) -> tuple[Node, Node] | None:
    """Return g and r, where what a node is given is p ± r g, less p."""
    if vectors.target is not aten.sub.Tensor or vectors.kwargs or not is_current(vectors, node):
        return None
    there, here = vectors.args
    if not isinstance(there, Node) or there.target is not aten.addcmul.default or not is_current(there, node):
        return None
    rate: Any
    vector: Any
    origin, rate, vector = there.args
    plain = origin is here and there.kwargs.get("value", 1) in (1, -1)
    return (vector, rate) if plain and alike(vector, vectors) and value(rate).shape[1:] == (1,) else None


def scaled_vector(vectors: Any, node: Node) -> tuple[Node, Node] | None:
    """Return vectors [K, P] and factors [K, 1], where what a node is given is their product."""
    if (
        not isinstance(vectors, Node)
        or vectors.target is not aten.mul.Tensor
        or not is_current(vectors, node)
    ):
        return None
    vector, factor = vectors.args
    if not isinstance(vector, Node) or not isinstance(factor, Node) or value(vector).dim() != 2:
        return None
    if value(vector).dtype != value(factor).dtype:
        return None
    K, _P = value(vector).shape
    return (vector, factor) if value(factor).shape == (K, 1) else None


def scaled_vectors(vectors: Any, node: Node, kind: str) -> tuple[Node, Node] | None:
    """Return vectors [K, P] and factors [K, 1], where what a node is given is put together of products and others."""
    if not isinstance(vectors, Node) or not is_put_together(vectors) or not is_current(vectors, node):
        return None
    parts: Any = vectors.args[0]
    products = [scaled_vector(part, node) for part in parts]
    if not any(products) or any(value(part).dim() != 2 for part in parts):
        return None
    plain, factors = [], []
    for part, product in zip(parts, products, strict=True):
        vector, factor = product or (part, filled(aten.ones.default, [len(value(part)), 1], part, kind))
        plain.append(vector)
        factors.append(factor)
    return insert(node, aten.cat.default, plain), insert(node, aten.cat.default, factors)


def is_put_together(node: Node) -> bool:
    """Return whether an operation puts tensors together along their first axis."""
    return node.target is aten.cat.default and node.args[1:] in ((), (0,))


def turn_products(graph: Graph, kind: str) -> None:
    """Write each product of matrices in the order in which it is read, and none in narrow rows.

    (a b)' = b' a', a copy less; and a CPU takes several times as long for a few columns as for as few rows. Of a column
    and a row it is no sum at all.
    """
    kept = mutated(graph)
    for node in list(graph.nodes):
        if node.target is not aten.bmm.default or node in kept:
            continue
        left, right = node.args
        readers = list(node.users)
        if value(left).shape[2] == 1:
            replace(node, insert(node, aten.mul.Tensor, left, right))
        elif (
            len(readers) == 1
            and is_turn(readers[0])
            and all(map(is_copy, readers[0].users))
            and kept.isdisjoint(readers[0].users)
        ):
            turned = turned_product(node)
            for copy in list(readers[0].users):
                replace(copy, turned)
        elif kind == "cpu" and value(node).shape[2] < NARROW < value(node).shape[1]:
            replace(node, insert(node, aten.transpose.int, turned_product(node), 1, 2))
    prune(graph)


def turned_product(node: Node) -> Node:
    """Return the transpose of a product, as a product."""
    return insert(node, aten.bmm.default, *turned_factors(node))


def turned_factors(node: Node) -> tuple[Node, Node]:
    """Return the factors of a product's transpose."""
    left, right = (insert(node, aten.transpose.int, factor, 1, 2) for factor in node.args)
    return right, left


def is_turn(node: Node) -> bool:
    """Return whether an operation transposes each matrix of a stack."""
    if node.target is aten.permute.default:
        return bool(node.args[1] == [0, 2, 1])
    stack = node.target is aten.transpose.int and value(node).dim() == 3
    return stack and set(node.args[1:]) in ({1, 2}, {-1, -2})


def is_copy(node: Node) -> bool:
    """Return whether an operation copies what it is given, in the order of its axes."""
    return node.target is aten.clone.default and value(node).is_contiguous()


def skip_repetitions(graph: Graph) -> None:
    """Leave out what has been computed before."""
    kept = mutated(graph)
    first: dict[Any, Node] = {}
    for node in graph.nodes:
        if node.op == "call_function" and node not in kept:
            kind = getattr(
                node.meta.get("val"), "dtype", None
            )  # 2 and 2.0 are one argument, and may give two types
            same = first.setdefault((kind, hashable((node.target, node.args, node.kwargs))), node)
            if same is not node:
                node.replace_all_uses_with(same)
    prune(graph)


def hashable(argument: Any) -> Any:
    """Return an operation's arguments as something that a dict can look up."""
    if isinstance(argument, list | tuple):
        return tuple(map(hashable, argument))
    return (
        tuple(sorted((k, hashable(v)) for k, v in argument.items()))
        if isinstance(argument, dict)
        else argument
    )


def add_biases(graph: Graph) -> None:
    """Add to a product of matrices while it is taken."""
    kept = mutated(graph)
    for node in graph.nodes:
        if node.target is not aten.add.Tensor or node.kwargs or node in kept:
            continue
        for term, bias in (node.args, reversed(node.args)):
            if not isinstance(term, Node) or not isinstance(bias, Node) or not alike(term, node):
                continue
            turned = is_turn(term)
            product = source(term) if turned or term.target in RESHAPES else term
            if (
                product.target is aten.bmm.default
                and len(product.users) == len(term.users) == 1
                and product not in kept
                and value(bias).dtype == value(node).dtype
                and (shape := as_bias(bias, term if turned else product)) is not None
            ):
                bias = insert(node, aten.view.default, bias, shape)
                if turned or (term is product and all(map(is_turn, node.users))):
                    factors = product.args if turned else turned_factors(product)
                    bias = insert(node, aten.transpose.int, bias, 1, 2)
                    added = insert(node, aten.baddbmm.default, bias, *factors)
                    replace(node, insert(node, aten.transpose.int, added, 1, 2))
                else:
                    added = insert(node, aten.baddbmm.default, bias, *product.args)
                    replace(node, insert(node, aten.view.default, added, list(value(node).shape)))
                break
    skip_views(graph)


def as_bias(bias: Node, product: Node) -> list[int] | None:
    """Return the shape in which numbers can be added to a product [K, m, n]; none where they cannot, as they lie."""
    K, m, n = value(product).shape
    shape = list(value(bias).shape)
    if value(bias).is_contiguous():
        if shape[0] == K and shape[-1] == n and set(shape[1:-1]) == {1}:
            return [K, 1, n]
        if value(bias).numel() == K * m * n:
            return [K, m, n]
    return shape if len(shape) == 3 else None

"""Rewriting a trace changes how long it takes, never what it gives."""

import math

import pytest
import torch
from gradients import few_examples
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from gradbench.models.networks.mlp import Rectifier
from gradbench.regularizers.clip_value import clip_value
from gradbench.regularizers.weight_clip import weight_clip
from gradbench.tracing.passes import NAMES, rewrite
from gradbench.tracing.tracer import UntraceableError, trace

K, N = 3, 20
"""Matrices in a stack, and their rows; they have N or a few columns, so that some products are narrow."""


class Effort(TorchDispatchMode):
    """Counts what a function costs, whatever its operations are called: numbers that they read and write.

    Views cost nothing, and a number that is repeated by a stride of zero is one.
    """

    def __init__(self):
        super().__init__()
        self.traffic = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given, made = (tensors(tree) for tree in ((args, kwargs), result))
        there = {tensor.untyped_storage().data_ptr() for tensor in given}
        is_view = all(tensor.untyped_storage().data_ptr() in there for tensor in made)
        if not is_view or function._schema.is_mutable:
            self.traffic += sum(map(numbers, given)) + sum(map(numbers, made))
        return result


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def numbers(tensor):
    """Return how many different numbers a tensor holds."""
    return math.prod(
        size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size
    )


def effort(function, *args):
    """Return the numbers that a function reads and writes, and its operations in matrix products."""
    with FlopCounterMode(display=False) as products, Effort() as passes:
        function(*args)
    return passes.traffic, products.get_total_flops()


def rewritten(function, *args, donated=0, without=()):
    """Return a function's trace, rewritten; its first arguments may be written over."""
    _, replay = trace(function, args)
    rewrite(replay, "cpu", donated, without)
    return replay


def stacks(columns=N, count=1):
    return [torch.randn(K, N, columns, dtype=torch.float64) for _ in range(count)]


ODD = torch.Generator().manual_seed(0)
MATRICES = [torch.randn(9, 23, 23, generator=ODD), torch.randn(9, 23, 13, generator=ODD)]


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x @ y,
        lambda x, y: x.mT @ y[:, :, :1],
        lambda x, y: x[:, :1] @ x,
        lambda x, y: y.mT @ x + x[:, :1],
        lambda x, y: torch.nn.functional.layer_norm(x, (23,)) @ y,
        lambda x, y: torch.sigmoid(y) + torch.sigmoid(y.sum() * 0),
        lambda x, y: torch.nn.functional.elu(y),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rewritten_stack_has_the_bits_of_its_parts(function, dtype):
    x, y = (matrix.to(dtype) for matrix in MATRICES)
    whole = rewritten(function, x, y)(x, y)
    assert torch.allclose(whole, function(x, y), rtol=1e-4, atol=1e-4)
    for part in (slice(0, 1), slice(5, 6), slice(3, 5), slice(2, 9)):
        inputs = x[part].clone(), y[part].clone()
        assert torch.equal(rewritten(function, *inputs)(*inputs), whole[part])


def norms(x):
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def stepped(x, rate, slope):
    return torch.addcmul(x, rate, slope, value=-1)


def read_before_and_after(x):
    """Read a view, write to what it is a view of, and read it again."""
    whole = x.clone()
    row = whole[:, :1]
    before = torch.tanh(row)
    whole.add_(1.0)
    return (before - 2.0 * torch.tanh(row)).expand_as(x)


def written_to_afterwards(x):
    """Scale vectors, put others together and take a step, write to what they were made of, and measure them."""
    vectors, own = x.flatten(1).clone(), x.flatten(1).clone()
    scaled, whole = vectors * x[:, 0, :1], torch.cat([vectors[:1], vectors[1:]])
    there = stepped(own, x[:, 0, 1:2], vectors)
    vectors.add_(1.0)
    return (norms(scaled) + norms(whole) + norms(there - own))[:, None, None].expand_as(x)


def copied_by_one(x):
    """Copy by multiplying by one, write to the original, and read both."""
    whole = x.clone()
    copy = torch.ops.aten.mul.Scalar(whole, 1)
    whole.add_(1.0)
    return whole * 2.0 - copy


def cut_unsafely(x):
    """Write to a piece of a tensor between two looks at the whole of it."""
    whole = x + 1.0
    first, _rest = whole.unsafe_chunk(2, 1)
    before = whole.tanh()
    first.add_(5.0)
    return before - whole.tanh()


def mixed_norm(x):
    """Take the norms of vectors of several types put together."""
    rows = x.flatten(1)
    whole = torch.cat([rows[:1].float(), rows[1:2], (rows[2:] > 0).long()])
    return norms(whole)[:, None, None].expand_as(x)


UNARY = {
    "written to afterwards": written_to_afterwards,
    "before and after": read_before_and_after,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "turned": lambda x: x.mT,
    "copied": lambda x: x.mT.contiguous(),
    "negative": torch.neg,
    "shifted": lambda x: x + 1.0,
    "divided": lambda x: x / (1.0 + x.square()),
    "nothing": torch.zeros_like,
    "total": lambda x: x.sum(dim=1, keepdim=True).expand_as(x),
    "flat and back": lambda x: x.flatten(1).view(x.shape) if x.is_contiguous() else x,
    "narrow and back": lambda x: (x @ x[:, :, :3]) @ x[:, :, :3].mT,
    "column by row": lambda x: x[:, :, :1] @ x[:, :1],
    "scaled whole": lambda x: (x.flatten(1) * norms(torch.tanh(x))[:, None]).view_as(x),
    "normed": lambda x: norms(x.flatten(1) * x[:, 0, :1])[:, None, None].expand_as(x),
    "part": lambda x: torch.cat(x.split(7, dim=1), dim=1),
    "ones": lambda x: torch.ones_like(x) + torch.ones_like(x)[:, :1].mul(3.0),
    "a copy written to": lambda x: x.clone().add_(1.0),
    "clamped": lambda x: torch.clamp(x, -x[:, :1].abs(), x[:, :1].abs()),
    "clamped from above": lambda x: torch.clamp(x, max=x[:, :1]),
    "a copy kept while it is written to": copied_by_one,
    "whole numbers by a fraction": lambda x: (
        torch.ops.aten.mul.Scalar((8 * x).round().long(), 1.0) / 8 + x / 3
    ),
    "by one": lambda x: torch.ops.aten.mul.Scalar(x, 1) + x,
    "filled, then halved": lambda x: (
        torch.full_like(x, 3).div_(2) + torch.full_like(x[:, :1], 3, dtype=torch.int64)
    ),
    "residual": lambda x: x + x @ x.mT / 20.0,
    "rotated": lambda x: x.permute(-3, -1, -2) + x.permute(-1, 0, 1).permute(1, 2, 0),
    "signed zeros": lambda x: torch.copysign(x, 0.0) - torch.copysign(x, -0.0),
    "cut unsafely and written to": cut_unsafely,
    "conjugated": lambda x: torch.view_as_real(torch.complex(x, 2.0 * x).conj().clone())[..., 1],
    "norm of mixed types": mixed_norm,
    "by blocks": lambda x: ((x @ x).view(K, 2, N // 2, N) + x[:, :2, :1].unsqueeze(3)).flatten(1, 2),
    "counted": lambda x: (x > 0).sum(dim=1, keepdim=True).clamp(max=2) * x,
    "in place": lambda x: x.clone().masked_fill_(x > 0, 1.0).mul_(2.0),
}


def parts(x, y):
    """Put parts together and take them apart again."""
    whole = torch.cat([x[:1] * x[:1, :1, :1], y[1:]])
    return torch.cat([whole[:1], torch.tanh(whole[1:])]) + norms(whole.flatten(1))[:, None, None]


def moved(x, y):
    """Return how far a step leads, of two kinds of cells."""
    own, slope = x.flatten(1), y.flatten(1)
    used = torch.cat([slope[:1] * x[:1, 0, :1], torch.relu(slope[1:])])
    there = stepped(own, x[:, 0, 1:2], used)
    return there.view(K, N, N) + norms(there - own)[:, None, None]


def cut_up(x, y):
    """Treat each vector in its own way, put them together, and read one of them and the whole again."""
    whole = (x + y).flatten(1)
    bent = torch.tanh(whole[1:2])
    used = torch.cat([torch.relu(whole[:1]), bent, whole[2:]])
    return (torch.exp(-used.square()) + used + bent.sum()).view(K, N, N)


def cut_and_read(x, y):
    """Put vectors together in another order, twice the same, some too few, and with one that is read again."""
    whole = (x * y).flatten(1)
    first, others = torch.tanh(whole[:1]), torch.relu(whole[1:])
    turned = torch.cat([others, first])
    doubled = torch.cat([first, others[:1], first]) + whole[:1]
    return (turned + doubled + torch.cat([first, others])).view(K, N, N)


BINARY = {
    "parts": parts,
    "cut up": cut_up,
    "cut and read": cut_and_read,
    "moved": moved,
    "sum": torch.add,
    "difference": torch.sub,
    "step": lambda x, y: stepped(x.flatten(1), x[:, 0, 1:2], y.flatten(1) * y[:, 0, :1]).view(K, N, N),
    "scaled": torch.mul,
    "product": torch.bmm,
    "turned product": lambda x, y: (x @ y).mT.contiguous(),
    "with a bias": lambda x, y: torch.baddbmm(y[:, :1], x, y),
    "added to": lambda x, y: (x @ y) + y[:, :1],
    "added up and turned": lambda x, y: (y.mT + x @ y).mT.contiguous().flatten(1).view(K, N, N),
}
INSTRUCTIONS = st.lists(
    st.tuples(st.sampled_from([*UNARY, *BINARY]), st.integers(0, 99), st.integers(0, 99)),
    min_size=1,
    max_size=12,
)


def program(instructions):
    """Return a function of two stacks that carries out instructions, each on results of earlier ones.

    It also tells how large they get: what sums lose to rounding goes with that.
    """

    def function(x, y, sizes=None):
        made = [x, y]
        for name, one, other in instructions:
            first, second = made[one % len(made)], made[other % len(made)]
            made.append(UNARY[name](first) if name in UNARY else BINARY[name](first, second))
        if sizes is not None:
            sizes += [float(result.abs().max()) for result in made]
        return made[-1], made[len(made) // 2]

    return function


@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_every_instruction_alone_gives_what_it_gave(name):
    """Programs are drawn; here none of what they are made of is left to chance."""
    function = program([(name, 0, 1)])
    replay = rewritten(function, *stacks(count=2))
    for _ in range(2):
        args = stacks(count=2)
        torch.testing.assert_close(replay(*args), function(*args), rtol=1e-9, atol=1e-10)


@given(INSTRUCTIONS, st.integers(0, 2), st.sets(st.sampled_from(NAMES)))
@few_examples
def test_any_program_gives_what_it_gave_under_any_passes_and_changes_only_what_it_may(
    instructions, donated, without
):
    function = program(instructions)
    replay = rewritten(function, *stacks(count=2), donated=donated, without=without)
    for _ in range(2):
        args = stacks(count=2)
        before = [x.clone() for x in args]
        sizes = [1.0]
        expected = function(*args, sizes)
        for _ in range(2):
            given = [x.clone() for x in args[:donated]] + args[donated:]
            for ours, theirs in zip(replay(*given), expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12 * max(sizes))
        assert all(torch.equal(one, other) for one, other in zip(args, before, strict=True))


@given(INSTRUCTIONS, st.integers(0, 99))
@few_examples
def test_a_program_that_draws_random_numbers_is_refused_wherever_it_does(instructions, place):
    before = program(instructions[: place % len(instructions)])

    def function(x, y):
        middle, _ = before(x, y)
        return torch.rand_like(middle) - torch.rand_like(middle)

    with pytest.raises(UntraceableError, match=r"rand_like.* draws random numbers"):
        trace(function, tuple(stacks(count=2)))


@pytest.mark.parametrize(
    ("a", "b", "view", "bias"),
    [
        ((2, 4, 3), (2, 3, 5), (2, 2, 2, 5), (2, 1, 5)),
        ((4, 2, 3), (4, 3, 5), (2, 2, 2, 5), (2, 1, 5)),
        ((2, 4, 3), (2, 3, 1), (2, 1, 4), (1, 1, 4)),
        ((4, 2, 3), (4, 3, 5), (8, 5), (8, 5)),
        ((4, 2, 3), (4, 3, 5), (4, 2, 5), (2, 5)),
        ((1, 2, 3), (1, 3, 5), (2, 5), (5,)),
    ],
)
def test_a_bias_is_added_along_its_own_axes(a, b, view, bias):
    def function(a, b, bias):
        return torch.bmm(a, b).view(view) + bias

    args = [torch.randn(shape, dtype=torch.float64) for shape in (a, b, bias)]
    torch.testing.assert_close(rewritten(function, *args)(*args), function(*args), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("without", [(), NAMES])
@pytest.mark.parametrize(
    "step",
    [
        lambda own, slow, x: (own - x, own - x, x.sum()),
        lambda own, slow, x: (own - x, (own - x).clone(), x.sum()),
        lambda own, slow, x: (own - x, x, x.sum()),
        lambda own, slow, x: (slow, own, x.sum()),
        lambda own, slow, x: (own - x, slow, slow.sum()),
        lambda own, slow, x: (own.sub_(x), 0.9 * slow + 0.1 * own, own.sum()),
    ],
)
def test_what_is_donated_to_the_next_call_lies_in_memory_of_its_own(step, without):
    own, slow, x = torch.randn(3, K, N, dtype=torch.float64)
    replay = rewritten(step, own.clone(), slow.clone(), x, donated=2, without=without)
    mine, theirs = (own.clone(), slow.clone()), (own.clone(), slow.clone())
    for _ in range(3):
        *mine, total = replay(*mine, x)
        *theirs, expected = step(*(tensor.clone() for tensor in theirs), x)
        for got, want in zip((*mine, total), (*theirs, expected), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        assert mine[0].data_ptr() != mine[1].data_ptr()
        assert x.data_ptr() not in [tensor.data_ptr() for tensor in mine]


def test_a_penalty_on_a_rectifier_takes_no_products_with_zeros():
    """torch's own ReLU has a second derivative of zeros, which are multiplied by every weight on their way back."""

    def penalty(act):
        def function(w, x):
            w, x = (tensor.detach().requires_grad_() for tensor in (w, x))
            (slope,) = torch.autograd.grad(act(act(x @ w) @ w).sum(), x, create_graph=True)
            return torch.autograd.grad(slope.square().sum(), w)[0]

        return function

    w, x = stacks(count=2)
    ours, theirs = (trace(penalty(act), (w, x))[1] for act in (Rectifier(), torch.relu))
    product = 2 * K * N**3
    assert effort(ours, w, x)[1] + 3 * product <= effort(theirs, w, x)[1]
    torch.testing.assert_close(ours(w, x), penalty(torch.relu)(w, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("function", "saved"),
    [
        (lambda x: (x @ x[:, :, :5]).mT.contiguous(), 1),
        (lambda x: x @ x + x[:, :1], 1),
        (lambda x: (x @ x).view(K, 2, N // 2, N) + x.sum(1)[:, None, None], 1),
        (lambda x: ((x @ x[:, :, :5]) + x[:, :1, :5]).permute(0, 2, 1).contiguous(), 2),
        (lambda x: torch.cat([x[:1], x[1:2], x[2:]]), 1),
        (lambda x: torch.tanh(x).mul(2.0) + torch.tanh(x).mul(2.0).neg(), 2),
    ],
    ids=["turned", "bias", "bias over views", "turned with a bias", "put together", "twice the same"],
)
def test_rewriting_saves_passes_that_read_and_write_as_much_as_the_result(function, saved):
    (x,) = stacks()
    replay, result = rewritten(function, x), function(x)
    torch.testing.assert_close(replay(x), result, rtol=1e-12, atol=1e-12)
    (before, products), (after, products_after) = effort(function, x), effort(replay, x)
    assert after <= before - saved * 2 * result.numel()
    assert products_after <= products


def test_a_column_by_a_row_takes_no_matrix_product():
    def function(x):
        return x[:, :, :1] @ x[:, :1]

    (x,) = stacks()
    replay = rewritten(function, x)
    torch.testing.assert_close(replay(x), function(x), rtol=1e-12, atol=1e-12)
    (before, products), (after, products_after) = effort(function, x), effort(replay, x)
    assert after <= before
    assert products > products_after == 0


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.permute(-1, 0, 1) + 0.0,
        lambda x: torch.baddbmm(torch.tanh(x), *[torch.tanh(x)] * 2),
        lambda x: torch.tanh(x) + torch.tanh(x) @ x,
        lambda x: torch.cat([(3 * x[:1]).long(), x[1:]])[:1],
    ],
    ids=["axes counted from the end", "a term that is a factor", "a residual", "parts of several types"],
)
def test_what_only_looks_like_what_a_pass_rewrites_is_left_alone(function):
    x = torch.randn(N, N, N, dtype=torch.float64)
    replay = rewritten(function, x)
    torch.testing.assert_close(replay(x), function(x), rtol=1e-9, atol=1e-9)


def test_clipping_by_norm_costs_no_pass_over_the_gradient():
    def step(own, gradient, rate, threshold=torch.inf):
        norm = torch.linalg.vector_norm(gradient, dim=1)
        used = gradient if threshold == torch.inf else gradient * (threshold / norm).clamp(max=1.0)[:, None]
        return torch.addcmul(own, rate, used, value=-1), norm, torch.linalg.vector_norm(used, dim=1)

    def clipped(own, gradient, rate):
        return step(own, gradient, rate, threshold=1.0)

    own, gradient = torch.randn(2, K, 100, dtype=torch.float64)
    args = own, gradient, torch.rand(K, 1, dtype=torch.float64)
    replay = rewritten(clipped, *args)
    torch.testing.assert_close(replay(*args), clipped(*args), rtol=1e-12, atol=0)
    assert effort(replay, *args)[0] - effort(rewritten(step, *args), *args)[0] < gradient.numel()


def treated(gradient, strength):
    """Return the last vector clamped, the one before scaled, and all others as they are."""
    norm = torch.linalg.vector_norm(gradient[-2:-1], dim=1)
    scaled = gradient[-2:-1] * (strength[-2:-1] / norm).clamp(max=1.0)[:, None]
    clamped = torch.minimum(torch.maximum(gradient[-1:], -strength[-1:]), strength[-1:])
    return torch.cat([gradient[:-2], scaled, clamped])


@pytest.mark.parametrize("step", [torch.add, stepped], ids=["moments", "step"])
def test_cells_with_treatments_of_their_own_cost_no_pass_over_those_of_others(step):
    def function(own, x, y, strength, treated=treated):
        used = treated(x + y, strength)
        return (step(own, used) if step is torch.add else step(own, strength[:, None], used)), norms(used)

    def untreated(*args):
        return function(*args, treated=lambda gradient, strength: gradient)

    more = []
    for count in (3, 9):
        args = (
            *torch.randn(3, count, 100, dtype=torch.float64),
            torch.rand(count, dtype=torch.float64),
        )
        replay = rewritten(function, *args, donated=1)
        torch.testing.assert_close(
            replay(args[0].clone(), *args[1:]), function(*args), rtol=1e-12, atol=1e-12
        )
        more.append(effort(replay, *args)[0] - effort(rewritten(untreated, *args, donated=1), *args)[0])
    assert more[1] - more[0] < 100, "less than a pass over one of six more that are not treated"


def test_a_step_from_what_was_given_for_good_takes_no_memory_and_its_length_no_pass():
    def step(own, mean, gradient, rate):
        mean = mean.clone().lerp_(gradient, 0.1)
        after = torch.addcmul(own, rate, gradient, value=-1)
        return after, mean, torch.linalg.vector_norm(gradient, dim=1)

    def measured(own, *args):
        after, *others = step(own, *args)
        return after, *others, torch.linalg.vector_norm(after - own, dim=1)

    own, mean, gradient = torch.randn(3, K, 100, dtype=torch.float64)
    rate = torch.rand(K, 1, dtype=torch.float64)
    plain, replay = (rewritten(one, own, mean, gradient, rate, donated=2) for one in (step, measured))
    expected = measured(own, mean, gradient, rate)
    given = own.clone(), mean.clone()
    got = replay(*given, gradient, rate)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    assert [tensor.data_ptr() for tensor in got[:2]] == [tensor.data_ptr() for tensor in given]
    costs = [effort(one, own.clone(), mean.clone(), gradient, rate)[0] for one in (plain, replay)]
    assert costs[1] - costs[0] < gradient.numel()


@pytest.mark.parametrize("regularizer", [clip_value(), weight_clip()], ids=["gradient", "weights"])
def test_what_is_infinite_or_no_number_is_clamped_as_torch_clamps_it(regularizer):
    def clamp(x, threshold):
        if regularizer.project:
            return regularizer.project(x, threshold, None)
        return regularizer.transform(x, threshold, {})[0]

    def function(x, thresholds):
        return vmap(clamp)(x + 0.0, thresholds)

    x, thresholds = torch.randn(4, 30), torch.tensor([0.1, 1.0, 3.0, torch.inf])
    x[:, :3] = torch.tensor([torch.inf, -torch.inf, torch.nan])
    replay = rewritten(function, x, thresholds)
    expected = torch.clamp(x, -thresholds[:, None], thresholds[:, None])
    torch.testing.assert_close(replay(x, thresholds), expected, rtol=0, atol=0, equal_nan=True)


def test_what_depends_on_no_argument_is_computed_once():
    def function(x):
        return x * (torch.ones_like(x)[:, :1] / 3.0).exp(), torch.full_like(x, 2.0)

    (x,) = stacks()
    replay = rewritten(function, x)
    assert effort(replay, x) == effort(torch.mul, x, x[:, :1]), "one multiplication is left"
    for x in stacks(count=2):
        torch.testing.assert_close(replay(x), function(x), rtol=1e-12, atol=0)


def test_what_is_read_later_or_given_back_is_not_written_over():
    def function(x):
        first = x + 1.0
        second = torch.relu(first - 2.0)
        return first, second, second.exp() + first

    (x,) = stacks()
    replay = rewritten(function, x)
    for _ in range(2):
        torch.testing.assert_close(replay(x), function(x), rtol=0, atol=0)


def test_zeros_that_a_function_writes_to_stay():
    def function(x):
        total = torch.zeros_like(x)
        total.add_(x)
        return total * x

    (x,) = stacks()
    replay = rewritten(function, x)
    for _ in range(2):
        torch.testing.assert_close(replay(x), function(x), rtol=0, atol=0)


def test_a_stack_of_one_matrix_is_a_stack():
    def one(x, y):
        return torch.relu(x @ y.mT).sum(0), (x @ y).mT @ x

    x, y = (matrices[:1] for matrices in stacks(count=2))
    replay = rewritten(vmap(one), x, y)
    torch.testing.assert_close(replay(x, y), vmap(one)(x, y), rtol=1e-12, atol=1e-12)

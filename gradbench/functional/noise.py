"""Random numbers inside modules, such as dropout's, as a function of a key and of how many were drawn before.

PyTorch draws them from one generator for all: a cell's numbers would depend on its stack, and a resumed run would go on
with others. Inside :class:`CounterNoise` they depend on the key alone, on every device.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradbench.errors import UsageError
from gradbench.functional.torch_internals import DispatchMode, arguments_of, schema_of

aten = torch.ops.aten

INCREMENT, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""Constants of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014)."""

UNIFORM_BITS = 24
"""Random bits of a uniform number: as many as a float32 holds exactly."""


def signed(number: int) -> int:
    """Return a number of 64 bits as a signed one, which torch's integers are."""
    return number - 2**64 if number >= 2**63 else number


def shifted_xor(x: Tensor, bits: int) -> Tensor:
    """Return ``x ^ (x >> bits)``, as if x were unsigned."""
    shifted: Tensor = (x >> bits) & (2 ** (64 - bits) - 1)
    return x ^ shifted


def mix(x: Tensor) -> Tensor:
    """Return 64 random bits for every int64 number: splitmix64's output function, a bijection."""
    x = shifted_xor(x, 30) * signed(FIRST)
    return shifted_xor(shifted_xor(x, 27) * signed(SECOND), 31)


def subkey(key: Tensor, index: Tensor | int) -> Tensor:
    """Return a key of its own for each index; shapes are broadcast, and integers are int64."""
    return (
        mix(key + (index + 1) * signed(INCREMENT))
        if isinstance(index, Tensor)
        else mix(key + signed((index + 1) * INCREMENT % 2**64))
    )


def random_bits(key: Tensor, shape: Sequence[int]) -> Tensor:
    """Return 64 random bits per element, int64. Shapes: key [*k], result [*k, *shape]."""
    count = math.prod(shape)
    index = torch.arange(1, count + 1, device=key.device) * signed(INCREMENT)
    return mix(key.reshape(*key.shape, 1) + index).view(*key.shape, *shape)


def uniform(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return numbers of U[0, 1). Shapes: key [*k], result [*k, *shape]."""
    bits = (random_bits(key, shape) >> (64 - UNIFORM_BITS)) & (2**UNIFORM_BITS - 1)
    fraction: Tensor = (
        bits.to(torch.float64 if dtype == torch.float64 else torch.float32) * 2.0**-UNIFORM_BITS
    )
    return fraction


def normal(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return standard normal numbers (Box and Muller 1958). Shapes: key [*k], result [*k, *shape]."""
    radius = (-2 * torch.log1p(-uniform(subkey(key, 0), shape, torch.float64))).sqrt()
    angle = 2 * math.pi * uniform(subkey(key, 1), shape, torch.float64)
    return (radius * angle.cos()).to(dtype)


class CounterNoise(DispatchMode):
    """Answer every operation that draws random numbers from a key, and from the number of those before it.

    It works below ``vmap`` with ``randomness="different"``: there results have leading axes, which are the key's.

    Args:
        key: [], or one for each network of a stack; int64.
    """

    def __init__(self, key: Tensor) -> None:
        super().__init__()
        self.key, self.drawn = key, 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, or what stands for it."""
        draw = DRAWS.get(operation)
        if draw is None:
            if draws(operation, args, kwargs or {}):
                raise UsageError(
                    f"calls {operation}, which draws random numbers from a generator that all cells share; a cell's "
                    "come from its own seed: draw them by dropout, torch.rand, randn, bernoulli, randint and their like"
                )
            return operation(*args, **(kwargs or {}))
        self.drawn += 1
        return draw(Draw(self.key, self.drawn), *args, **(kwargs or {}))


def draws(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether an operation draws random numbers; attention that drops nothing out only could have."""
    if torch.Tag.nondeterministic_seeded not in operation.tags:
        return False
    could_drop = any(one.name == "dropout_p" for one in schema_of(operation).arguments)
    return not could_drop or arguments_of(operation, args, kwargs).get("dropout_p", 0.0) > 0


class Draw:
    """The random numbers of one operation.

    Args:
        key: as of :class:`CounterNoise`.
        number: of the operation, counted from 1.
    """

    def __init__(self, key: Tensor, number: int) -> None:
        self.key, self.lead = subkey(key, number), key.dim()

    def inner(self, shape: Sequence[int]) -> Sequence[int]:
        """Return a shape without its leading axes, which must be the key's.

        Raises:
            RuntimeError: where they are not.
        """
        if tuple(shape[: self.lead]) != tuple(self.key.shape):
            raise RuntimeError(
                f"random numbers of shape {list(shape)} are not one set for each network of the stack"
            )
        return shape[self.lead :]

    def uniform(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return numbers of U[0, 1) of a shape, the leading axes included."""
        return uniform(self.key, self.inner(shape), dtype)

    def normal(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return standard normal numbers of a shape, the leading axes included."""
        return normal(self.key, self.inner(shape), dtype)


def dtype_of(like: Tensor | None, dtype: torch.dtype | None) -> torch.dtype:
    """Return the type that a new tensor was asked to have."""
    return dtype or (torch.get_default_dtype() if like is None else like.dtype)


def rand(draw: Draw, size: Sequence[int], *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """``torch.rand``."""
    kind = dtype_of(None, dtype)
    kind = dtype_of(None, dtype)
    return draw.uniform(size, kind).to(kind)


def rand_like(draw: Draw, x: Tensor, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """``torch.rand_like``."""
    return rand(draw, x.shape, dtype=dtype_of(x, dtype))


def randn(draw: Draw, size: Sequence[int], *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """``torch.randn``."""
    return draw.normal(size, dtype_of(None, dtype))


def randn_like(draw: Draw, x: Tensor, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """``torch.randn_like``."""
    return draw.normal(x.shape, dtype_of(x, dtype))


def uniform_(draw: Draw, x: Tensor, low: float = 0.0, high: float = 1.0, **_: Any) -> Tensor:
    """``Tensor.uniform_``."""
    return x.copy_(low + (high - low) * draw.uniform(x.shape, x.dtype))


def normal_(draw: Draw, x: Tensor, mean: float = 0.0, std: float = 1.0, **_: Any) -> Tensor:
    """``Tensor.normal_``."""
    return x.copy_(mean + std * draw.normal(x.shape, x.dtype))


def exponential_(draw: Draw, x: Tensor, rate: float = 1.0, **_: Any) -> Tensor:
    """``Tensor.exponential_``, by which ``gumbel_softmax`` draws; never zero."""
    half = 2.0 ** -(UNIFORM_BITS + 1)
    return x.copy_(-torch.log1p(-(draw.uniform(x.shape, x.dtype) + half)) / rate)


def bernoulli_(draw: Draw, x: Tensor, p: float | Tensor = 0.5, **_: Any) -> Tensor:
    """``Tensor.bernoulli_``, by which dropout draws on a CPU."""
    return x.copy_(draw.uniform(x.shape, x.dtype) < p)


def bernoulli(draw: Draw, x: Tensor, p: float | None = None, **_: Any) -> Tensor:
    """``torch.bernoulli``, of probabilities x, or p."""
    return (draw.uniform(x.shape, x.dtype) < (x if p is None else p)).to(x.dtype)


def native_dropout(draw: Draw, x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    """Dropout as it draws on a GPU; the same mask as :func:`bernoulli_`."""
    if train is False:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    kept = draw.uniform(x.shape, x.dtype) < 1 - p
    return x * kept * (1 / (1 - p) if p < 1 else 0.0), kept


def randint(draw: Draw, *numbers: Any, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """``torch.randint``, of ``(low, high, size)`` or ``(high, size)``."""
    *(low, high), size = numbers if len(numbers) == 3 else (0, *numbers)
    bits = random_bits(draw.key, draw.inner(size)) & (2**63 - 1)
    found: Tensor = (bits % (high - low) + low).to(dtype or torch.int64)
    return found


def randperm(draw: Draw, n: int, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """``torch.randperm``: the order of random numbers. ``vmap`` asks for one network's after another's.

    Raises:
        RuntimeError: in a stack.
    """
    if draw.lead:
        raise RuntimeError("aten::randperm cannot be stacked")
    return random_bits(draw.key, (n,)).argsort(dim=-1).to(dtype or torch.int64)


DRAWS: dict[Any, Callable[..., Any]] = {
    aten.rand.default: rand,
    aten.rand_like.default: rand_like,
    aten.randn.default: randn,
    aten.randn_like.default: randn_like,
    aten.uniform_.default: uniform_,
    aten.normal_.default: normal_,
    aten.exponential_.default: exponential_,
    aten.bernoulli_.float: bernoulli_,
    aten.bernoulli_.Tensor: bernoulli_,
    aten.bernoulli.default: bernoulli,
    aten.bernoulli.p: bernoulli,
    aten.native_dropout.default: native_dropout,
    aten.randint.default: randint,
    aten.randint.low: randint,
    aten.randperm.default: randperm,
}
"""Operation -> what stands for it; other operations that draw are refused."""

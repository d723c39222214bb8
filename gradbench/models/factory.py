"""Networks and functions of the user's own, named in a config: found, checked before they are called, and called."""

import inspect
import typing
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from gradbench.errors import UsageError, excerpt, exits_as_errors, nearest
from gradbench.functional.network_checks import call_twice, refuse_unfit
from gradbench.named_code import NamedCode, is_named
from gradbench.user_errors import described


class NetworkFactory(NamedCode):
    """Builds new networks of one kind, each initialised from torch's global generator, which the caller seeds."""

    what = "your network, a subclass of torch.nn.Module or a function annotated to return one"

    def __init__(self, node: object, key: str) -> None:
        super().__init__(node, key)
        self.built = weakref.WeakSet[nn.Module]()

    def check(self) -> Any:
        """Import the name, and return it if it is a subclass of ``nn.Module`` or annotated to return one.

        Raises:
            UsageError: if it is anything else, which is never called.
        """
        found = self.find()
        result = found if isinstance(found, type) else self._annotation(found)
        if not (isinstance(result, type) and issubclass(result, nn.Module)):
            kind = "a class" if isinstance(found, type) else f"a {type(found).__name__}"
            hint = ", and is not annotated with '-> torch.nn.Module'" if inspect.isroutine(found) else ""
            raise UsageError(f"{self.key} must name {self.what}, got {self.target}, which is {kind}{hint}")
        return found

    def _annotation(self, found: Any) -> Any:
        """Return what a function is annotated to return; ``None`` if that is unknown."""
        if not inspect.isroutine(found):
            return None
        try:
            return typing.get_type_hints(found).get("return")
        except Exception as error:  # an annotation may be any expression
            raise self.failed("reading its annotations", error) from error

    def __call__(self, **available: Any) -> nn.Module:
        """Build a network.

        Args:
            available: passed where the signature has them and the config gives none.

        Raises:
            UsageError: if the name or its arguments are wrong, or if the user's code raises or returns anything else.
        """
        target = self.check()
        arguments = self.arguments(target, available)
        try:
            with exits_as_errors():
                network = target(**arguments)
        except Exception as error:
            given = ", ".join(f"{name}={excerpt(repr(value), 40)}" for name, value in arguments.items())
            raise self.failed(f"building it with {given or 'no arguments'}", error) from error
        if not isinstance(network, nn.Module):
            raise UsageError(f"{self.typed} returned a {type(network).__name__}, expected a torch.nn.Module")
        try:
            refuse_unfit(network)
        except UsageError as error:
            raise UsageError(f"{self.typed} {error}") from None
        if network in self.built:
            raise UsageError(f"{self.typed} returned one network twice; make a new one at each call")
        self.built.add(network)
        return network


def load_function(node: object, key: str) -> Callable[..., Any]:
    """Return the function that a node of a config names, with its further keys as keyword arguments.

    Raises:
        UsageError: if it names no function, or one that does not take the keys.
    """
    code = NamedCode(node, key)
    function = code.find()
    if isinstance(function, type) or not callable(function):
        raise UsageError(f"{key} must name a function, got {code.target}, a {type(function).__name__}")
    names = [name for name, one in inspect.signature(function).parameters.items() if is_named(one)]
    for name in code.given:
        if name not in names[2:]:
            raise UsageError(f"{key}.{name}: {code.target} has no such argument{nearest(name, names[2:])}")
    return partial(function, **code.given)


def load_functions(nodes: Mapping[str, object] | None, key: str) -> dict[str, Callable[..., Any]]:
    """Return the functions of a mapping of nodes, by name."""
    return {name: load_function(node, f"{key}.{name}") for name, node in (nodes or {}).items()}


def add_own(reported: Iterable[str], own: Iterable[str]) -> frozenset[str]:
    """Return the names of metrics: those that a model reports, and the user's own.

    Args:
        reported: without their split.
        own: parts of the keys ``model.metrics.NAME``.

    Raises:
        UsageError: if one of the user's own has the name of one that the model reports.
    """
    taken = frozenset(reported)
    for name in own:
        if name in taken:
            raise UsageError(
                f"model.metrics.{name}: the model itself reports a metric {name}; give yours another name, as in "
                f"model.metrics.my_{name}=…"
            )
    return taken.union(own)


# ---- what comes out of a network ---------------------------------------------------------------------------

TRIAL = 3
"""B, examples with which a network is tried."""


def try_network(key: str, network: Callable[..., Any], *inputs: Tensor, **further: Any) -> Any:
    """Call a network as :func:`call_twice` does, or another function of the user's once.

    Raises:
        UsageError: if it raises, or if a network keeps anything from call to call.
    """
    try:
        with exits_as_errors():
            if isinstance(network, nn.Module):
                return call_twice(network, inputs, further)
            return network(*inputs, **further)
    except UsageError as error:
        raise UsageError(f"{key} {error}") from None
    except Exception as error:
        shapes = ", ".join(f"{type_text(one)} {shape_text(one.shape)}" for one in inputs)
        raise UsageError(f"{key} called with {shapes} {described(error)}") from error


def check_tensor(key: str, outputs: Any, expected: str, shapes: Sequence[tuple[int, ...]] | None) -> None:
    """Check that a network's output is a tensor of floating numbers of one of the shapes, or with B rows.

    Raises:
        UsageError: saying what came, and what was expected.
    """
    if not isinstance(outputs, Tensor):
        of = f" of {len(outputs)}" if isinstance(outputs, tuple | list | dict) else ""
        raise UsageError(
            f"{key} returned a {type(outputs).__name__}{of}, expected one tensor: {expected}; return it alone"
        )
    if not outputs.is_floating_point():
        raise UsageError(f"{key} returned {type_text(outputs)} numbers, expected floating ones: {expected}")
    if outputs.shape[:1] != (TRIAL,) if shapes is None else tuple(outputs.shape) not in shapes:
        raise UsageError(f"{key} returned {shape_text(outputs.shape)}, expected {expected}")


def check_values(
    key: str, function: Callable[..., Any], arguments: tuple[Tensor, ...], one_each: bool = False
) -> None:
    """Check that a function returns one value per example, or one number where that is enough.

    Raises:
        UsageError: if it raises or returns anything else.
    """
    value = try_network(key, function, *arguments)
    shapes = [(TRIAL,)] if one_each else [(), (TRIAL,)]
    if not isinstance(value, Tensor) or tuple(value.shape) not in shapes:
        came = shape_text(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"
        further = "" if one_each else ", or one number, a tensor []"
        raise UsageError(f"{key} returned {came}, expected one value per example, a tensor [B]{further}")


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as text, with ``B`` for the number of examples of a trial."""
    first = ["B" if size == TRIAL else str(size) for size in shape[:1]]
    return f"[{', '.join([*first, *map(str, shape[1:])])}]"


def type_text(tensor: Tensor) -> str:
    """Return the name of a tensor's type."""
    return str(tensor.dtype).removeprefix("torch.")

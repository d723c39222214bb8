"""A network whose calls are traced, for methods that call it so often that a trace of them would not pay."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradbench.functional.flat_params import Network, Tensors
from gradbench.functional.torch_internals import tree_flatten
from gradbench.tracing.cache import traced

Run = Callable[[Network, Tensor, tuple[Any, ...], dict[str, Any]], Any]
"""``(network, noise key, arguments, keywords) -> result``: calls a network."""


@dataclass(frozen=True, kw_only=True)
class TracedNetwork(Network):
    """A network that traces the first call with arguments of each shape, and replays it from then on.

    A call with anything but tensors and containers of them is run as it is. Noise inside the module is the same at
    each call.

    Attributes:
        run: calls a network.
        noise_key: that noise is drawn from, [], int64.
        key: networks of equal keys compute the same.
        replays: by shapes of arguments; shared by the networks of a stack.
    """

    run: Run
    noise_key: Tensor
    key: Hashable
    replays: dict[Hashable, Callable[..., Any]]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module with these tensors."""

        def call(
            tensors: Tensors,
            buffers: Tensors,
            noise_key: Tensor,
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
        ) -> tuple[Any, Tensors]:
            net = Network(self.module, tensors, dict(buffers), self.shared)
            return self.run(net, noise_key, args, kwargs), net.buffers

        leaves, form = tree_flatten((args, kwargs))
        one = call
        if all(isinstance(leaf, Tensor) for leaf in leaves):
            key = (self.key, str(form), *((leaf.shape, leaf.dtype) for leaf in leaves))
            if key not in self.replays:
                self.replays[key] = traced(call, key)
            one = self.replays[key]
        result, buffers = one(dict(self.tensors), self.buffers, self.noise_key, args, kwargs)
        self.buffers.update(buffers)
        return result

"""Turn the trained parameters of a network into one flat vector, and back.

P parameters of one network, K networks stacked. A flat vector makes the gradient what textbooks write, g in R^P:
one norm, one clip, one optimizer step, whatever tensors the network has. Its other tensors stay as they are, by name:
buffers (running statistics, masks) and frozen parameters (``requires_grad=False``).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

Tensors = dict[str, Tensor]
"""Tensors by name."""


class Weights(NamedTuple):
    """All tensors of a network that differ from cell to cell; of a stack with a leading axis K.

    Attributes:
        parameters: the trained parameters as one vector, [P].
        buffers: buffers and frozen parameters, by name.
    """

    parameters: Tensor
    buffers: Tensors


@dataclass(frozen=True)
class Network:
    """A module with tensors given from outside: called, and asked for its parameters, as the module is.

    Attributes:
        module: gives the structure, and the tensors that are the same for all cells.
        tensors: the trained parameters by name; views of one flat vector.
        buffers: buffers and frozen parameters by name. What a call writes to a buffer is found here afterwards.
        shared: buffers that are the same for all cells.
    """

    module: nn.Module
    tensors: Mapping[str, Tensor]
    buffers: Tensors
    shared: Mapping[str, Tensor] = field(default_factory=dict)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module with these tensors."""
        given = {**self.tensors, **self.buffers, **self.shared}
        result = functional_call(self.module, given, args, kwargs)
        # a module may also put a new tensor in a buffer's place
        self.buffers.update({name: given[name] for name in self.buffers})
        return result

    def parameters(self) -> Iterator[Tensor]:
        """Return an iterator over the trained parameters, as ``nn.Module.parameters``."""
        return iter(self.tensors.values())

    def get_parameter(self, name: str) -> Tensor:
        """Return the parameter of a name, as ``nn.Module.get_parameter``."""
        return self.tensors[name] if name in self.tensors else self.buffers[name]

    def get_submodule(self, name: str) -> "Network":
        """Return a part of the network with its tensors, as ``nn.Module.get_submodule``."""
        part = self.module.get_submodule(name)
        whole = {tensor: key for key, tensor in named_tensors(self.module)}  # one name for tied parameters
        names = {key: whole[tensor] for key, tensor in named_tensors(part)}
        trained, rest, shared = (
            {key: source[name] for key, name in names.items() if name in source}
            for source in (self.tensors, self.buffers, self.shared)
        )
        return Network(part, trained, rest, shared)


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor of each parameter and each buffer, tied ones once."""
    yield from module.named_parameters()
    yield from module.named_buffers()


class Layout:
    """Map between the trained parameters of ``module`` and a flat vector of P numbers.

    Args:
        module: one network; only its structure is kept, its tensors are passed to :meth:`bind`.
        shared: buffers that are the same for all cells and are never written to, such as a causal mask.
    """

    def __init__(self, module: nn.Module, shared: Mapping[str, Tensor] | None = None) -> None:
        trained = {name: one for name, one in module.named_parameters() if one.requires_grad}
        self.module = module
        self.shapes = {name: parameter.shape for name, parameter in trained.items()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        self.frozen = {name for name, one in module.named_parameters() if not one.requires_grad}
        self.shared = dict(shared or {})

    def split(self, vector_P: Tensor) -> dict[str, Tensor]:
        """Return the vector as named tensors (views). Shape: [P] -> one tensor per parameter."""
        # split, not slices: the backward of split is one concatenation
        parts = torch.split(vector_P, self.sizes)
        return {
            name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def join(self, tensors: dict[str, Tensor]) -> Tensor:
        """Return named tensors as one vector: the inverse of :meth:`split`. Shape: [P]."""
        return torch.cat([tensors[name].reshape(-1) for name in self.shapes])

    def weights_of(self, module: nn.Module) -> Weights:
        """Return the weights of a module of this structure, detached."""
        return Weights(flatten(module), {name: one.detach().clone() for name, one in self._rest(module)})

    def _rest(self, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Yield name and tensor of each buffer that is not shared, and of each frozen parameter."""
        yield from ((name, one) for name, one in module.named_buffers() if name not in self.shared)
        yield from ((name, one) for name, one in module.named_parameters() if name in self.frozen)

    def bind(self, vector_P: Tensor, buffers: Mapping[str, Tensor] | None = None) -> Network:
        """Return the network with these weights, as a function of its inputs.

        Args:
            vector_P: the trained parameters.
            buffers: copied, where the module may write to them; by default the module's own.
        """
        found = dict(self._rest(self.module)) if buffers is None else dict(buffers)
        own = {name: one if name in self.frozen else one.clone() for name, one in found.items()}
        return Network(self.module, self.split(vector_P), own, self.shared)


def flatten(module: nn.Module) -> Tensor:
    """Return a module's trained parameters as one detached vector. Shape: [P]."""
    trained = [one.detach().reshape(-1) for one in module.parameters() if one.requires_grad]
    return torch.cat(trained)

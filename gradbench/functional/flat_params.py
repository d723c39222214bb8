"""Turn the parameters of a network into one flat vector, and back.

P parameters of one network, K networks stacked. A flat vector makes the gradient what textbooks write, g in R^P:
one norm, one clip, one optimizer step, whatever tensors the network has.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

Tensors = dict[str, Tensor]
"""Tensors by name."""


@dataclass(frozen=True)
class Network:
    """A module with parameters given from outside: called, and asked for its parameters, as the module is.

    Attributes:
        module: gives the structure.
        tensors: the parameters by name; views of one flat vector.
    """

    module: nn.Module
    tensors: Mapping[str, Tensor]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module with these parameters."""
        return functional_call(self.module, dict(self.tensors), args, kwargs)

    def parameters(self) -> Iterator[Tensor]:
        """Return an iterator over the parameters, as ``nn.Module.parameters``."""
        return iter(self.tensors.values())

    def get_parameter(self, name: str) -> Tensor:
        """Return the parameter of a name, as ``nn.Module.get_parameter``."""
        return self.tensors[name]

    def get_submodule(self, name: str) -> "Network":
        """Return a part of the network with its parameters, as ``nn.Module.get_submodule``."""
        part = self.module.get_submodule(name)
        names = {
            parameter: key for key, parameter in self.module.named_parameters()
        }  # one for tied parameters
        return Network(part, {key: self.tensors[names[own]] for key, own in part.named_parameters()})


class Layout:
    """Map between the parameter tensors of ``module`` and a flat vector of P numbers.

    Args:
        module: one network; only its structure is kept, its parameters are passed to :meth:`bind`.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = dict(module.named_parameters())
        self.module = module
        self.shapes = {name: parameter.shape for name, parameter in parameters.items()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]

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

    def bind(self, vector_P: Tensor) -> Network:
        """Return the network with these parameters, as a function of its inputs."""
        return Network(self.module, self.split(vector_P))


def flatten(module: nn.Module) -> Tensor:
    """Return a module's parameters as one detached vector. Shape: [P]."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])

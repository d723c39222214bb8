"""Turn names into devices, bring tensors to them, and build networks without memory."""

import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradbench.errors import UsageError


def available() -> list[str]:
    """Return the devices of this machine by name, the best first."""
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def resolve(name: str) -> list[torch.device]:
    """Return the devices that ``device=name`` means: every GPU for ``auto`` and ``cuda``, else just one.

    Args:
        name: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        UsageError: for a name that is not one, or a device that is not there.
    """
    here = available()
    kinds = {"auto": here[0].split(":")[0], "cuda": "cuda"}
    chosen = [device for device in here if device == name or device.split(":")[0] == kinds.get(name)]
    if not chosen:
        raise UsageError(f"device={name} is not on this machine; here: auto, {', '.join(here)}")
    return [torch.device(device) for device in chosen]


def name_of(device: torch.device) -> str:
    """Return a device's own name, such as that of the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def bring(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Copy a tensor of the host to a device; to a GPU from pinned memory, while the host goes on."""
    tensor = tensor.to(dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Build networks on the ``meta`` device inside the block: they have shapes, but no memory and no values."""
    with torch.device("meta"), WithoutValues():
        yield


class WithoutValues(TorchFunctionMode):
    """Skip initial values: a tensor on ``meta`` has none, and drawing normal ones there imports torch's compiler."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function; one that would fill a tensor with normal values returns it as it is."""
        given = {**(kwargs or {})}
        if func in (torch.nn.init.normal_, torch.Tensor.normal_):
            return args[0] if args else given["tensor"]
        return func(*args, **given)

"""Initial weights from a file, for fine-tuning: safetensors, or a state dict, which is read as data only."""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from gradbench.config.identity import WEIGHTS
from gradbench.errors import UsageError
from gradbench.grid.cell import Cell

ZIP = b"PK\x03\x04"
"""The first bytes of a file that torch has saved."""

MAX_LISTED = 3
"""Names of tensors that a message lists."""


def initial_weights(cell: Cell) -> Mapping[str, Tensor] | None:
    """Return the tensors that a cell starts from, by name; ``None`` where its seed draws them.

    Raises:
        UsageError: if the file cannot be read, is none of weights, or is another one than when the run was planned.
    """
    path = cell.config["model"].get("weights")
    if path is None:
        return None
    sha256, tensors = read_weights(str(path))
    if sha256 != cell.sources[WEIGHTS]:
        raise UsageError(f"{WEIGHTS}={path} has changed since the run was planned; type the command again")
    return tensors


@lru_cache(maxsize=2)
def read_weights(path: str) -> tuple[str, dict[str, Tensor]]:
    """Read a file of weights; return its hash, and its tensors on the CPU.

    Raises:
        UsageError: if it cannot be read, or holds anything but tensors by name.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {WEIGHTS}={path} ({error.strerror})") from error
    if not content:
        raise UsageError(f"{WEIGHTS}={path} is an empty file; save the weights again")
    try:
        tensors: Any = (
            load_safetensors(content)
            if path.endswith(".safetensors")
            else torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        )
    except SafetensorError as error:
        raise UsageError(f"{WEIGHTS}={path} is no safetensors file ({error})") from error
    except Exception as error:  # whatever torch says of what is no data
        if content.startswith(ZIP) and not zipfile.is_zipfile(io.BytesIO(content)):
            raise UsageError(
                f"{WEIGHTS}={path} is damaged: its end is missing; save or copy the weights again"
            ) from error
        raise UsageError(
            f"{WEIGHTS}={path} is no state dict that can be read as data only; save one with "
            f"torch.save(net.state_dict(), '{Path(path).name}')"
        ) from error
    if isinstance(tensors, dict) and isinstance(
        tensors.get("state_dict"), dict
    ):  # as many training scripts save it
        tensors = tensors["state_dict"]
    named = isinstance(tensors, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    )
    if not named or not tensors:
        raise UsageError(f"{WEIGHTS}={path} holds no tensors by name; save net.state_dict() alone")
    return hashlib.sha256(content).hexdigest(), dict(tensors)


def apply_weights(networks: Mapping[str, nn.Module], weights: Mapping[str, Tensor] | None) -> list[str]:
    """Copy weights into new networks; tensors that the file lacks, such as those of a new head, stay as drawn.

    Names are those of ``state_dict()``; where there are several networks, they begin with the player's and a dot.

    Returns:
        The names of the tensors that the file lacks.

    Raises:
        UsageError: if a tensor of the file has no place in the networks, another shape or kind of numbers than there,
            or a parameter's is not finite.
    """
    if weights is None:
        return []
    several = len(networks) > 1
    places = {
        f"{player}.{name}" if several else name: tensor
        for player, net in networks.items()
        for name, tensor in net.state_dict().items()
    }
    parameters = {
        f"{player}.{name}" if several else name
        for player, net in networks.items()
        for name, _ in net.named_parameters(remove_duplicate=False)
    }
    unknown = [name for name in weights if name not in places]
    if unknown:
        raise UsageError(
            f"{WEIGHTS} has {listed(unknown)}, and the network has no such tensor; it has {listed(list(places))}"
        )
    for name, tensor in weights.items():
        if tensor.shape != places[name].shape:
            raise UsageError(
                f"{WEIGHTS} has {name} of shape {list(tensor.shape)}, expected {list(places[name].shape)}; leave a "
                "tensor out of the file to have it drawn by the seed"
            )
        if kind_of(tensor) != kind_of(places[name]):
            raise UsageError(
                f"{WEIGHTS} has {name} of {kind_of(tensor)} numbers ({str(tensor.dtype).removeprefix('torch.')}), "
                f"expected {kind_of(places[name])} ones; convert them before you save them"
            )
        if name in parameters:
            check_finite(name, tensor)
        if not places[name].is_meta:
            places[name].copy_(tensor)
    return [name for name in places if name not in weights]


def kind_of(tensor: Tensor) -> str:
    """Return the kind of a tensor's numbers in words."""
    return "complex" if tensor.is_complex() else "floating" if tensor.is_floating_point() else "whole"


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise ``UsageError`` for the weights of a parameter that are not all finite; a buffer may be a mask of -inf."""
    wrong = (~torch.isfinite(tensor)).nonzero()
    if len(wrong):
        index = wrong[0].tolist()
        raise UsageError(
            f"{WEIGHTS} has {name}{index if index else ''} = {tensor[tuple(index)].item()}, expected a finite number; "
            "was it saved after training diverged?"
        )


def listed(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    rest = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")

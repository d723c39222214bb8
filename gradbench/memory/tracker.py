"""Track the memory that tensor programs would take, by running them on ``meta``."""

import math
import weakref
from typing import Any

import torch
from torch import Tensor

from gradbench.functional.torch_internals import DispatchMode, schema_of, storage_key, tree_leaves

META = torch.device("meta")

BLOCK = {"cuda": 512}
"""Type of device -> bytes to which its allocator rounds up; 1 elsewhere."""

CHANNELS = 16
"""Channels of a block in which a CPU's convolutions hold copies of images, the last block filled up."""

CONVOLVE, CONVOLVE_BACKWARD = torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default

COPY, LIFT = torch.ops.aten._to_copy.default, torch.ops.aten.lift_fresh.default

TensorSpec = tuple[torch.Size, tuple[int, ...], torch.dtype]
"""Shape, strides and dtype of a tensor."""


class MemoryTracker(DispatchMode):
    """Track the bytes of all live tensors, and their peak.

    Tensors on ``meta`` stand for those of the device. For a CPU, tensors on the CPU count as well, and a copy from
    there to ``meta`` does not, since a CPU would need none. Tensors that share numpy's memory count nothing.

    Args:
        kind: type of device, as ``torch.device.type``.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.counted = {"meta", "cpu"} if kind == "cpu" else {"meta"}
        self.block = BLOCK.get(kind, 1)
        self.live = self.peak = 0
        self.sizes: dict[int, int] = {}
        self.watched: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self.known: dict[Any, TensorSpec] = {}

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count the memory that it allocated."""
        result = self.run_cached(operation, args, kwargs or {})
        if self.kind == "cpu" and operation in (CONVOLVE, CONVOLVE_BACKWARD):
            self.peak = max(self.peak, self.live + convolution_bytes(operation, args, result))
        size = 0 if operation is LIFT else None
        if operation is COPY and "cpu" in self.counted and is_free_copy(args[0], result):
            size = self.release(args[0].untyped_storage())
        for leaf in as_sequence(result):
            if isinstance(leaf, Tensor) and leaf.device.type in self.counted:
                self.count(leaf.untyped_storage(), size)
        return result

    def run_cached(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation, taking the shape of its result from a cache if it ran on such tensors before.

        Shape inference of most operations is written in Python, too slow for a recurrence with thousands of them.
        """
        schema = schema_of(operation)
        if schema.is_mutable or len(schema.returns) != 1 or schema.returns[0].alias_info is not None:
            return operation(*args, **kwargs)
        key = operation, shape_key(args), shape_key(kwargs)
        if key in self.known:
            shape, stride, dtype = self.known[key]
            return torch.empty_strided(shape, stride, dtype=dtype, device=META)
        result = operation(*args, **kwargs)
        given = {
            storage_key(leaf.untyped_storage())
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor)
        }
        is_new = isinstance(result, Tensor) and storage_key(result.untyped_storage()) not in given
        if is_new and result.device == META:
            self.known[key] = result.shape, result.stride(), result.dtype
        return result

    def count(self, storage: torch.UntypedStorage, size: int | None = None) -> None:
        """Count a storage until it is freed, with its own number of bytes unless another is given."""
        key = storage_key(storage)
        if key not in self.sizes:
            size = math.ceil(storage.nbytes() / self.block) * self.block if size is None else size
            self.sizes[key] = size
            self.watched[key] = weakref.ref(storage, lambda _: self.forget(key))
            self.live += size
            self.peak = max(self.peak, self.live)

    def release(self, storage: torch.UntypedStorage) -> int:
        """Stop counting a storage that is still alive; return its bytes, 0 if it was not counted."""
        key = storage_key(storage)
        size = self.sizes.get(key, 0)
        if size:
            self.sizes[key] = 0
            self.live -= size
        return size

    def forget(self, key: int) -> None:
        """Stop counting a storage that was freed."""
        self.live -= self.sizes.pop(key)
        del self.watched[key]

    def pop_peak(self) -> int:
        """Return the peak in bytes since the last call, and start the next one."""
        peak, self.peak = self.peak, self.live
        return peak


def convolution_bytes(operation: Any, args: tuple[Any, ...], result: Any) -> int:
    """Estimate the bytes that a CPU's convolution takes while it runs, its result among them, but not its arguments.

    oneDNN's kernels copy images into blocks of channels and back; measured with torch 2.14 on a processor with AVX-512.
    """
    made: int = sum(one.nbytes for one in as_sequence(result) if one is not None)
    groups = args[9] if operation is CONVOLVE_BACKWARD else args[8]
    images = args[1] if operation is CONVOLVE_BACKWARD else args[0]
    if groups == 1:
        in_blocks, is_copied = blocked_bytes, images.shape[1] >= CHANNELS
    else:  # of a stack, whose channels together fill their blocks
        in_blocks, is_copied = bytes_of, images.shape[1] // groups >= CHANNELS // 2
    if operation is CONVOLVE_BACKWARD:
        return made + in_blocks(images) + (in_blocks(args[0]) if groups == 1 or is_copied else 0)
    if args[6]:  # transposed
        return made + max(int(images.nbytes), 2 * made)
    return in_blocks(result) + max(made, in_blocks(images) + int(args[1].nbytes) if is_copied else 0)


def bytes_of(images: Tensor) -> int:
    """Return the bytes of images."""
    return int(images.nbytes)


def blocked_bytes(images: Tensor) -> int:
    """Return the bytes of images [B, C, ...] in blocks of :data:`CHANNELS`."""
    C = images.shape[1]
    return images.nbytes // C * math.ceil(C / CHANNELS) * CHANNELS


def is_free_copy(before: Any, after: Tensor) -> bool:
    """Return whether a copy from the CPU to ``meta`` stands for no copy, since a CPU's tensors stay where they are."""
    return (
        isinstance(before, Tensor)
        and before.device.type == "cpu"
        and after.device == META
        and before.dtype == after.dtype
    )


def as_sequence(result: Any) -> Any:
    """Return an operation's result as a sequence."""
    return result if isinstance(result, tuple | list) else (result,)


def shape_key(value: Any) -> Any:
    """Return a hashable key of everything in an operation's arguments that its shape inference depends on."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, tuple | list):
        return tuple(map(shape_key, value))
    if isinstance(value, dict):
        return tuple((name, shape_key(item)) for name, item in value.items())
    return type(value), value

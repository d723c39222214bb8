"""The parts of torch that are private or may change without notice, all imported here and nowhere else.

Each line says why it is needed and what would replace it. A test looks for private names of torch elsewhere. What
stands here exists in all versions of torch that the README names.
"""

from typing import Any

import torch

# Called with every operation that runs below vmap and autograd, which is what the tracer and
# the memory tracker look at. Replacement: torch.fx.experimental.proxy_tensor.make_fx (ten times slower) and
# torch.distributed._tools.MemTracker (also private).
from torch.utils._python_dispatch import TorchDispatchMode

# Walks through nested containers of tensors. Replacement: torch.utils.pytree, once it is public, or optree.
from torch.utils._pytree import (
    keystr,
    tree_flatten,
    tree_flatten_with_path,
    tree_leaves,
    tree_map,
    tree_map_only,
    tree_unflatten,
)

# A dict whose keys are compared as objects and do not keep tensors alive. Replacement: a dict of id() and weakref.
from torch.utils.weak import WeakIdKeyDictionary

__all__ = [
    "DispatchMode",
    "WeakIdKeyDictionary",
    "arguments_of",
    "clear_cublas_workspaces",
    "fused_adam_",
    "keep_uninitialized_memory",
    "keystr",
    "memory_events",
    "schema_of",
    "storage_key",
    "tree_flatten",
    "tree_flatten_with_path",
    "tree_leaves",
    "tree_map",
    "tree_map_only",
    "tree_unflatten",
]

fused_adam_ = torch._fused_adam_
"""One pass of Adam over parameters, gradient and averages. Replacement: torch.optim.Adam(fused=True), which calls it,
but owns its state and one learning rate."""


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own is not annotated
    """A ``TorchDispatchMode`` that does not import torch's compiler.

    Subclasses define ``__torch_dispatch__(self, operation, types, args, kwargs)``.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)  # type: ignore[no-untyped-call]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Answer for torch, which would import its compiler to find out, that nothing is compiled under this mode.

        Replacement: none needed once importing torch._dynamo is quick.
        """
        return False


def schema_of(operation: Any) -> Any:
    """Return an operation's schema: argument names, what it writes to and what it aliases; ``None`` if it has none.

    Replacement: torch.library has no public reader of schemas yet.
    """
    return getattr(operation, "_schema", None)


def arguments_of(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return an operation's arguments by name; those left to their defaults are absent."""
    names = (argument.name for argument in schema_of(operation).arguments)
    return dict(zip(names, args, strict=False)) | kwargs


def storage_key(storage: torch.UntypedStorage) -> int:
    """Return a number that tells storages apart, on ``meta`` too, where all data pointers are 0.

    Replacement: data_ptr(), once storages on ``meta`` have one.
    """
    key: int = storage._cdata
    return key


def memory_events(profiler: torch.autograd.profiler.profile) -> Any:
    """Return the events of a profiler with ``profile_memory``, allocations among them.

    Replacement: profiler.events(), once it lists allocations one by one with their times.
    """
    assert profiler.kineto_results is not None
    return profiler.kineto_results.events()


def clear_cublas_workspaces() -> None:
    """Free the memory that cuBLAS holds for streams. Replacement: none public; it only makes measurements exact."""
    torch._C._cuda_clearCublasWorkspaces()


def keep_uninitialized_memory(keep: bool = True) -> bool:
    """Leave new memory as it is under deterministic algorithms, or fill it; return whether it was left before.

    Documented, but not annotated by torch.
    """
    before = not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.utils.deterministic.fill_uninitialized_memory = not keep  # type: ignore[attr-defined]
    return before

"""Follow how much memory the tensors of a computation hold, on the meta device too."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations make, until they are freed.

    Memory within an operation, such as a convolution's workspace, is not seen.

    Args:
        known: Tensors that are not counted, such as weights.

    Attributes:
        now: Bytes that are held.
        peak: The most that were held at one time.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._add_storage(value.untyped_storage())
        return out

    def _add_storage(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        weakref.finalize(storage, self._free_storage, key, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _free_storage(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size

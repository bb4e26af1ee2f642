"""Tensors that may be sharded over processes, whole and in shares."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def gather_tensor(value: Tensor) -> Tensor:
    """Return the whole of a tensor that may be sharded; every process has to call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def distribute_like(whole: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor, equal on all processes, sharded as another is, if that is."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)

"""Numbers of a model that are not finite, wherever they lie."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_omni.errors import OmniError
from lightning_omni.nn.ranks import world_size


def has_non_finite(tensors: Iterable[Tensor]) -> Tensor | None:
    """Return whether a norm of this process's parts is not finite, without waiting for a device.

    It is not if a number is not, or if its square overflows.

    Args:
        tensors: Tensors of one device.

    Returns:
        A number of the tensors' device, 1.0 or 0.0, Float[]; None if there is none to look at.
    """
    local = [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
    parts = [t.detach() for t in local if t.is_floating_point() and t.numel()]
    if not parts:
        return None
    norms = torch.stack(torch._foreach_norm(parts, 2, dtype=torch.float32))
    return (~norms.isfinite()).any().float()


def check_weights_are_finite(weights: Mapping[str, Tensor], *, purpose: str) -> None:
    """Refuse weights that are not finite on any process; every process of a run has to call it.

    Args:
        weights: Weights by name, or this process's share of them, on any devices: when a run
            ends, the module is on the CPU already and averages are still on a GPU.
        purpose: What they were wanted for, such as `export`.

    Raises:
        OmniError: If any is not finite.
    """
    by_device = defaultdict(list)
    for value in weights.values():
        by_device[value.device].append(value)
    is_found = any(bool(has_non_finite(values)) for values in by_device.values())
    if world_size() > 1:
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"  # of what the group can send
        found = torch.tensor(float(is_found), device=device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        is_found = bool(found)
    if not is_found:
        return
    own = [name for name, value in weights.items() if bool(has_non_finite([value]))]
    share = f"{len(own)} of {len(weights)} tensors, '{own[0]}' first" if own else "on a process"
    raise OmniError(
        f"weights are not finite ({share}), so there is no {purpose}; what was saved before is "
        "kept: go on from an earlier checkpoint with a lower learning rate"
    )

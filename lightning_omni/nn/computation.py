"""What networks compute with, for records: number format and attention kernel."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from lightning_omni.nn.attention import GroupedQueryAttention
from lightning_omni.nn.codec.conv import SpatialAttention
from lightning_omni.nn.segments import attention_kernel


def computation_facts(
    network: nn.Module, dtypes: Iterable[torch.dtype] | None = None
) -> dict[str, str]:
    """Return `precision`, the format of matrix products, and `attention`, the kernel that attends.

    Several are joined by commas. A network without attention has no kernel, and one that has not
    run has neither.

    Args:
        network: Network, on the device that computes.
        dtypes: Formats it ran in; None for that of its weights, without autocast.
    """
    weight = next(network.parameters())
    used = {weight.dtype} if dtypes is None else set(dtypes)
    modules = list(network.modules())
    kernels = set()
    if any(isinstance(module, GroupedQueryAttention) for module in modules):
        kernels |= {attention_kernel(weight.device.type, dtype) for dtype in used}
    if any(isinstance(module, SpatialAttention) for module in modules) and used:
        kernels.add("sdpa")
    facts = {
        "precision": {str(dtype).removeprefix("torch.") for dtype in used},
        "attention": kernels,
    }
    return {name: ", ".join(sorted(found)) for name, found in facts.items() if found}

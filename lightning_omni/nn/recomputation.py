"""What a backward pass recomputes instead of keeping it."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

Recomputation = Literal["none", "selective", "full"]
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
_ATTENTION = "_scaled_dot_product_"
_KERNELS = ("torch_attn", "flash_attn", "flash_attn_3")
"""Namespaces of attention kernels over packed segments."""


def checkpoint_arguments(recomputation: Recomputation) -> dict[str, Any]:
    """Return arguments of `torch.utils.checkpoint.checkpoint` for a block without dropout.

    The generators are not restored, as a block draws nothing.
    """
    arguments: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if recomputation == "selective":
        arguments["context_fn"] = partial(create_selective_checkpoint_contexts, _save_or_recompute)
    return arguments


def _save_or_recompute(_: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Keep what takes long to compute."""
    is_kept = isinstance(op, torch._ops.OpOverload) and (
        op.namespace in _KERNELS
        or (
            op.namespace == "aten"
            and (
                op.overloadpacket.__name__ in _PRODUCTS or _ATTENTION in op.overloadpacket.__name__
            )
        )
    )
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE

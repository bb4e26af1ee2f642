"""CPU performance: choice of the matmul dtype, bfloat16 attention, allocator settings."""

from __future__ import annotations

import ctypes
import functools
import logging
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

log = logging.getLogger(__name__)

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD = -3, -1, -2  # parameters of glibc's mallopt(3)
_NEVER = 2**31 - 1
_GROWTH = 2**26
CPUINFO = Path("/proc/cpuinfo")
MAX_BF16_LENGTH = 1024
"""Longest segment of `bf16_attention`: longer ones save over 12 MB of attention weights per layer
and segment (6 heads)."""


def keep_freed_memory() -> bool:
    """Make glibc's malloc reuse large freed blocks instead of returning them to the kernel.

    Every training step allocates the same large blocks. By default glibc returns each to the
    kernel and the next allocation pays for zeroed pages: filling 60 MB took 27 ms, reusing it
    2.4 ms. The process then keeps its peak size.

    Returns:
        True if the C library supports the setting; otherwise nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((_MMAP_THRESHOLD, _NEVER), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _GROWTH))
    return all(mallopt(name, value) == 1 for name, value in wanted)


@functools.cache
def matmul_dtype(device_type: str) -> torch.dtype:
    """Choose the dtype of matrix products in training: bfloat16 if it is faster, else float32.

    A fixed rule over reported hardware features, not a measurement, so that repeated runs on one
    machine are bitwise equal. bfloat16 is faster with AMX. With AVX512-BF16 only, it is 2 to 4
    times as fast as float32 on AMD and half as fast on Intel.

    Args:
        device_type: `cpu`, `cuda` or another torch device type.
    """
    dtype = torch.float32
    if device_type == "cuda":  # pragma: no cover
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    elif device_type == "cpu" and CPUINFO.is_file():
        dtype = dtype_from_cpuinfo(CPUINFO.read_text())
    log.info("matrix products on %s: %s", device_type, str(dtype).removeprefix("torch."))
    return dtype


def to_autocast_dtype(x: Tensor) -> Tensor:
    """Cast to the autocast dtype, once for all matrix products that follow."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Return a context of float32 products; devices without autocast, such as meta, need none."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def dtype_from_cpuinfo(cpuinfo: str) -> torch.dtype:
    """Apply the rule of `matmul_dtype` to the contents of Linux's `/proc/cpuinfo`."""
    words = set(cpuinfo.split())
    gains = "amx_bf16" in words or {"AuthenticAMD", "avx512_bf16"} <= words
    return torch.bfloat16 if gains else torch.float32


def bf16_attention(
    query: Float[Tensor, "R H K"],
    key: Float[Tensor, "T G K"],
    value: Float[Tensor, "T G K"],
    lengths: tuple[int, ...],
    key_lengths: tuple[int, ...],
) -> Float[Tensor, "R H K"]:
    """Attend within segments on a CPU, with float32 products and softmax.

    Args:
        query: Queries in bfloat16.
        key: Keys in bfloat16; each of the G heads serves H / G query heads.
        value: Values in bfloat16.
        lengths: Number of queries of each segment.
        key_lengths: Number of keys of each segment.
    """
    out: Tensor = _BF16Attention.apply(query, key, value, lengths, key_lengths)
    return out


class _BF16Attention(torch.autograd.Function):
    """Attention with whole-segment matrix products in both passes.

    Inputs and what is kept for the backward pass are bfloat16, products float32: for bfloat16 the
    kernel library would prepare one for each length of a segment, which takes longer than it saves.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lengths: tuple[int, ...],
        key_lengths: tuple[int, ...],
    ) -> Tensor:
        groups = key.shape[1]
        needs_grad = any(ctx.needs_input_grad)
        out = torch.empty_like(query)
        saved = []
        with torch.autocast(query.device.type, enabled=False):
            queries = _split_into_segments(lengths, _scale_query(query), out)
            for (q, o), (k, v) in zip(
                queries, _split_into_segments(key_lengths, key.float(), value.float()), strict=True
            ):
                scores = _group_heads(q, groups) @ k.permute(1, 2, 0)
                weights = scores.softmax(-1)
                o.copy_(_ungroup_heads(weights @ v.transpose(0, 1), q))
                if needs_grad:
                    saved.append(weights.to(query.dtype))
        ctx.save_for_backward(query, key, value, out, *saved)
        ctx.lengths = lengths, key_lengths
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, *saved = ctx.saved_tensors
        lengths, key_lengths = ctx.lengths
        groups, scale = key.shape[1], query.shape[2] ** -0.5
        grads = tuple(torch.empty_like(x) for x in (query, key, value))
        with torch.autocast(query.device.type, enabled=False):
            query_parts = _split_into_segments(
                lengths, _scale_query(query), out.float(), grad.float(), grads[0]
            )
            key_parts = _split_into_segments(key_lengths, key.float(), value.float(), *grads[1:])
            for (q, o, g, g_q), (k, v, g_k, g_v), rounded in zip(
                query_parts, key_parts, saved, strict=True
            ):
                weights = rounded.float()
                rows, g = _group_heads(q, groups), _group_heads(g, groups)
                delta = (_group_heads(o, groups) * g).sum(-1, keepdim=True)
                g_v.transpose(0, 1).copy_(weights.transpose(1, 2) @ g)
                g_scores = (g @ v.permute(1, 2, 0)).sub_(delta).mul_(weights)
                g_q.copy_(_ungroup_heads((g_scores @ k.transpose(0, 1)).mul_(scale), q))
                g_k.transpose(0, 1).copy_(g_scores.transpose(1, 2) @ rows)
        return (*grads, None, None)


def _scale_query(query: Tensor) -> Tensor:
    """Return queries in float32, divided by the root of their size."""
    return query.float().mul_(query.shape[2] ** -0.5)


def _split_into_segments(lengths: tuple[int, ...], *tensors: Tensor) -> Any:
    """Yield one tuple of views per segment."""
    return zip(*(torch.split(x, list(lengths)) for x in tensors), strict=True)


def _group_heads(x: Float[Tensor, "n H K"], groups: int) -> Float[Tensor, "G rn K"]:
    """Stack the r query heads that share a key-value head along the token axis."""
    n, heads, size = x.shape
    shared = heads // groups
    split = x.reshape(n, groups, shared, size).permute(1, 2, 0, 3)
    return split.reshape(groups, shared * n, size)


def _ungroup_heads(
    x: Float[Tensor, "G rn K"], like: Float[Tensor, "n H K"]
) -> Float[Tensor, "n H K"]:
    """Invert `_group_heads`."""
    n, heads, size = like.shape
    groups = len(x)
    return x.view(groups, heads // groups, n, size).permute(2, 0, 1, 3).reshape(n, heads, size)

"""What a CPU needs: bfloat16 where it is faster, and an allocator that keeps freed memory."""

from __future__ import annotations

import ctypes
import functools
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD = -3, -1, -2  # names of glibc's mallopt(3)
_NEVER = 2**31 - 1
_GROWTH = 2**26


def keep_freed_memory() -> bool:
    """Tell glibc to reuse large blocks instead of giving them back.

    A training step asks for the same large blocks again and again. By default glibc returns each to
    the kernel and pays for zeroed pages the next time: filling 60 MB took 27 ms, reusing it 2.4 ms.
    The process then stays as large as it was at its largest.

    Returns:
        Whether the C library has such a setting; where it has not, nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((_MMAP_THRESHOLD, _NEVER), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _GROWTH))
    return all(mallopt(name, value) == 1 for name, value in wanted)


log = logging.getLogger(__name__)

CPU_FACTS = Path("/proc/cpuinfo")


@functools.cache
def matmul_dtype(device_type: str) -> torch.dtype:
    """Format of matrix products in training: bfloat16 where the hardware gains by it, else float32.

    A fixed rule on what the hardware says of itself, never a measurement, so that a run and its
    repetition on one machine compute the same bytes. Processors with AMX gain; of those with
    AVX512-BF16 alone, AMD's run it 2 to 4 times as fast as float32, Intel's half as fast.
    """
    dtype = torch.float32
    if device_type == "cuda":  # pragma: no cover
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    elif device_type == "cpu" and CPU_FACTS.is_file():
        dtype = dtype_for(CPU_FACTS.read_text())
    log.info("matrix products on %s: %s", device_type, str(dtype).removeprefix("torch."))
    return dtype


def as_factor(x: Tensor) -> Tensor:
    """Round to autocast's format, once for all the matrix products that follow."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def dtype_for(cpuinfo: str) -> torch.dtype:
    """Apply the rule to the contents of Linux's `/proc/cpuinfo`."""
    words = set(cpuinfo.split())
    gains = "amx_bf16" in words or {"AuthenticAMD", "avx512_bf16"} <= words
    return torch.bfloat16 if gains else torch.float32


LONGEST = 1024
"""Above this the weights of six heads would take more than 12 MB for each layer and segment."""


def half_attention(
    query: Float[Tensor, "R H K"],
    key: Float[Tensor, "T G K"],
    value: Float[Tensor, "T G K"],
    lengths: tuple[int, ...],
    key_lengths: tuple[int, ...],
) -> Float[Tensor, "R H K"]:
    """Attend within segments; all three tensors in one half-precision format."""
    out: Tensor = _HalfAttention.apply(query, key, value, lengths, key_lengths)
    return out


class _HalfAttention(torch.autograd.Function):
    """Products of whole segments, forwards and backwards."""

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
        keeps = any(ctx.needs_input_grad)
        out = torch.empty_like(query)
        kept = []
        with torch.autocast(query.device.type, enabled=False):
            parts = _segments(lengths, query, out), _segments(key_lengths, key, value)
            for (q, here), (k, v) in zip(*parts, strict=True):
                rows, k, v = _by_group(q, groups), k.transpose(0, 1), v.transpose(0, 1)
                scores = (rows.float() * query.shape[2] ** -0.5) @ k.float().transpose(1, 2)
                weights = scores.softmax(-1).to(query.dtype)
                here.copy_(_by_token(weights @ v, q))
                if keeps:
                    kept.append(weights)
        ctx.save_for_backward(query, key, value, out, *kept)
        ctx.lengths = lengths, key_lengths
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, *kept = ctx.saved_tensors
        lengths, key_lengths = ctx.lengths
        groups, scale = key.shape[1], query.shape[2] ** -0.5
        grads = tuple(torch.empty_like(x) for x in (query, key, value))
        with torch.autocast(query.device.type, enabled=False):
            asking = _segments(lengths, query, out, grad, grads[0])
            answering = _segments(key_lengths, key, value, *grads[1:])
            for (q, o, g, g_q), (k, v, g_k, g_v), weights in zip(
                asking, answering, kept, strict=True
            ):
                delta = (_by_group(o, groups).float() * _by_group(g, groups)).sum(-1, keepdim=True)
                rows, g = _by_group(q, groups), _by_group(g, groups)
                k, v = k.transpose(0, 1), v.transpose(0, 1)
                g_v.transpose(0, 1).copy_(weights.transpose(1, 2) @ g)
                g_scores = (g @ v.transpose(1, 2)).float().sub_(delta).mul_(weights)
                g_scores = g_scores.mul_(scale).to(query.dtype)
                g_q.copy_(_by_token(g_scores @ k, q))
                g_k.transpose(0, 1).copy_(g_scores.transpose(1, 2) @ rows)
        return (*grads, None, None)


def _segments(lengths: tuple[int, ...], *tensors: Tensor) -> Any:
    """Tuples of views, one tuple for each segment."""
    return zip(*(torch.split(x, list(lengths)) for x in tensors), strict=True)


def _by_group(x: Float[Tensor, "n H K"], groups: int) -> Float[Tensor, "G rn K"]:
    """Heads that share a key-value head become rows of it."""
    n, heads, size = x.shape
    shared = heads // groups
    split = x.reshape(n, groups, shared, size).permute(1, 2, 0, 3)
    return split.reshape(groups, shared * n, size)


def _by_token(x: Float[Tensor, "G rn K"], like: Float[Tensor, "n H K"]) -> Float[Tensor, "n H K"]:
    """The way back."""
    n, heads, size = like.shape
    groups = len(x)
    return x.view(groups, heads // groups, n, size).permute(2, 0, 1, 3).reshape(n, heads, size)

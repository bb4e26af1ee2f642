"""Attention of short segments in bfloat16 on CPUs, whose own kernel for it is slow backwards.

Scores and softmax are float32; the weights after it are bfloat16, as in flash attention on GPUs.
They are kept for the backward pass, so memory grows with the square of a segment: this is for
segments of up to `LONGEST` tokens. Query heads that share a key-value head are rows of one product,
so nothing is repeated.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

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

"""Bidirectional attention over packed segments, without a dense L x L mask.

`SegmentLayout` says where segments lie in a flat run of tokens; `segment_attention` picks the
kernel: flash-attn, then torch's varlen kernel on CUDA, and one scaled-dot-product call per segment
elsewhere. All of them are exact.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SegmentLayout:
    """Segment lengths of a flat run of tokens, in order.

    `lengths` steers loops on the host; `cu_seqlens` (Int32[N + 1], on the device) steers kernels.
    """

    lengths: tuple[int, ...]
    cu_seqlens: Tensor

    @classmethod
    def of(
        cls, lengths: list[int] | tuple[int, ...], *, device: torch.device | str
    ) -> SegmentLayout:
        """Build the layout from lengths."""
        ends = torch.tensor((0, *lengths), dtype=torch.int64).cumsum(0)
        return cls(tuple(lengths), ends.to(torch.int32).to(device))

    @property
    def max_length(self) -> int:
        """Length of the longest segment."""
        return max(self.lengths)


class LayerMemory:
    """Keys and values of one layer that outlive a pass.

    Args:
        live: Places of the tokens that later passes bring up to date, Int[R].
        layout: Where the segments of all tokens lie.
    """

    def __init__(self, live: Tensor, layout: SegmentLayout) -> None:
        self.live, self.layout = live, layout
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Take in the keys and values of a pass and return those of all tokens."""
        if self.key is None or self.value is None:
            self.key, self.value = key.clone(), value.clone()
        else:
            self.key[self.live], self.value[self.live] = key, value
        return self.key, self.value


@functools.cache
def attention_backend(device_type: str) -> str:
    """Name the kernel used on a device: `flash_attn`, `varlen` or `sdpa`; logged once."""
    backend = "sdpa"
    if device_type == "cuda":  # pragma: no cover
        if importlib.util.find_spec("flash_attn") is not None:
            backend = "flash_attn"
        elif importlib.util.find_spec("torch.nn.attention.varlen") is not None:
            backend = "varlen"
    log.info("attention backend on %s: %s", device_type, backend)
    return backend


def segment_attention(
    query: Float[Tensor, "R H K"],
    key: Float[Tensor, "T G K"],
    value: Float[Tensor, "T G K"],
    layout: SegmentLayout,
    key_layout: SegmentLayout | None = None,
) -> Float[Tensor, "R H K"]:
    """Attend within each segment only; G key-value heads serve H query heads.

    Args:
        query: Of the tokens that ask.
        key: Of the tokens that answer.
        value: Of the same.
        layout: Where the segments lie among the tokens that ask.
        key_layout: The same among those that answer; None if they are the same tokens.
    """
    key_layout = key_layout or layout
    backend = attention_backend(query.device.type)
    half = query.dtype in (torch.float16, torch.bfloat16)
    if backend == "flash_attn" and half:  # pragma: no cover
        return _flash(query, key, value, layout, key_layout)
    if backend == "varlen" and half:  # pragma: no cover
        return _varlen(query, key, value, layout, key_layout)
    return _per_segment(query, key, value, layout, key_layout)


def _per_segment(
    query: Tensor, key: Tensor, value: Tensor, layout: SegmentLayout, key_layout: SegmentLayout
) -> Tensor:
    """One product per segment; bfloat16 is widened, as its CPU kernel is 4 times slower."""
    if query.device.type == "cpu" and query.dtype is torch.bfloat16:
        with torch.autocast("cpu", enabled=False):
            query, key, value = (x.float() for x in (query, key, value))
            return _per_segment(query, key, value, layout, key_layout).to(torch.bfloat16)
    key, value = _one_per_query_head(query, key, value)
    if len(set(layout.lengths)) == len(set(key_layout.lengths)) == 1:
        return _all_at_once(query, key, value, layout, key_layout)
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
    q_parts = torch.split(q, list(layout.lengths), 2)
    k_parts, v_parts = (torch.split(x, list(key_layout.lengths), 2) for x in (k, v))
    parts = [
        F.scaled_dot_product_attention(*qkv)
        for qkv in zip(q_parts, k_parts, v_parts, strict=True)
        if qkv[0].shape[2]
    ]
    return torch.cat(parts, dim=2).squeeze(0).transpose(0, 1)


def _all_at_once(
    query: Tensor, key: Tensor, value: Tensor, layout: SegmentLayout, key_layout: SegmentLayout
) -> Tensor:
    """Segments of one length are a batch."""
    q = query.reshape(len(layout.lengths), -1, *query.shape[1:]).transpose(1, 2)
    shape = len(key_layout.lengths), -1, *key.shape[1:]
    k, v = (x.reshape(shape).transpose(1, 2) for x in (key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(query.shape)


def _flash(
    query: Tensor, key: Tensor, value: Tensor, layout: SegmentLayout, key_layout: SegmentLayout
) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    extents = _extents(layout, key_layout)
    out: Tensor = flash_attn_varlen_func(query, key, value, *extents, dropout_p=0.0, causal=False)
    return out


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, layout: SegmentLayout, key_layout: SegmentLayout
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    key, value = _one_per_query_head(query, key, value)
    out = varlen_attn(query, key, value, *_extents(layout, key_layout))
    return out if isinstance(out, Tensor) else out[0]


def _extents(layout: SegmentLayout, key_layout: SegmentLayout) -> tuple[Tensor, Tensor, int, int]:
    """Where segments begin and how long the longest is, as variable-length kernels take it."""
    return layout.cu_seqlens, key_layout.cu_seqlens, layout.max_length, key_layout.max_length


def _one_per_query_head(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat the key-value heads that groups of query heads share."""
    groups = query.shape[1] // key.shape[1]
    if groups == 1:
        return key, value
    return key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)


class GroupedQueryAttention(nn.Module):
    """Multi-head attention whose key-value heads are shared by groups of query heads.

    Source: GQA, arXiv:2305.13245; query-key norm, arXiv:2302.05442 section 3.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        num_kv_heads: int,
        qkv_bias: bool,
        qk_norm: bool,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.head_dim = dim // num_heads
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        kv_dim = num_kv_heads * self.head_dim
        self.q_proj = nn.Linear(dim, dim, bias=qkv_bias)
        self.k_proj = nn.Linear(dim, kv_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(dim, kv_dim, bias=qkv_bias)
        self.o_proj = nn.Linear(dim, dim, bias=False)
        self.q_norm = nn.RMSNorm(self.head_dim, eps=norm_eps) if qk_norm else None
        self.k_norm = nn.RMSNorm(self.head_dim, eps=norm_eps) if qk_norm else None

    def forward(
        self,
        x: Float[Tensor, "T D"],
        cos: Float[Tensor, "T K"],
        sin: Float[Tensor, "T K"],
        layout: SegmentLayout,
        memory: LayerMemory | None = None,
    ) -> Float[Tensor, "T D"]:
        """Mix tokens within their segment; `cos` and `sin` are the rotary tables.

        With a filled `memory` the tokens given are the live ones of `memory.layout`; without one
        they are all, and are remembered.
        """
        query = self.q_proj(x).unflatten(-1, (self.num_heads, self.head_dim))
        key = self.k_proj(x).unflatten(-1, (self.num_kv_heads, self.head_dim))
        value = self.v_proj(x).unflatten(-1, (self.num_kv_heads, self.head_dim))
        if self.q_norm is not None and self.k_norm is not None:
            query = self.q_norm(query.float()).to(value.dtype)
            key = self.k_norm(key.float()).to(value.dtype)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        key_layout = layout
        if memory is not None:
            key, value = memory.update(key, value)
            key_layout = memory.layout
        mixed = segment_attention(query, key, value, layout, key_layout)
        out: Tensor = self.o_proj(mixed.flatten(1))
        return out


def rotate(
    x: Float[Tensor, "T H K"], cos: Float[Tensor, "T K"], sin: Float[Tensor, "T K"]
) -> Float[Tensor, "T H K"]:
    """Rotate pairs (i, i + K/2) of each head by the token's angles, in the dtype of `x`.

    Source: RoFormer, arXiv:2104.09864, in the half-rotation form.
    """
    first, second = x.chunk(2, dim=-1)
    cos, sin = (table[:, None].to(x.dtype) for table in (cos, sin))
    turned = torch.cat((-second, first), dim=-1)
    return torch.addcmul(x * cos, turned, sin)
